"""What befalls programs from outside: one line, and nothing lost or left that should not be."""

import errno

import pytest
from programs import run
from run_folders import assert_one_line

from tf_direct_opt.runs import command_line

PROGRAM = "examples/train_vae.py"
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


def test_ctrl_c_is_one_line(tmp_path):
    code, _, err = run(PROGRAM, f"--output_dir={tmp_path / 'run'}", prelude=INTERRUPTED)
    assert code == 130
    assert_one_line(err, "interrupted; --resume goes on with the run")
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


@pytest.mark.parametrize(
    ("error", "parts"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "a"), ("read or write a", "free some")),
        (OSError(errno.ENAMETOOLONG, "File name too long", "a"), ("File name too long",)),
        (MemoryError(), ("Expected a model and batches that fit into memory",)),
        (ValueError("Expected a,\n  received b."), ("error: Expected a, received b.",)),
    ],
)
def test_errors_that_are_one_line(error, parts):
    with pytest.raises(SystemExit) as end, command_line.one_line_errors():
        raise error
    assert_one_line(end.value.code, *parts)


def test_errors_of_the_program_itself_keep_their_traceback():
    with pytest.raises(TypeError), command_line.one_line_errors():
        raise TypeError("a fault")


def test_tensorflow_out_of_memory_is_one_line():
    import tensorflow as tf

    error = tf.errors.ResourceExhaustedError(None, None, "OOM when allocating")
    with pytest.raises(SystemExit, match="fit into memory"), command_line.one_line_errors():
        raise error
