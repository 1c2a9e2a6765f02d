"""What every test and doctest shares."""

import functools
import gc
import os

import pytest

import tf_direct_opt as tdo

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# What a test compiles runs a few times: XLA generates code for it without polishing it.
os.environ.setdefault(
    "XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
)

# These define the flags of a command line: one process can hold those of one program only, and
# doctests are looked for in every module.
collect_ignore_glob = ["tf_direct_opt/runs/*_flags.py", "tf_direct_opt/runs/training.py"]


def pytest_collectstart():
    """Only processes that collect tests import TensorFlow: the one that hands them out does not."""
    _two_devices()


@functools.cache
def _two_devices():
    """Two logical devices, so that tests can run two replicas, and graphs without AutoGraph."""
    import tensorflow as tf

    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )
    # Nothing here has a condition on a tensor in plain Python; to look for one costs an eighth of
    # the time of tracing. Whoever asks for AutoGraph gets it.
    tf.function = functools.partial(tf.function, autograph=False)


def pytest_collection_finish():
    """What was imported stays: the garbage collector need not walk it again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)  # Nor all of a graph, hundreds of times while it is traced.


@pytest.fixture(autouse=True)
def _doctest_names(doctest_namespace):
    for module in (
        tdo.layers, tdo.models, tdo.estimators, tdo.posteriors, tdo.direct, tdo.perturbation,
        tdo.solvers, tdo.optimizers, tdo.files,
    ):  # fmt: skip
        doctest_namespace.update({k: v for k, v in vars(module).items() if k[0] != "_"})
    # Solvers and posteriors share names: those of posteriors come with the room.
    doctest_namespace["posteriors"] = tdo.posteriors


@pytest.fixture(autouse=True)
def _fresh_state():
    """The same random numbers and names in every test, whichever runs before it."""
    import keras

    keras.backend.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy("float32")
