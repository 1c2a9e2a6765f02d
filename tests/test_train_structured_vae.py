"""The structured program as its users see it; what it shares with train_vae is tested there."""

import json
import pathlib
import signal
import textwrap

import pytest
from test_train_vae import KILLER, ROOT, assert_refused_at_once, assert_same_end, run

PROGRAM = ("examples/train_structured_vae.py",)
SMALL = (
    "--n=5", "--epochs=4", "--warmup_epochs=2", "--hidden_units=16", "--watch_every=2",
    "--verbose=0", "--deterministic",
)  # fmt: skip


def train(*arguments):
    code, out, err = run(*SMALL, *arguments, program=PROGRAM)
    assert code == 0, err
    return json.loads(out.splitlines()[-1])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return folder, train(f"--output_dir={folder}")


def test_leaves_its_results_and_ends_with_their_json(finished):
    folder, line = finished
    assert {path.name for path in folder.iterdir()} == {
        "checkpoints", "codes.png", "flags.txt", "history.csv", "metrics.json", "model.keras",
        "tensorboard",
    }  # fmt: skip
    metrics = json.loads((folder / "metrics.json").read_text())
    assert (line["n"], line["structure"]) == (5, "pairwise")
    assert line["test"] == metrics["test"]
    assert set(metrics["test"]) == {
        "negative_elbo", "reconstruction", "kl", "entropy", "unary_kl",
        "perturbed_reconstruction", "importance_weighted_nll", "negative_log_likelihood",
        "code_perplexity",
    }  # fmt: skip
    assert metrics["schedules"]["epsilon"] == 0.2
    assert metrics["flags"]["solver"] == "enumerate"


@pytest.mark.slow  # The code of test_train_vae.py, where it is not.
def test_killed_and_resumed_it_ends_the_same(finished, tmp_path):
    folder, _ = finished
    directory = tmp_path / "run"
    killer = textwrap.dedent(KILLER).replace("train_vae.py", "train_structured_vae.py")
    program = ("-c", killer, "before the third checkpoint is renamed")
    code, _, err = run(*SMALL, f"--output_dir={directory}", program=program)
    assert code == -signal.SIGKILL, err
    train(f"--output_dir={directory}", "--resume")
    assert_same_end(folder, directory)


def test_flagfiles_compare_like_with_like():
    # That they name flags of the program is tested with all others in test_train_vae.py.
    for dataset in ("mnist", "fashion_mnist"):
        given = {}
        for kind in ("structured", "unstructured"):
            text = pathlib.Path(ROOT / f"flags/{kind}_{dataset}.flags").read_text()
            given[kind] = dict(
                line.lstrip("-").split("=") for line in text.splitlines() if line[:2] == "--"
            )
            assert given[kind]["dataset"] == dataset
        differing = set(given["structured"].items()) ^ set(given["unstructured"].items())
        assert {name for name, _ in differing} == {"structure"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--n=0"], "n"),
        (["--n=21"], "Expected --n of at most 20 with --solver=enumerate"),
        (
            ["--n=21", "--structure=none", "--perturbation=configurations"],
            "Expected --n of at most 20 with --perturbation=configurations",
        ),
        (["--num_candidates=1"], "num_candidates"),
        (["--structure=tree"], "value should be one of <pairwise|none>"),
        (["--solver=maxflow", "--perturbation=configurations"], "Expected --solver=enumerate with"),
        (["--solver=maxflow", "--perturbation=all"], "Expected --perturbation=unary with"),
        (["--solver=maxflow", "--nononnegative"], "Expected --nonnegative couplings"),
        (["--solver=milp", "--jit_compile"], "Expected --nojit_compile"),
        (["--watch_every=0"], "watch_every"),
    ],
)
def test_bad_command_line_is_one_clear_error_within_five_seconds(arguments, message):
    assert_refused_at_once(message, *arguments, program=PROGRAM)
