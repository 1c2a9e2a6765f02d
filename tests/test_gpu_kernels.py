"""Every operation of a traced training step can run on a GPU: a kernel is registered for it.

The Linux wheel of TensorFlow registers its GPU kernels also where there is no GPU.
"""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework.kernels import get_registered_kernels_for_op

from tf_direct_opt import models

IMAGES = np.zeros([4, 4, 4], np.float32)
MODELS = {
    "one variable": (lambda: models.DiscreteVAE(num_categories=3, hidden_units=5), IMAGES),
    "several variables": (
        lambda: models.DiscreteVAE(num_variables=2, num_categories=3, hidden_units=5),
        IMAGES,
    ),
    "levels of pixels, a learned prior": (
        lambda: models.DiscreteVAE(
            num_categories=3, hidden_units=5, likelihood="discretised_logistic", prior="learned"
        ),
        IMAGES,
    ),
    "coupled bits": (lambda: models.StructuredVAE(num_variables=3, hidden_units=5), IMAGES),
    "coupled bits, unary noise": (
        lambda: models.StructuredVAE(num_variables=3, hidden_units=5, perturbation="unary"),
        IMAGES,
    ),
    "labels": (
        lambda: models.MixtureVAE(num_categories=3, hidden_units=5),
        (IMAGES, np.array([0, 1, -1, -1])),
    ),
}


def operations(function):
    """Every operation of a concrete function and of those that it calls: NodeDefs."""
    graph = function.graph.as_graph_def()
    yield from graph.node
    for called in graph.library.function:
        yield from called.node_def


@functools.cache
def kernels_of(operation):
    return list(get_registered_kernels_for_op(operation).kernel)


def fits(kernel, node):
    """Whether a kernel is one of a GPU, or of any device, for the types of the operation."""
    if kernel.device_type not in ("GPU", "DEFAULT"):
        return False
    return all(
        not constraint.allowed_values.list.type
        or node.attr[constraint.name].type in constraint.allowed_values.list.type
        for constraint in kernel.constraint
    )


def without_a_kernel(function):
    """Names of the operations that only the CPU can do, but for the texts of assertions."""
    return {
        node.op
        for node in operations(function)
        if not any(fits(kernel, node) for kernel in kernels_of(node.op))
        and node.attr["dtype"].type != tf.string.as_datatype_enum
    }


# A model of each kind; what the others add is an operation or two.
FAST = ("one variable", "coupled bits", "labels")


@pytest.mark.parametrize(
    "name",
    [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in MODELS],
)
def test_a_training_step_has_a_kernel_for_every_operation(name):
    make, data = MODELS[name]
    model = make()
    model.compile(keras.optimizers.Adam())
    model.build((None, 4, 4))
    model.optimizer.build(model.trainable_variables)
    batch = tuple(map(tf.constant, data)) if isinstance(data, tuple) else tf.constant(data)
    step = tf.function(model.train_step).get_concrete_function(batch)
    assert without_a_kernel(step) == set()


def test_an_operation_of_the_cpu_alone_is_found():
    function = tf.function(lambda: tf.py_function(lambda: 1.0, [], tf.float32))
    assert "EagerPyFunc" in without_a_kernel(function.get_concrete_function())
