"""What the tests of several programs ask of the folder of a run."""

import csv
import json
import re

import h5py
import numpy as np

# Planted into a program: it kills itself, at one of the worst moments there are.
KILLER = """
import os, pathlib, signal
import keras

moment = {moment!r}

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

save, replace, unlink = keras.Model.save_weights, os.replace, pathlib.Path.unlink

def save_half(model, path):
    save(model, path)
    if int(model.optimizer.iterations) > 40:  # Two epochs of digits have fewer steps.
        whole = pathlib.Path(path).read_bytes()
        pathlib.Path(path).write_bytes(whole[: len(whole) // 2])
        die()

def die_before(name):
    def replace_or_die(source, target):
        die() if name in str(target) else replace(source, target)
    return replace_or_die

if moment == "while the third checkpoint is written":
    keras.Model.save_weights = save_half
elif moment == "before the third checkpoint is renamed":
    os.replace = die_before("epoch-00003")
elif moment == "before the history is renamed":
    os.replace = die_before("history.csv")
elif moment == "before the second checkpoint is deleted":
    pathlib.Path.unlink = lambda path, **options: (
        die() if path.name.startswith("epoch-00002") else unlink(path, **options)
    )
elif moment == "while the model is saved":
    keras.Model.save = lambda model, path: (pathlib.Path(path).write_bytes(b"half"), die())
"""

# What TensorFlow itself writes to stderr, for instance that there is no GPU.
TENSORFLOW_LOG = re.compile(r"WARNING: All log messages|[IWE]\d{4} ")


def assert_one_line(err, *parts):
    """All that a program wrote to stderr, but for TensorFlow, is one line with these parts."""
    (line,) = [line for line in err.splitlines() if not TENSORFLOW_LOG.match(line)]
    assert line.startswith("error: ")
    for part in parts:
        assert part in line


def rows_of(folder):
    return list(csv.DictReader((folder / "history.csv").read_text().splitlines()))


def checkpoints_of(folder):
    """The files of the finished epochs, in their order."""
    return sorted((folder / "checkpoints").glob("epoch-*"))


def arrays_of(path):
    """Every array of a weights file."""
    arrays = {}
    with h5py.File(path) as file:
        file.visititems(
            lambda name, item: arrays.update({name: item[()]} if hasattr(item, "shape") else {})
        )
    return arrays


def assert_same_end(folder, other):
    """Both runs ended with the same weights, optimizer state, noise state and figures."""
    first, second = (arrays_of(checkpoints_of(run)[-1]) for run in (folder, other))
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
