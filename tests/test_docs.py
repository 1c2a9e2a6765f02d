"""The pages are all in the site, lead somewhere, and what they show runs."""

import functools
import pathlib
import re

import pytest
from programs import run

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
TEXTS = [*PAGES, *ROOT.glob("*.md")]


def name(path):
    return path.relative_to(ROOT).as_posix()


def blocks(page):
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def headings(page):
    """The anchors of a page's headings, as the site makes them."""
    lines = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", line).strip().lower()) for line in lines}


def test_every_page_is_in_the_site():
    nav = (ROOT / "mkdocs.yml").read_text().split("\nnav:\n")[1]
    listed = re.findall(r": (\S+\.md)$", nav, re.MULTILINE)
    assert sorted(listed) == [page.relative_to(DOCS).as_posix() for page in PAGES]


@pytest.mark.parametrize("text", TEXTS, ids=name)
def test_links_lead_somewhere(text):
    for link, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]+))?\)", text.read_text()):
        target = text.parent / link if link else text
        assert target.exists(), link
        # A dotted anchor is an object of the API, which the site looks for.
        if anchor and "." not in anchor:
            assert anchor in headings(target), f"{link}#{anchor}"


@pytest.mark.parametrize("text", TEXTS, ids=name)
def test_programs_and_files_that_it_names_are_there(text):
    pattern = r"\b(?:examples|experiments|benchmarks|flags|tests|docs)/[\w./]*\w\.\w+"
    for path in re.findall(pattern, text.read_text()):
        assert (ROOT / path).exists(), path


@functools.cache
def flags_of(path):
    """The names of the flags of a program, read off its source and those that it imports."""
    text = path.read_text()
    found = set(re.findall(r"DEFINE_\w+\(\s*\"(\w+)\"", text))
    for line in re.findall(r"^ *(?:from tf_direct_opt\.runs )?import (.+)$", text, re.MULTILINE):
        for module in re.findall(r"\w+", line):
            for folder in ("examples", "experiments", "tf_direct_opt/runs"):
                other = ROOT / folder / f"{module}.py"
                if other.exists() and other != path:
                    found |= flags_of(other)
    return found


@pytest.mark.parametrize("text", TEXTS, ids=name)
def test_flags_of_its_commands_are_there(text):
    joined = text.read_text().replace("\\\n", " ")  # Commands that go on in the next line.
    pattern = r"python ((?:examples|experiments|benchmarks)/\w+\.py)([^`\n]*)"
    for program, arguments in re.findall(pattern, joined):
        for flag in re.findall(r" --(\w+)", arguments):
            known = {"flagfile", "help", *flags_of(ROOT / program)}
            assert {flag, flag.removeprefix("no")} & known, (flag, program)


# Those whose blocks take longest.
SLOW = (
    "index.md", "candidates.md", "extending.md", "tutorials/discrete_vae.md",
    "tutorials/your_solver.md",
)  # fmt: skip

# What the blocks of a page print, run from the first to the last.


def chosen_columns(output, _):
    assert "columns [2, 5, 7]" in output
    error, variance = map(float, re.search(r"error ([\d.]+) of ([\d.]+)", output).groups())
    assert error < 0.05 * variance


def bounds_of_digits(output, _):
    exact = float(re.search(r"'loss': ([\d.]+)", output).group(1))
    bound = float(re.search(r"at most ([\d.]+) nats", output).group(1))
    # Sixty-four independent pixels at their means take 24.4 nats.
    assert 15 < exact < 24
    assert 15 < bound < 22.5


def objects_of_ones_own(output, _):
    code = [float(bit) for bit in re.findall(r"[01]\.(?=[\s\]])", output.split("]]")[0] + "]")]
    assert sum(code[:4]) == sum(code[4:]) == 2.0
    assert float(re.search(r"bit 2: ([\d.]+)", output).group(1)) > 0.9
    first, last = map(float, re.search(r"([\d.]+) nats, ([\d.]+) after", output).groups())
    assert last < 0.7 * first


def regret_of_routes(output, folder):
    before, after = map(int, re.search(r"(\d+)% before, (\d+)% after", output).groups())
    assert after < 0.5 * before
    assert {path.name for path in folder.iterdir()} == {"learnt_path.png", "town.keras"}


def a_run(output, folder):
    losses = [float(loss) for loss in re.findall(r"val_loss: ([\d.]+)", output)]
    assert 15 < losses[-1] < 23.5  # Independent pixels take 24.4 nats.
    left = {path.name for path in (folder / "runs/digits").iterdir()}
    assert {"tensorboard", "history.csv", "metrics.json", "model.keras", "checkpoints"} <= left


def nothing_printed(output, folder):
    assert output == ""
    assert not list(folder.iterdir())


CHECKS = {
    "candidates.md": nothing_printed,
    "index.md": a_run,
    "tutorials/layer.md": chosen_columns,
    "tutorials/discrete_vae.md": bounds_of_digits,
    "tutorials/your_solver.md": regret_of_routes,
    "extending.md": objects_of_ones_own,
}


@pytest.mark.parametrize(
    ("page", "check"),
    [
        pytest.param(page, check, marks=[pytest.mark.slow] if page in SLOW else [], id=page)
        for page, check in CHECKS.items()
    ],
)
def test_what_it_shows_runs(page, check, tmp_path):
    program, folder = tmp_path / "page.py", tmp_path / "empty"
    program.write_text("\n".join(blocks(DOCS / page)))
    folder.mkdir()
    code, out, err = run(program, cwd=folder)
    assert code == 0, err
    check(out, folder)


def test_every_page_with_code_is_run():
    with_code = {page.relative_to(DOCS).as_posix() for page in PAGES if blocks(page)}
    assert with_code == set(CHECKS)
