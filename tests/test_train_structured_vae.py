"""The structured program as its users see it; what it shares with train_vae is tested there."""

import json
import signal

import programs
import pytest
from programs import ROOT, run
from run_folders import KILLER, assert_same_end

from tf_direct_opt.runs import presets

PROGRAM = "examples/train_structured_vae.py"
SMALL = (
    "--n=5", "--epochs=4", "--warmup_epochs=2", "--hidden_units=16", "--watch_every=2",
    "--verbose=0", "--deterministic",
)  # fmt: skip


def train(*arguments):
    return programs.train(PROGRAM, *SMALL, *arguments)


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
        "code_perplexity", "bits_per_dimension",
    }  # fmt: skip
    first = presets.of("averaged", alone=False, epochs=4)["epsilon"]
    assert metrics["schedules"]["epsilon"]["config"]["values"] == [first, 0.001]
    assert (metrics["flags"]["averaged"], metrics["flags"]["num_candidates"]) == (True, 8)
    assert metrics["flags"]["solver"] == "enumerate"


@pytest.mark.slow  # The code of test_train_vae.py, where it is not.
def test_killed_and_resumed_it_ends_the_same(finished, tmp_path):
    folder, _ = finished
    flags = (*SMALL, f"--output_dir={tmp_path / 'run'}", "--resume")
    prelude = KILLER.format(moment="before the third checkpoint is renamed")
    code, _, err = run(PROGRAM, *flags, prelude=prelude)
    assert code == -signal.SIGKILL, err
    programs.train(PROGRAM, *flags)
    assert_same_end(folder, tmp_path / "run")


def test_flagfiles_compare_like_with_like():
    for dataset in ("mnist", "fashion_mnist"):
        given = {}
        for kind in ("structured", "unstructured"):
            text = (ROOT / f"flags/{kind}_{dataset}.flags").read_text()
            given[kind] = dict(
                line.lstrip("-").split("=") for line in text.splitlines() if line[:2] == "--"
            )
            assert given[kind]["dataset"] == dataset
        differing = set(given["structured"].items()) ^ set(given["unstructured"].items())
        assert {name for name, _ in differing} == {"structure"}
