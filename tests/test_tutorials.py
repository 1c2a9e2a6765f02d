"""The tutorials are programs: their blocks run from the first to the last, in one process."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
TUTORIALS = sorted((ROOT / "docs/tutorials").glob("*.md"))


def run(tutorial, folder):
    """What the blocks of a tutorial print, run in `folder`."""
    blocks = re.findall(r"^```python\n(.*?)^```", tutorial.read_text(), re.DOTALL | re.MULTILINE)
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(blocks)],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "agg"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_your_solver(tmp_path):
    output = run(ROOT / "docs/tutorials/your_solver.md", tmp_path)
    before, after = map(int, re.search(r"(\d+)% before, (\d+)% after", output).groups())
    assert after < 0.5 * before
    assert {path.name for path in tmp_path.iterdir()} == {"learnt_path.png", "town.keras"}


@pytest.mark.parametrize("tutorial", TUTORIALS, ids=lambda path: path.stem)
def test_every_tutorial_is_run_above_and_its_links_lead_somewhere(tutorial):
    assert f"test_{tutorial.stem}" in globals()
    for link in re.findall(r"\]\((?!http)([^)#]+)", tutorial.read_text()):
        assert (tutorial.parent / link).exists(), link
