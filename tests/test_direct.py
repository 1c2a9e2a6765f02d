import keras
import numpy as np
import oracles
import pytest
import tensorflow as tf
from replicas import two_replicas

from tf_direct_opt import direct_argmax, direct_loss, epsilon_difference, sample_gumbel
from tf_direct_opt.direct import DIFFERENCES, direct_argmax_with_probe
from tf_direct_opt.perturbation import perturbed_argmax
from tf_direct_opt.solvers import Categorical

DRAWS = 200_000


def problem(num_categories, seed=0):
    generator = np.random.default_rng(seed)
    h, f = generator.normal(size=[2, num_categories]).astype(np.float32)
    return h, 2.0 * f


def sampled_gradients(h, f, epsilon, difference, draws=DRAWS):
    """Draws of the gradient of `direct_loss` towards the logits, [draws, K]."""
    logits = tf.broadcast_to(h, [draws, len(h)])
    noise = sample_gumbel(logits.shape, [len(h), 1])
    table = tf.broadcast_to(f, logits.shape)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = direct_loss(
            tf.zeros(draws), logits, noise, table, epsilon, Categorical(), difference
        )
    return tape.gradient(loss, logits).numpy()


# Every pair of values is among the nine that are not slow, a Latin square.
CASES = [
    pytest.param(
        num_categories,
        epsilon,
        difference,
        marks=[pytest.mark.slow] if (i + j + k) % 3 else [],
        id=f"{num_categories}-{epsilon}-{difference}",
    )
    for i, num_categories in enumerate([2, 7, 40])
    for j, epsilon in enumerate([1.0, 0.3, 0.1])
    for k, difference in enumerate(DIFFERENCES)
]


# 441 entries are compared at 4 standard errors, so this would fail for 1 set of seeds in 36.
@pytest.mark.parametrize(("num_categories", "epsilon", "difference"), CASES)
def test_mean_gradient_is_the_closed_form(num_categories, epsilon, difference):
    h, f = problem(num_categories)
    expected = oracles.direct_gradient(h.astype(np.float64), f, epsilon, difference)
    oracles.assert_mean_is(sampled_gradients(h, f, epsilon, difference), expected)


@pytest.mark.parametrize("epsilon", [1.0, 0.3, 0.1])
def test_pair_of_argmaxes_has_its_exact_joint_law(epsilon):
    # 36 entries at 4 standard errors: fails for 1 set of seeds in 440.
    h, f = problem(6)
    logits = tf.broadcast_to(h, [DRAWS, 6])
    scores, code = perturbed_argmax(logits, sample_gumbel(logits.shape, [6, 2]), Categorical())
    slope = epsilon_difference(scores, code, tf.broadcast_to(f, [DRAWS, 6]), epsilon, Categorical())
    moved = code - epsilon * slope
    pairs = np.einsum("bi,bj->bij", code, np.round(moved))
    expected = oracles.joint_law(h.astype(np.float64), f, epsilon)
    error = np.sqrt(expected * (1 - expected) / DRAWS)
    assert np.all(np.abs(pairs.mean(axis=0) - expected) <= 4 * error + 5 / DRAWS)


@pytest.mark.parametrize(
    ("difference", "order"), [("toward_better", 1), ("away_from_worse", 1), ("central", 2)]
)
def test_limit_is_the_true_gradient_at_the_predicted_rate(difference, order):
    # For K = 2 only the difference of two Gumbels matters, which is logistic: its quantiles at
    # 2^20 midpoints stand in for draws, with an error of about 2^-20 / epsilon.
    h, f = np.array([0.3, -0.4], np.float32), np.array([1.5, -0.5], np.float32)
    count = 2**20
    uniform = (np.arange(count) + 0.5) / count
    noise = np.stack([np.log(uniform) - np.log1p(-uniform), np.zeros(count)], axis=-1)
    logits, table = tf.broadcast_to(h, [count, 2]), tf.broadcast_to(f, [count, 2])
    true = oracles.true_gradient(h.astype(np.float64), f)
    bias = []
    for epsilon in (0.1, 0.05):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            loss = direct_loss(
                tf.zeros(count), logits, noise, table, epsilon, Categorical(), difference
            )
        gradient = tape.gradient(loss, logits).numpy().astype(np.float64).mean(axis=0)
        bias.append(np.abs(gradient - true).max())
    assert bias[0] / bias[1] == pytest.approx(2**order, rel=0.15)


def test_variables_of_one_example_are_independent():
    # N = 3 variables with tables of their own: 4 standard errors, 12 entries.
    generator = np.random.default_rng(3)
    h, f = generator.normal(size=[2, 3, 4]).astype(np.float32)
    logits = tf.broadcast_to(h, [DRAWS, 3, 4])
    noise = sample_gumbel(logits.shape, [3, 4])
    scores, code = perturbed_argmax(logits, noise, Categorical())
    slope = epsilon_difference(scores, code, tf.broadcast_to(f, logits.shape), 0.5, Categorical())
    oracles.assert_mean_is(slope, oracles.direct_gradient(h, f, 0.5, "toward_better"))


def test_epsilon_per_example():
    h, f = problem(7)
    epsilon = tf.constant([0.1, 1.0, 5.0])
    logits, table = tf.broadcast_to(h, [3, 7]), tf.broadcast_to(f, [3, 7])
    scores, code = perturbed_argmax(logits, sample_gumbel([3, 7], [0, 0]), Categorical())
    together = epsilon_difference(scores, code, table, epsilon, Categorical())
    for i in range(3):
        alone = epsilon_difference(
            scores[i : i + 1], code[i : i + 1], table[i : i + 1], float(epsilon[i]), Categorical()
        )
        np.testing.assert_array_equal(together[i : i + 1], alone)


def test_value_and_gradient_of_the_loss_pass_through():
    logits = tf.zeros([4, 3])
    loss = tf.constant([1.0, 2.0, 3.0, 4.0])
    with tf.GradientTape() as tape:
        tape.watch(loss)
        out = direct_loss(loss, logits, logits, logits, 1.0, Categorical())
        total = tf.tensordot(out, [1.0, 2.0, 3.0, 4.0], 1)
    np.testing.assert_array_equal(out, loss)
    np.testing.assert_array_equal(tape.gradient(total, loss), [1.0, 2.0, 3.0, 4.0])


# The estimator must not change with what happens to the loss after it: reduction, replicas, scale.


def fixed_problem(batch):
    generator = np.random.default_rng(1)
    logits, table = generator.normal(size=[2, batch, 5]).astype(np.float16).astype(np.float32)
    return tf.constant(logits), sample_gumbel([batch, 5], [9, 9]), tf.constant(3.0 * table)


def mean_gradient(logits, noise, table, scale=lambda loss: loss):
    with tf.GradientTape() as tape:
        tape.watch(logits)
        losses = direct_loss(tf.zeros(len(logits)), logits, noise, table, 0.5, Categorical())
        loss = scale(tf.reduce_mean(losses))
    return tape.gradient(loss, logits).numpy()


def test_same_estimator_at_batch_16_and_64():
    logits, noise, table = fixed_problem(64)
    large = mean_gradient(logits, noise, table) * 64
    assert np.any(large)
    for start in range(0, 64, 16):
        part = slice(start, start + 16)
        small = mean_gradient(logits[part], noise[part], table[part]) * 16
        np.testing.assert_allclose(small, large[part], rtol=1e-6)


def test_same_estimator_under_two_replicas():
    logits, noise, table = fixed_problem(64)
    strategy = two_replicas()

    def part_of(value):
        return strategy.experimental_distribute_values_from_function(
            lambda context: tf.split(value, 2)[context.replica_id_in_sync_group]
        )

    @tf.function
    def step(*inputs):
        def replica(logits, noise, table):
            with tf.GradientTape() as tape:
                tape.watch(logits)
                losses = direct_loss(tf.zeros(32), logits, noise, table, 0.5, Categorical())
                loss = tf.reduce_mean(losses) / strategy.num_replicas_in_sync
            return tape.gradient(loss, logits)

        return strategy.run(replica, inputs)

    parts = strategy.experimental_local_results(step(*map(part_of, (logits, noise, table))))
    np.testing.assert_allclose(
        np.concatenate(parts), mean_gradient(logits, noise, table), rtol=1e-6
    )


def test_same_estimator_under_mixed_precision_with_loss_scaling():
    logits, noise, table = fixed_problem(64)
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD())
    optimizer.build([keras.Variable(0.0)])
    scale = float(optimizer.dynamic_scale.numpy())
    half = tf.cast(logits, tf.float16)  # The logits of the problem are exact in float16.
    scaled = mean_gradient(half, noise, table, optimizer.scale_loss)
    full = mean_gradient(logits, noise, table)
    assert scale == 32768
    assert scaled.dtype == np.float16
    np.testing.assert_array_equal(scaled != 0, full != 0)
    np.testing.assert_allclose(scaled.astype(np.float64) / scale, full, rtol=2e-3)


# direct_argmax: the upstream gradient is the table.


def test_direct_argmax_is_direct_loss_of_a_linear_loss():
    logits, noise, table = fixed_problem(64)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        code = direct_argmax(logits, noise, 0.5, Categorical(), loss_scale=1 / 64)
        loss = tf.reduce_mean(tf.reduce_sum(code * table, axis=-1))
    np.testing.assert_allclose(
        tape.gradient(loss, logits), mean_gradient(logits, noise, table), rtol=1e-6
    )


@pytest.mark.parametrize("scale", [1.0, 1 / 64, 32768 / 64])
def test_probe_measures_the_loss_scale(scale):
    logits, noise, table = fixed_problem(64)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        code, probe = direct_argmax_with_probe(logits, noise, 0.5, Categorical())
        loss = scale * tf.reduce_sum(tf.reduce_sum(code * table, axis=-1) + probe)
    np.testing.assert_allclose(
        tape.gradient(loss, logits) / (64 * scale), mean_gradient(logits, noise, table), rtol=1e-6
    )


def test_forgotten_probe_is_an_error():
    logits, noise, table = fixed_problem(64)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        code, _ = direct_argmax_with_probe(logits, noise, 0.5, Categorical())
        loss = tf.reduce_sum(code * table)
    with pytest.raises(ValueError, match=r"Add sum\(model.losses\) .* \"relative\""):
        tape.gradient(loss, logits)


def test_graph_xla_and_eager_agree():
    inputs = fixed_problem(64)

    def gradient(logits, noise, table):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            loss = direct_loss(tf.zeros(64), logits, noise, table, 0.5, Categorical(), "central")
        return tape.gradient(loss, logits)

    for jit_compile in (False, True):
        compiled = tf.function(gradient, jit_compile=jit_compile)
        np.testing.assert_array_equal(compiled(*inputs), gradient(*inputs))


@pytest.mark.parametrize("epsilon", [0, -0.1, float("nan")])
def test_epsilon_that_is_not_positive_is_refused(epsilon):
    logits = tf.zeros([2, 3])
    message = "Expected a positive `epsilon`"
    with pytest.raises(ValueError, match=message):
        direct_loss(tf.zeros(2), logits, logits, logits, epsilon, Categorical())
    with pytest.raises(ValueError, match=message):
        direct_argmax(logits, logits, epsilon, Categorical())
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        direct_loss(
            tf.zeros(2), logits, logits, logits, tf.constant(epsilon, tf.float32), Categorical()
        )


def test_unknown_difference_is_refused():
    logits = tf.zeros([2, 3])
    message = "Expected `difference` in .* received 'forward'"
    with pytest.raises(ValueError, match=message):
        direct_loss(tf.zeros(2), logits, logits, logits, 1.0, Categorical(), "forward")
    with pytest.raises(ValueError, match=message):
        direct_argmax(logits, logits, 1.0, Categorical(), "forward")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_non_finite_table_raises_and_is_nan_under_xla(bad):
    logits, table = tf.zeros([2, 3]), tf.constant([[0.0, 0.0, 0.0], [0.0, bad, 0.0]])

    def loss(table):
        return direct_loss(tf.zeros(2), logits, logits, table, 1.0, Categorical())

    for function in (loss, tf.function(loss)):
        with pytest.raises(tf.errors.InvalidArgumentError, match="finite loss_table"):
            function(table)
    np.testing.assert_array_equal(tf.function(loss, jit_compile=True)(table), [0.0, np.nan])
