"""What befalls programs from outside: one line, and nothing lost or left that should not be."""

import json
import random
import shutil
import signal
import time

import programs
import pytest
from programs import run
from run_folders import assert_same_end, checkpoints_of

PROGRAM = "examples/train_vae.py"
SMALL = ("--k=3", "--epochs=4", "--warmup_epochs=2", "--hidden_units=8", "--verbose=0")

# The disk is full when a file of that name is written.
FULL_DISK = """
import errno, os
replace = os.replace

def fail(source, target):
    if {name!r} in str(target):
        raise OSError(errno.ENOSPC, "No space left on device", str(target))
    replace(source, target)

os.replace = fail
"""
# An environment without a package.
WITHOUT = """
import importlib.util, sys
# Keras, which the parent of this process has imported, would be asked for what is in it.
for name in [name for name in sys.modules if name.split(".")[0] in ({package!r}, "keras")]:
    del sys.modules[name]
sys.modules[{package!r}] = None
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name == {package!r} else find(name, *more)
"""
INTERRUPTED = """
import keras

def interrupt(*_, **__):
    raise KeyboardInterrupt

keras.Model.fit = interrupt
"""


def assert_one_line(err, *parts):
    (line,) = [line for line in err.splitlines() if not line.startswith(("WARNING", "I0000"))]
    assert line.startswith("error: ")
    for part in parts:
        assert part in line


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    programs.train(PROGRAM, *SMALL, f"--output_dir={folder}")
    return folder


def test_full_disk_is_one_line_and_the_run_goes_on(finished, tmp_path):
    flags = (*SMALL, f"--output_dir={tmp_path / 'run'}", "--resume")
    code, _, err = run(PROGRAM, *flags, prelude=FULL_DISK.format(name="epoch-00002"))
    assert code == 1
    assert_one_line(err, "No space left on device", "--resume goes on")
    assert len(checkpoints_of(tmp_path / "run")) == 1
    programs.train(PROGRAM, *flags)
    assert_same_end(finished, tmp_path / "run")


def test_ctrl_c_is_one_line(tmp_path):
    flags = (*SMALL, f"--output_dir={tmp_path / 'run'}")
    code, _, err = run(PROGRAM, *flags, prelude=INTERRUPTED)
    assert code == 130
    assert_one_line(err, "interrupted; --resume goes on with a run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("program", "package", "flags"),
    [
        (PROGRAM, "tensorflow", ()),
        (PROGRAM, "sklearn", ()),
        ("examples/train_semi_supervised.py", "matplotlib", ()),
        ("examples/train_structured_vae.py", "maxflow", ("--solver=maxflow",)),
        ("experiments/compare_estimators.py", "matplotlib", ("--output_dir=a",)),
        ("experiments/gradient_quality.py", "matplotlib", ()),
        ("experiments/plot_comparison.py", "matplotlib", ("--table=a.csv",)),
    ],
)
def test_a_missing_package_is_one_line_and_leaves_nothing(tmp_path, program, package, flags):
    prelude = WITHOUT.format(package=package)
    code, out, err = run(program, *flags, prelude=prelude, cwd=tmp_path)
    assert code == 1
    assert out == ""
    assert_one_line(err, f"Expected the package {package}", "received", "pip install")
    assert list(tmp_path.iterdir()) == []


def test_two_programs_in_one_folder(finished, tmp_path):
    """The second is told so in one line; the first ends as if it had been alone."""
    folder = tmp_path / "run"
    flags = (*SMALL, f"--output_dir={folder}", "--resume")
    first = programs.Program(PROGRAM, flags)
    programs.wait_until((folder / ".lock").exists, first)
    second = run(PROGRAM, *flags)
    assert second[0] == 1
    assert_one_line(second[2], "Expected a folder that no other process is filling; received")
    assert first.wait()[0] == 0
    assert_same_end(finished, folder)


def test_a_run_that_has_more_epochs_than_were_asked_for(finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "run")
    newest = checkpoints_of(folder)[-1]
    newest.rename(newest.with_name(newest.name.replace("00004", "00005")))
    history = folder / "history.csv"
    row = history.read_text().splitlines()[-1]
    history.write_text(history.read_text() + "4" + row[1:] + "\n")
    code, _, err = run(PROGRAM, *SMALL, f"--output_dir={folder}", "--resume")
    assert code == 1
    assert_one_line(err, "Expected a run of at most 4 --epochs", "5 finished ones")


@pytest.mark.slow
def test_killed_at_thirty_random_moments_it_ends_the_same(finished, tmp_path):
    folder = tmp_path / "run"
    flags = (*SMALL, f"--output_dir={folder}", "--resume")
    moments = random.Random(0)
    killed = 0
    while killed < 30:
        shutil.rmtree(folder, ignore_errors=True)
        # Several deaths of one run, each later in it.
        for _ in range(3):
            program = programs.Program(PROGRAM, flags)
            time.sleep(moments.uniform(0, 12))
            if program.poll() is None:
                program.kill()
            code = program.wait()[0]
            assert code in (0, -signal.SIGKILL)
            killed += code != 0
        line = programs.train(PROGRAM, *flags)
        assert line["test"] == json.loads((finished / "metrics.json").read_text())["test"]
        assert_same_end(finished, folder)
