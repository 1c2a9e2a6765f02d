import numpy as np
import oracles
import pytest
import tensorflow as tf

from tf_direct_opt import sample_gumbel
from tf_direct_opt.labels import direct_label_loss

DRAWS = 100_000

# (K, epsilon, cost).
CASES = [
    (2, 1.0, 1.0),
    (5, 0.5, 3.0),
    (5, 0.05, 4.0),
    (10, 0.3, 20.0),
    (2, 1.0, None),
    (5, 0.05, None),
    (10, 0.3, None),
]


def loss_and_gradient(logits, noise, labels, epsilon, cost=None):
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = direct_label_loss(logits, noise, labels, epsilon, cost)
    return loss, tape.gradient(loss, logits)


def fixed_problem(batch=64):
    """Logits and noise of four classes, labels from -1 to 3."""
    generator = np.random.default_rng(1)
    logits = tf.constant(generator.normal(size=[batch, 4]), tf.float32)
    labels = tf.constant(np.arange(batch) % 5 - 1, tf.int32)
    return logits, sample_gumbel([batch, 4], [3, 4]), labels


# 39 entries are compared at 4 standard errors, so this would fail for 1 set of seeds in 400.
@pytest.mark.parametrize(("num_classes", "epsilon", "cost"), CASES)
def test_mean_gradient_is_the_closed_form(num_classes, epsilon, cost):
    h = np.random.default_rng(num_classes).normal(size=num_classes).astype(np.float32)
    label = num_classes - 2
    logits = tf.broadcast_to(h, [DRAWS, num_classes])
    noise = sample_gumbel(logits.shape, [num_classes, 5])
    _, gradient = loss_and_gradient(logits, noise, tf.fill([DRAWS], label), epsilon, cost)
    h = h.astype(np.float64)
    if cost is None:
        expected = (oracles.softmax(h) - np.eye(num_classes)[label]) / epsilon
    else:
        task_loss = cost * (np.arange(num_classes) != label)
        expected = oracles.direct_gradient(h, task_loss, epsilon, "toward_better")
    oracles.assert_mean_is(gradient, expected)


@pytest.mark.parametrize("cost", [None, 2.5])
def test_value_is_the_task_loss_of_the_perturbed_argmax(cost):
    logits, noise, labels = fixed_problem()
    loss, _ = loss_and_gradient(logits, noise, labels, 0.5, cost)
    wrong = (labels >= 0) & (np.argmax(logits + noise, axis=1) != labels)
    assert 0 < np.sum(wrong) < np.sum(labels >= 0)
    np.testing.assert_array_equal(loss, (1.0 if cost is None else cost) * np.float32(wrong))


@pytest.mark.parametrize("cost", [None, 2.5])
def test_an_example_without_a_label_has_no_loss_and_no_gradient(cost):
    logits, noise, labels = fixed_problem()
    loss, gradient = loss_and_gradient(logits, noise, labels, 0.5, cost)
    none = labels.numpy() == -1
    np.testing.assert_array_equal(loss[none], 0.0)
    np.testing.assert_array_equal(gradient[none], 0.0)
    assert np.any(gradient[~none])


# However small the step: the label decides, not epsilon.
@pytest.mark.parametrize("epsilon", [0.5, 1e-6])
def test_in_the_limit_every_error_is_corrected_and_nothing_else(epsilon):
    logits, noise, labels = fixed_problem()
    loss, gradient = loss_and_gradient(logits, noise, labels, epsilon)
    code = np.eye(4)[np.argmax(logits + noise, axis=1)]
    right = np.eye(4)[np.maximum(labels, 0)]
    expected = loss.numpy()[:, np.newaxis] * (code - right) / epsilon
    assert np.any(expected)
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)


def test_a_cost_beyond_all_scores_is_the_limit():
    inputs = fixed_problem()
    _, limit = loss_and_gradient(*inputs, 0.5)
    _, gradient = loss_and_gradient(*inputs, 0.5, cost=1e3)
    np.testing.assert_array_equal(gradient, limit)
    _, gradient = loss_and_gradient(*inputs, 0.5, cost=0.1)
    assert np.any(gradient != limit)


@pytest.mark.parametrize("cost", [None, 2.5])
def test_epsilon_per_example(cost):
    logits, noise, labels = fixed_problem(3)
    labels = tf.constant([1, 2, 3])
    epsilon = tf.constant([0.1, 1.0, 5.0])
    _, together = loss_and_gradient(logits, noise, labels, epsilon, cost)
    for i in range(3):
        part = slice(i, i + 1)
        _, alone = loss_and_gradient(
            logits[part], noise[part], labels[part], float(epsilon[i]), cost
        )
        np.testing.assert_array_equal(together[part], alone)


@pytest.mark.parametrize("cost", [None, 2.5])
def test_graph_xla_and_eager_agree(cost):
    def function(*inputs):
        return loss_and_gradient(*inputs, 0.5, cost)

    inputs = fixed_problem()
    for jit_compile in (False, True):
        compiled = tf.function(function, jit_compile=jit_compile)(*inputs)
        for got, expected in zip(compiled, function(*inputs), strict=True):
            np.testing.assert_array_equal(got, expected)


def test_half_precision_logits_get_half_precision_gradients():
    logits, noise, labels = fixed_problem()
    loss, gradient = loss_and_gradient(tf.cast(logits, tf.float16), noise, labels, 0.5)
    assert (loss.dtype, gradient.dtype) == (tf.float32, tf.float16)
    assert np.any(gradient)


def test_cost_that_is_not_positive_is_refused():
    for cost in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="Expected a positive `cost` of a wrong class"):
            direct_label_loss(*fixed_problem(), 0.5, cost)


@pytest.mark.parametrize("cost", [None, 2.5])
def test_epsilon_that_is_not_positive_is_refused(cost):
    message = "Expected a positive `epsilon`"
    for epsilon in (0, 0.0, -0.1):
        with pytest.raises(ValueError, match=message):
            direct_label_loss(*fixed_problem(), epsilon, cost)
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            direct_label_loss(*fixed_problem(), tf.constant(epsilon, tf.float32), cost)
