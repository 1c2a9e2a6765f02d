"""What the README says is what happens."""

import pathlib
import re

from programs import run

import tf_direct_opt as tdo

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def output_of(snippet, folder):
    (folder / "snippet.py").write_text(snippet)
    code, out, err = run(folder / "snippet.py")
    assert code == 0, err
    return out


def test_it_is_one_page():
    assert len(README.encode()) <= 8192


def test_every_snippet_is_short_and_tested_below():
    for snippet, name in zip(
        SNIPPETS, ("PerturbedArgmax", "DiscreteVAE", "DecisionLoss"), strict=True
    ):
        assert name in snippet
        assert len(snippet.splitlines()) <= 20


def test_the_layer_snippet_runs(tmp_path):
    output = output_of(SNIPPETS[0], tmp_path)
    losses = [float(loss) for loss in re.findall(r" loss: ([0-9.]+)", output)]
    # The entropy of the average image is 0.46 nats a pixel.
    assert losses[-1] < 0.4


def test_the_snippet_of_the_vae_runs(tmp_path):
    output = output_of(SNIPPETS[1], tmp_path)
    losses = [float(loss) for loss in re.findall(r" loss: ([0-9.]+)", output)]
    assert losses[-1] < losses[0] < 64 * 0.7  # log 2 a pixel is a coin's.


def test_the_snippet_of_decisions_runs(tmp_path):
    output = output_of(SNIPPETS[2], tmp_path)
    regrets = [float(regret) for regret in re.findall(r" regret: ([0-9.]+)", output)]
    assert regrets[-1] < 0.5 * regrets[0]


def test_ci_runs_the_lines_of_the_readme():
    ci = (ROOT / ".ci/run").read_text()
    lines = [line.strip() for line in README.splitlines() if "python -m pip install -e" in line]
    assert len(lines) == 2
    for line in lines:
        for command in line.split(" && "):
            assert command in ci, command


def test_public_names():
    for name in tdo.__all__:
        assert hasattr(tdo, name), name
    assert re.fullmatch(r"\d+\.\d+\.\d+", tdo.__version__)
