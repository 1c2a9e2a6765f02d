"""The program as its users see it: processes, files, exit codes."""

import json
import random
import shutil
import signal
import time

import keras
import numpy as np
import programs
import pytest
import tensorflow as tf
from programs import ROOT, run
from run_folders import KILLER, assert_one_line, assert_same_end, checkpoints_of, rows_of
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import tf_direct_opt  # Registers the classes that a saved model names.
from tf_direct_opt.runs import batches

PROGRAM = "examples/train_vae.py"
SMALL = ("--k=5", "--epochs=4", "--warmup_epochs=2", "--hidden_units=16", "--verbose=0")


def train(*arguments, **options):
    return programs.train(PROGRAM, *SMALL, *arguments, **options)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of one whole run on digits, and the JSON line it ended with.

    While it went on, another process wanted the same folder.
    """
    folder = tmp_path_factory.mktemp("runs") / "whole"
    flags = (*SMALL, f"--output_dir={folder}", "--deterministic")
    first = programs.Program(PROGRAM, flags)
    programs.wait_until((folder / ".lock").exists, first)
    code, _, err = run(PROGRAM, *flags, "--resume")
    assert code == 1
    assert_one_line(err, "Expected a folder that no other process is filling; received")
    code, out, err = first.wait()
    assert code == 0, err
    return folder, json.loads(out.splitlines()[-1])


def test_leaves_its_results_and_ends_with_their_json(finished):
    folder, line = finished
    assert {path.name for path in folder.iterdir()} == {
        "checkpoints", "codes.png", "flags.txt", "history.csv", "metrics.json", "model.keras",
        "tensorboard",
    }  # fmt: skip
    metrics = json.loads((folder / "metrics.json").read_text())
    assert line["test"] == metrics["test"]
    assert line["k"] == 5
    assert set(metrics["test"]) == {
        "negative_elbo", "negative_log_likelihood", "reconstruction", "kl", "code_perplexity",
        "bits_per_dimension",
    }  # fmt: skip
    assert metrics["seed"] == 0
    assert metrics["epochs"] == 4
    assert metrics["seconds_per_epoch"] > 0
    assert metrics["schedules"]["kl_weight"]["config"]["values"] == [0.0, 1.0]
    assert metrics["schedules"]["epsilon"]["config"]["boundaries"] == [27]
    assert metrics["versions"]["tensorflow"] == tf.__version__
    assert metrics["num_images"] == {"train": 1437, "valid": 180, "test": 180}
    rows = rows_of(folder)
    assert [float(row["epoch"]) for row in rows] == [0, 1, 2, 3]
    assert [float(row["kl_weight"]) for row in rows] == [0, 0, 1, 1]
    picture = tf.io.decode_png((folder / "codes.png").read_bytes())
    assert picture.shape == (2 * 9 * 4, 3 * 9 * 4, 1)


def test_data_and_networks_as_other_papers_have_them(tmp_path):
    code, out, err = run(
        PROGRAM, *SMALL, "--num_variables=2", "--temperature=0.3", "--epochs=2",
        "--warmup_epochs=1", "--binarize=bernoulli", "--num_train=300", "--encoder_units=12,12",
        "--decoder_units=", "--optimizer=radam", "--eval_samples=3", f"--output_dir={tmp_path}",
    )  # fmt: skip
    assert code == 0, err
    assert "note: --temperature changes nothing for --estimator=direct." in err
    line = json.loads(out.splitlines()[-1])
    assert np.isfinite(line["test"]["importance_weighted_nll"])
    assert json.loads((tmp_path / "metrics.json").read_text())["num_images"]["train"] == 300
    model = keras.models.load_model(tmp_path / "model.keras")
    shapes = [tuple(weight.shape) for weight in model.trainable_variables if weight.ndim == 2]
    assert shapes == [(64, 12), (12, 12), (12, 10), (10, 64)]
    assert model.num_eval_samples == 3
    assert type(model.optimizer).__name__ == "RAdam"


def test_saved_model_gives_the_figures_of_the_run(finished):
    import data

    folder, line = finished
    model = keras.saving.load_model(folder / "model.keras", safe_mode=True)
    assert isinstance(model, tf_direct_opt.models.DiscreteVAE)
    test = model.evaluate(
        batches.evaluation_batches(data.load("digits").test), verbose=0, return_dict=True
    )
    assert test["loss"] == pytest.approx(line["test"]["negative_elbo"], rel=1e-6)


def test_event_files_have_every_scalar_once_an_epoch_and_images(finished):
    folder, _ = finished
    logs = folder / "tensorboard"
    expected = {
        "train": ["loss", "reconstruction", "kl", "epsilon", "kl_weight", "flip_rate"],
        "validation": ["loss", "reconstruction", "kl", "negative_log_likelihood"],
    }
    rows = rows_of(folder)
    for part, names in expected.items():
        events = EventAccumulator(str(logs / part)).Reload()
        for name in [*names, "code_perplexity"]:
            series = events.Tensors(f"epoch_{name}")
            assert [event.step for event in series] == [0, 1, 2, 3]
            column = name if part == "train" else f"val_{name}"
            np.testing.assert_allclose(
                [tf.make_ndarray(event.tensor_proto) for event in series],
                [float(row[column]) for row in rows],
                rtol=1e-6,
            )
    events = EventAccumulator(str(logs / "images")).Reload()
    sides = {"inputs": 45, "reconstructions": 45, "prior_samples": 45, "codes": 27}
    for name, side in sides.items():
        series = events.Tensors(name)
        assert [event.step for event in series] == [0, 1, 2, 3]
        image = tf.io.decode_png(tf.make_ndarray(series[-1].tensor_proto)[2])
        assert image.shape[1] == side
        assert len(np.unique(image)) > 2 or name == "inputs"


@pytest.mark.slow
def test_flags_file_repeats_the_run(finished, tmp_path):
    folder, _ = finished
    code, _, err = run(
        PROGRAM, f"--flagfile={folder / 'flags.txt'}", f"--output_dir={tmp_path / 'again'}"
    )
    assert code == 0, err
    assert_same_end(folder, tmp_path / "again")


# The disk is full when the second checkpoint is written.
FULL_DISK = """
import errno, os
replace = os.replace

def fail(source, target):
    if "epoch-00002" in str(target):
        raise OSError(errno.ENOSPC, "No space left on device", str(target))
    replace(source, target)

os.replace = fail
"""

# What is left of the checkpoints of a run that is killed at the worst moments there are.
MOMENTS = {
    "while the third checkpoint is written": [1, 2],
    "before the third checkpoint is renamed": [1, 2],
    "before the history is renamed": [1, 2],
    "before the second checkpoint is deleted": [2, 3, 4],
    "while the model is saved": [2, 3, 4],
}


@pytest.mark.parametrize(
    "moments",
    [
        ["before the third checkpoint is renamed"],
        pytest.param([*MOMENTS], marks=pytest.mark.slow),
    ],
    ids=["one kill", "all kills"],
)
def test_killed_and_resumed_it_ends_the_same(finished, tmp_path, moments):
    folder, _ = finished
    directory = tmp_path / "run"
    flags = [*SMALL, "--deterministic", f"--output_dir={directory}", "--resume"]
    for moment in moments:
        code, _, err = run(PROGRAM, *flags, prelude=KILLER.format(moment=moment))
        assert code == -signal.SIGKILL, (moment, err)
        names = sorted(path.name for path in (directory / "checkpoints").glob("epoch-*"))
        assert [int(name.split("-")[1]) for name in names] == MOMENTS[moment], moment
        assert not (directory / "metrics.json").exists()
        assert not (directory / "model.keras").exists()
    foreign = directory / ".tmp-notes.txt"
    foreign.write_text("mine")
    programs.train(PROGRAM, *flags)
    assert_same_end(folder, directory)
    assert foreign.read_text() == "mine"
    foreign.unlink()
    assert {path.name for path in directory.iterdir()} == {path.name for path in folder.iterdir()}
    assert not list((directory / "checkpoints").glob("unfinished*"))


@pytest.mark.slow
def test_mirrored_on_one_device_is_the_plain_run(finished, tmp_path):
    _, line = finished
    directory = f"--output_dir={tmp_path / 'run'}"
    mirrored = train(directory, "--distribute=mirrored", "--steps_per_execution=7")
    assert mirrored["test"]["negative_elbo"] == pytest.approx(
        line["test"]["negative_elbo"], rel=1e-3
    )


@pytest.mark.slow
@pytest.mark.parametrize("jit_compile", ["--jit_compile", "--nojit_compile"])
def test_divergence_is_one_clear_error(tmp_path, jit_compile):
    directory = tmp_path / "run"
    flags = (*SMALL, f"--output_dir={directory}", jit_compile, "--learning_rate=1e30")
    code, _, err = run(PROGRAM, *flags)
    assert code == 1
    assert "error: Expected finite logits and losses; received others: training diverged." in err
    assert "Traceback" not in err
    assert not (directory / "metrics.json").exists()


def test_folder_of_another_run_is_a_clear_error(finished):
    folder, _ = finished
    lines = [
        (*SMALL, f"--output_dir={folder}"),
        (*SMALL, f"--output_dir={folder}", "--resume", "--learning_rate=0.1"),
    ]
    holds, other = programs.refusals(PROGRAM, lines)
    assert "holds a run already. Please add --resume" in holds[2]
    assert "Expected the flags of the run" in other[2]
    assert "--learning_rate=0.1" in other[2]


def test_a_run_that_has_more_epochs_than_were_asked_for(finished, tmp_path):
    folder = shutil.copytree(finished[0], tmp_path / "run")
    newest = checkpoints_of(folder)[-1]
    newest.rename(newest.with_name(newest.name.replace("00004", "00005")))
    history = folder / "history.csv"
    row = history.read_text().splitlines()[-1]
    history.write_text(history.read_text() + "4" + row[1:] + "\n")
    flags = (*SMALL, "--deterministic", f"--output_dir={folder}", "--resume")
    code, _, err = run(PROGRAM, *flags)
    assert code == 1
    assert_one_line(err, "Expected a run of at most 4 --epochs", "5 finished ones")


@pytest.mark.slow
def test_full_disk_is_one_line_and_the_run_goes_on(finished, tmp_path):
    flags = (*SMALL, "--deterministic", f"--output_dir={tmp_path / 'run'}", "--resume")
    code, _, err = run(PROGRAM, *flags, prelude=FULL_DISK)
    assert code == 1
    assert_one_line(err, "No space left on device", "--resume goes on")
    assert len(checkpoints_of(tmp_path / "run")) == 1
    programs.train(PROGRAM, *flags)
    assert_same_end(finished[0], tmp_path / "run")


@pytest.mark.slow
def test_killed_at_thirty_random_moments_it_ends_the_same(finished, tmp_path):
    folder = tmp_path / "run"
    flags = (*SMALL, "--deterministic", f"--output_dir={folder}", "--resume")
    moments, killed, seconds = random.Random(0), 0, 0.0
    while killed < 30:
        shutil.rmtree(folder, ignore_errors=True)
        # Several deaths of one run, at any time that it takes.
        for _ in range(4):
            program = programs.Program(PROGRAM, flags)
            time.sleep(moments.uniform(0, seconds or 1.0))
            if program.poll() is None:
                program.kill()
            code, _, err = program.wait()
            assert code in (0, -signal.SIGKILL), err
            killed += code != 0
        start = time.monotonic()
        programs.train(PROGRAM, *flags)
        assert_same_end(finished[0], folder)
        seconds = max(seconds, time.monotonic() - start)


@pytest.mark.slow
@pytest.mark.real_data
def test_main_job_on_real_images(tmp_path):
    from test_data import require

    require("mnist")
    line = train("--dataset=mnist", f"--output_dir={tmp_path / 'run'}", "--hidden_units=100")
    # K = 5 after 4 epochs; one Bernoulli vector alone costs 206 nats, EM with ten 164.5.
    assert 164.5 < line["test"]["negative_elbo"] < 195
    assert line["test"]["code_perplexity"] > 3


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_published_figure_of_mnist(tmp_path, seed):
    from test_data import require

    require("mnist")
    line = programs.train(
        PROGRAM, f"--flagfile={ROOT / 'flags/figure1.flags'}", "--dataset=mnist", "--k=40",
        f"--seed={seed}", "--verbose=0", f"--output_dir={tmp_path / 'run'}",
    )  # fmt: skip
    assert line["test"]["negative_elbo"] <= 143.8
