"""The program as its users see it: processes, files, exit codes."""

import csv
import json
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import time

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import tf_direct_opt  # Registers the classes that a saved model names.

ROOT = pathlib.Path(__file__).parents[1]
SMALL = ("--k=5", "--epochs=4", "--warmup_epochs=2", "--hidden_units=16", "--verbose=0")


def start(*arguments, program=("examples/train_vae.py",), **options):
    return subprocess.Popen(
        [sys.executable, *program, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'examples'}"},
        **options,
    )


def run(*arguments, **options):
    process = start(*arguments, **options)
    out, err = process.communicate()
    return process.returncode, out, err


def assert_refused_at_once(message, *arguments, **options):
    """One clear error, before TensorFlow is even imported."""
    begin = time.perf_counter()
    code, out, err = run(*arguments, **options)
    assert time.perf_counter() - begin < 5
    assert code != 0
    assert out == "" or "USAGE" in out
    assert message in err
    assert "Traceback" not in err


def assert_refused(message, *arguments, **options):
    """One clear error, whenever it can be told."""
    code, out, err = run(*arguments, "--verbose=0", **options)
    assert code == 1
    assert out == ""
    assert f"error: {message}" in err
    assert "Traceback" not in err


def train(*arguments, **options):
    code, out, err = run(*SMALL, *arguments, **options)
    assert code == 0, err
    return json.loads(out.splitlines()[-1])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of one whole run on digits, and the JSON line it ended with."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return folder, train(f"--output_dir={folder}", "--deterministic")


def arrays_of(path):
    """Every array of a weights file."""
    arrays = {}
    with h5py.File(path) as file:
        file.visititems(
            lambda name, item: arrays.update({name: item[()]} if hasattr(item, "shape") else {})
        )
    return arrays


def rows_of(folder):
    return list(csv.DictReader((folder / "history.csv").read_text().splitlines()))


def assert_same_end(folder, other):
    """Both runs ended with the same weights, optimizer state, noise state and figures."""
    name = pathlib.Path("checkpoints") / "epoch-00004.weights.h5"
    first, second = arrays_of(folder / name), arrays_of(other / name)
    assert any("optimizer" in key for key in first)
    assert any("seeds" in key for key in first)
    assert first.keys() == second.keys()
    for key in first:
        np.testing.assert_array_equal(first[key], second[key], err_msg=key)
    tests = [json.loads((run / "metrics.json").read_text())["test"] for run in (folder, other)]
    assert tests[0] == tests[1]
    histories = [rows_of(run) for run in (folder, other)]
    for row in (*histories[0], *histories[1]):
        assert float(row.pop("seconds")) > 0
        assert float(row.pop("cpu_seconds")) > 0
    assert histories[0] == histories[1]


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


def test_saved_model_gives_the_figures_of_the_run(finished):
    import batches
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


def test_flags_file_repeats_the_run(finished, tmp_path):
    folder, _ = finished
    code, _, err = run(f"--flagfile={folder / 'flags.txt'}", f"--output_dir={tmp_path / 'again'}")
    assert code == 0, err
    assert_same_end(folder, tmp_path / "again")


# The process is killed by itself, at the worst moments there are.
KILLER = """
    import os, pathlib, runpy, signal, sys
    import keras
    moment = sys.argv.pop(1)

    def die(*_):
        os.kill(os.getpid(), signal.SIGKILL)

    if moment == "while the third checkpoint is written":
        save = keras.Model.save_weights
        def save_half(model, path):
            save(model, path)
            if "00003" in str(path):
                whole = pathlib.Path(path).read_bytes()
                pathlib.Path(path).write_bytes(whole[: len(whole) // 2])
                die()
        keras.Model.save_weights = save_half
    elif moment.endswith("is renamed"):
        replace, part = os.replace, "epoch-00003" if "checkpoint" in moment else "history.csv"
        os.replace = lambda source, target: (
            die() if part in str(target) else replace(source, target)
        )
    elif moment == "before the second checkpoint is deleted":
        unlink = pathlib.Path.unlink
        pathlib.Path.unlink = lambda path, **options: (
            die() if path.name == "epoch-00002.weights.h5" else unlink(path, **options)
        )
    elif moment == "while the model is saved":
        keras.Model.save = lambda model, path: (pathlib.Path(path).write_bytes(b"half"), die())
    runpy.run_path("examples/train_vae.py", run_name="__main__")
"""


def test_killed_at_every_kind_of_save_and_resumed_it_ends_the_same(finished, tmp_path):
    folder, _ = finished
    directory = tmp_path / "run"
    moments = {
        "while the third checkpoint is written": ["epoch-00002.weights.h5"],
        "before the third checkpoint is renamed": ["epoch-00002.weights.h5"],
        "before the history is renamed": ["epoch-00002.weights.h5"],
        "before the second checkpoint is deleted": [
            "epoch-00002.weights.h5",
            "epoch-00003.weights.h5",
        ],
        "while the model is saved": ["epoch-00004.weights.h5"],
    }
    for moment, left in moments.items():
        killer = ("-c", textwrap.dedent(KILLER), moment)
        flags = ["--deterministic", f"--output_dir={directory}", "--resume"]
        code, _, err = run(*SMALL, *flags, program=killer)
        assert code == -signal.SIGKILL, (moment, err)
        names = sorted(path.name for path in (directory / "checkpoints").glob("epoch-*"))
        assert names == left, moment
        assert not (directory / "metrics.json").exists()
        assert not (directory / "model.keras").exists()
    assert list(directory.rglob(".tmp-*"))
    train("--deterministic", f"--output_dir={directory}", "--resume")
    assert_same_end(folder, directory)
    assert not list(directory.rglob(".tmp-*"))


def test_killed_in_training_and_resumed_it_ends_the_same(finished, tmp_path):
    folder, _ = finished
    directory = tmp_path / "run"
    process = start(*SMALL, f"--output_dir={directory}", "--deterministic")
    deadline = time.monotonic() + 120
    while not list(directory.glob("checkpoints/epoch-*")) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (directory / "metrics.json").exists()
    train(f"--output_dir={directory}", "--deterministic", "--resume")
    assert_same_end(folder, directory)


def test_mirrored_on_one_device_is_the_plain_run(finished, tmp_path):
    _, line = finished
    directory = f"--output_dir={tmp_path / 'run'}"
    mirrored = train(directory, "--distribute=mirrored", "--steps_per_execution=7")
    assert mirrored["test"]["negative_elbo"] == pytest.approx(
        line["test"]["negative_elbo"], rel=1e-3
    )


# The key flags of a program that reads a flagfile, in a process of its own: absl keeps the flags of
# all modules of a process in one place, where those of two programs may clash.
KEY_FLAGS = """
import json
import sys
from absl import flags
module = sys.argv[1]
__import__(module)
print(json.dumps([flag.name for flag in flags.FLAGS.get_key_flags_for_module(module)]))
"""


def test_flagfiles_name_flags_of_the_program_they_are_for():
    key_flags = {}
    for program in (
        "compare_estimators", "semi_supervised_table", "train_semi_supervised",
        "train_structured_vae", "train_vae",
    ):  # fmt: skip
        code, out, err = run(program, program=("-c", KEY_FLAGS))
        assert code == 0, err
        key_flags[program] = set(json.loads(out))
    for path in sorted((ROOT / "flags").glob("*.flags")):
        lines = [line for line in path.read_text().splitlines() if line.startswith("--")]
        given = dict(line.lstrip("-").split("=") for line in lines)
        program = "train_vae"
        if path.stem.startswith("semi_supervised"):
            table = path.stem.endswith("table")
            program = "semi_supervised_table" if table else "train_semi_supervised"
        elif "datasets" in given:
            program = "compare_estimators"
        elif "structured" in path.name:
            program = "train_structured_vae"
        assert given.keys() <= key_flags[program], path
        dataset, _, k = path.stem.removeprefix("figure1_").partition("_k")
        if path.stem.startswith("figure1_"):
            assert dataset == given.get("dataset", given.get("datasets"))
            assert k == given.get("k", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--k=1"], "k"),
        (["--epsilon=0"], "has to be positive"),
        (["--epsilon_final=-0.1"], "has to be positive"),
        (["--kl_weight=-1"], "kl_weight"),
        (["--dataset=cifar"], "value should be one of <digits|mnist|"),
        (["--epochz=3"], "Unknown command line flag 'epochz'"),
        (["stray"], "Expected flags only; received the arguments ['stray']"),
        (["--distribute=mirrored", "--jit_compile"], "Expected --distribute=mirrored without"),
        (["--resume"], "Expected --output_dir with --resume"),
        (["--dataset=mnist", "--data_dir=/nowhere"], "Expected the data set 'mnist'"),
        (["--output_dir=/proc/nothing"], "Expected --output_dir to be a folder that can be"),
    ],
)
def test_bad_command_line_is_one_clear_error_within_five_seconds(arguments, message):
    assert_refused_at_once(message, *arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--estimator=reinforce"], "Expected `estimator` to be one of"),
        (["--estimator=exact", "--num_variables=2"], "Expected one variable"),
        (["--steps_per_execution=3"], "Expected --steps_per_execution to divide the 14 steps"),
        (["--batch_size=5000"], "Expected --batch_size to be at most the 1437"),
    ],
)
def test_what_only_the_model_or_the_data_can_tell_is_one_clear_error(tmp_path, arguments, message):
    assert_refused(message, *arguments, f"--output_dir={tmp_path / 'run'}")


@pytest.mark.parametrize("jit_compile", ["--jit_compile", "--nojit_compile"])
def test_divergence_is_one_clear_error(tmp_path, jit_compile):
    directory = tmp_path / "run"
    code, _, err = run(*SMALL, f"--output_dir={directory}", jit_compile, "--learning_rate=1e30")
    assert code == 1
    assert "error: Expected finite logits and losses; training diverged." in err
    assert "Traceback" not in err
    assert not (directory / "metrics.json").exists()


def test_folder_of_another_run_and_corrupted_checkpoint_are_clear_errors(finished, tmp_path):
    folder, _ = finished
    code, _, err = run(*SMALL, f"--output_dir={folder}")
    assert code == 1
    assert "holds a run already. Please add --resume" in err
    code, _, err = run(*SMALL, f"--output_dir={folder}", "--resume", "--learning_rate=0.1")
    assert code == 1
    assert "Expected the flags of the run" in err
    assert "--learning_rate=0.1" in err
    checkpoints = tmp_path / "run" / "checkpoints"
    checkpoints.mkdir(parents=True)
    (checkpoints / "epoch-00002.weights.h5").write_bytes(b"garbage")
    code, _, err = run(*SMALL, f"--output_dir={tmp_path / 'run'}", "--resume")
    assert code == 1
    assert "error: Expected a readable checkpoint" in err


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
    code, out, err = run(
        "--flagfile=flags/figure1_mnist_k40.flags", f"--seed={seed}", "--verbose=0",
        "--epochs=30", f"--output_dir={tmp_path / 'run'}",
    )  # fmt: skip
    assert code == 0, err
    assert json.loads(out.splitlines()[-1])["test"]["negative_elbo"] <= 143.8
