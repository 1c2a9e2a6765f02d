"""The semi-supervised program as its users see it; what it shares with others is tested there."""

import json
import signal

import keras
import numpy as np
import programs
import pytest
import tensorflow as tf
from programs import run
from run_folders import KILLER, assert_same_end, rows_of
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import tf_direct_opt
from tf_direct_opt.runs import batches

PROGRAM = "examples/train_semi_supervised.py"
SMALL = (
    "--epochs=4", "--label_epochs=2", "--num_labels=50", "--hidden_units=32", "--gaussian_dim=4",
    "--max_shift=1", "--max_rotation=5", "--verbose=0", "--deterministic",
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
        "checkpoints", "codes.png", "confusion.png", "flags.txt", "history.csv", "metrics.json",
        "model.keras", "tensorboard",
    }  # fmt: skip
    metrics = json.loads((folder / "metrics.json").read_text())
    assert line["test"] == metrics["test"]
    assert (line["num_labels"], line["estimator"], line["supervised"]) == (50, "direct", False)
    assert set(metrics["test"]) == {
        "negative_elbo", "reconstruction", "kl", "importance_weighted_nll", "accuracy",
        "code_perplexity", "bits_per_dimension",
    }  # fmt: skip
    counts = np.array(metrics["confusion_matrix"])
    assert counts.shape == (10, 10)
    assert counts.sum() == 180
    assert np.trace(counts) / 180 == pytest.approx(metrics["test"]["accuracy"], abs=1e-6)
    assert metrics["flags"]["label_epochs"] == 2
    # Ten draws under ten classes: 10 x 10 images of 8 + 1 pixels, four times as large.
    picture = tf.io.decode_png((folder / "codes.png").read_bytes())
    assert picture.shape == (10 * 9 * 4, 10 * 9 * 4, 1)


@pytest.mark.slow
def test_learns_from_the_images_without_labels(tmp_path):
    # Digits, 100 labels, one seed: 0.85 against 0.82 and 1/10 by chance.
    flags = ("--epochs=20", "--label_epochs=6", "--num_labels=100", "--hidden_units=100")
    line = train(*flags, f"--output_dir={tmp_path / 'both'}")
    assert line["test"]["accuracy"] > 0.75
    alone = train(*flags, "--supervised", f"--output_dir={tmp_path / 'alone'}")
    assert alone["test"]["accuracy"] > 0.7
    # Its decoder never saw an image.
    assert alone["test"]["negative_elbo"] > 40 > line["test"]["negative_elbo"]


@pytest.mark.slow
def test_killed_and_resumed_it_ends_the_same(finished, tmp_path):
    folder, _ = finished
    flags = (*SMALL, f"--output_dir={tmp_path / 'run'}", "--resume")
    prelude = KILLER.format(moment="before the third checkpoint is renamed")
    code, _, err = run(PROGRAM, *flags, prelude=prelude)
    assert code == -signal.SIGKILL, err
    programs.train(PROGRAM, *flags)
    assert_same_end(folder, tmp_path / "run")


def test_event_files_have_the_accuracy_the_classes_and_the_confusion(finished):
    folder, _ = finished
    logs = folder / "tensorboard"
    for part, column in (("train", "accuracy"), ("validation", "val_accuracy")):
        series = EventAccumulator(str(logs / part)).Reload().Tensors("epoch_accuracy")
        np.testing.assert_allclose(
            [tf.make_ndarray(event.tensor_proto) for event in series],
            [float(row[column]) for row in rows_of(folder)],
            rtol=1e-6,
        )
    events = EventAccumulator(str(logs / "images")).Reload()
    sides = {"inputs": 45, "reconstructions": 45, "prior_samples": 45, "codes": 90, "confusion": 81}
    for name, side in sides.items():
        series = events.Tensors(name)
        assert [event.step for event in series] == [0, 1, 2, 3]
        assert tf.io.decode_png(tf.make_ndarray(series[-1].tensor_proto)[2]).shape[1] == side


def test_saved_model_gives_the_figures_of_the_run(finished):
    import data

    folder, line = finished
    model = keras.saving.load_model(folder / "model.keras", safe_mode=True)
    assert isinstance(model, tf_direct_opt.models.MixtureVAE)
    digits = data.load("digits")
    test = model.evaluate(
        batches.evaluation_batches(digits.test, digits.labels["test"]), verbose=0, return_dict=True
    )
    assert test["loss"] == pytest.approx(line["test"]["negative_elbo"], rel=1e-6)
    assert test["accuracy"] == pytest.approx(line["test"]["accuracy"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        ["--estimator=gumbel_softmax", "--label_loss=cross_entropy"],
        ["--encoder=conv", "--label_cost=100", "--epochs=10", "--label_epochs=6"],
    ],
)
def test_other_choices_train(tmp_path, flags):
    line = train(*flags, f"--output_dir={tmp_path / 'run'}")
    assert np.isfinite(line["test"]["negative_elbo"])
    assert line["test"]["accuracy"] > 0.3
