"""The layer under factors on the loss, by the name of the situation; its noise and its draws."""

import keras
import numpy as np
import oracles
import pytest
import tensorflow as tf

from tf_direct_opt import solvers
from tf_direct_opt.direct import DIFFERENCES, direct_argmax
from tf_direct_opt.layers import PerturbedArgmax
from tf_direct_opt.perturbation import sample_gumbel, sample_sum_of_gamma
from tf_direct_opt.slopes import attach_slope

H = np.array([0.5, 0.0, -0.5, 0.25], np.float32)
TABLE = np.array([1.0, -2.0, 0.5, 0.0], np.float32)
BATCH = 16


class Linear(keras.losses.Loss):
    def call(self, table, code):
        return tf.reduce_sum(tf.cast(table, code.dtype) * code, axis=-1)


class Bias(keras.layers.Layer):
    def build(self, shape):
        self.bias = self.add_weight(shape=shape[1:], initializer="zeros")

    def call(self, x):
        return x + tf.cast(self.bias, x.dtype)


def gradient_of_fit(layer, loss=None, **fit):
    """The gradient of one step of training towards a bias on the logits."""
    compile_arguments = {name: fit.pop(name) for name in ("loss_weights",) if name in fit}
    bias = Bias()
    model = keras.Sequential([bias, layer])
    model.compile(
        keras.optimizers.SGD(1.0), loss or Linear(), run_eagerly=True, **compile_arguments
    )
    tables = np.tile(TABLE, [BATCH, 1])
    model.fit(np.tile(H, [BATCH, 1]), tables, batch_size=BATCH, verbose=0, **fit)
    return -bias.bias.numpy()


def gradients(logits, noise, upstream, **arguments):
    with tf.GradientTape() as tape:
        tape.watch(logits)
        code = direct_argmax(logits, noise, 3.0, loss_scale="relative", **arguments)
    return tape.gradient(code, logits, output_gradients=upstream).numpy()


def test_a_relative_step_is_homogeneous_in_the_upstream_gradient_of_each_example():
    generator = np.random.default_rng(0)
    factors = np.array([1e-30, 1e-8, 0.01, 1.0, 32768.0, 1e20], np.float32)
    for solver, shape in (
        (solvers.Categorical(), [6, 5]),
        (solvers.Categorical(), [6, 3, 5]),
        (solvers.TopK(2), [6, 5]),
        (solvers.ShortestPath(), [6, 3, 4]),
    ):
        logits, noise, upstream = generator.normal(size=[3, *shape]).astype(np.float32)
        scale = factors.reshape([-1] + [1] * (len(shape) - 1))
        for difference in DIFFERENCES:
            arguments = {"solver": solver, "difference": difference}
            inputs = tf.constant(logits), tf.constant(noise)
            plain = gradients(*inputs, upstream, **arguments)
            scaled = gradients(*inputs, upstream * scale, **arguments)
            np.testing.assert_allclose(scaled, plain * scale, rtol=1e-5)
            assert np.any(plain)


def test_a_relative_step_of_a_variable_does_not_depend_on_the_others():
    # Positions beside each other or folded into the batch: the same gradient.
    generator = np.random.default_rng(1)
    logits, noise, upstream = generator.normal(size=[3, 4, 5, 6]).astype(np.float32)
    together = gradients(
        tf.constant(logits), tf.constant(noise), upstream, solver=solvers.Categorical()
    )
    folded = (tf.reshape(x, [20, 6]) for x in (logits, noise))
    apart = gradients(*folded, upstream.reshape([20, 6]), solver=solvers.Categorical())
    np.testing.assert_array_equal(together.reshape([20, 6]), apart)


def test_a_relative_step_tends_to_the_true_gradient():
    # 4 entries at 4 standard errors; the bias of a step of 0.03 is of the order of 0.03.
    draws = 400_000
    logits = tf.broadcast_to(H, [draws, 4])
    table = np.broadcast_to(TABLE, [draws, 4])
    with tf.GradientTape() as tape:
        tape.watch(logits)
        code = direct_argmax(
            logits, sample_gumbel([draws, 4], [1, 2]), 0.03, solvers.Categorical(), "central",
            loss_scale="relative",
        )  # fmt: skip
    samples = tape.gradient(code, logits, output_gradients=table).numpy()
    expected = oracles.true_gradient(H.astype(np.float64), TABLE)
    error = 4 * oracles.standard_error(samples) + 0.02
    assert np.all(np.abs(samples.mean(axis=0) - expected) < error)
    assert np.abs(expected).max() > 5 * error.max()


def test_no_upstream_gradient_gives_none():
    zeros = tf.zeros([2, 4])
    sent = gradients(zeros, zeros, np.zeros([2, 4], np.float32), solver=solvers.Categorical())
    np.testing.assert_array_equal(sent, zeros)


@pytest.mark.parametrize("step", [{"loss_scale": "relative"}, {"loss_scale": 1 / BATCH}])
def test_factors_on_the_loss(step):
    def layer(scale=1.0):
        own = step["loss_scale"]
        return PerturbedArgmax(0.7, seed=3, loss_scale=own if isinstance(own, str) else own * scale)

    mean = gradient_of_fit(layer())
    assert np.any(mean)
    total = gradient_of_fit(layer(BATCH), Linear(reduction="sum"))
    np.testing.assert_allclose(total, BATCH * mean, rtol=1e-5)
    weighted = gradient_of_fit(layer(3.0), loss_weights=3.0)
    np.testing.assert_allclose(weighted, 3.0 * mean, rtol=1e-5)
    weighted = gradient_of_fit(layer(0.25), sample_weight=np.full([BATCH], 0.25))
    np.testing.assert_allclose(weighted, 0.25 * mean, rtol=1e-5)


@pytest.mark.parametrize("policy", ["float32", "mixed_float16", "mixed_bfloat16", "float64"])
def test_measured_mean_is_the_given_factor_under_every_policy(policy):
    keras.config.set_dtype_policy(policy)
    measured = gradient_of_fit(PerturbedArgmax(0.5, seed=3))
    assert np.any(measured)
    if policy == "mixed_float16":  # Whose LossScaleOptimizer takes no number.
        keras.config.set_dtype_policy("float32")
    given = gradient_of_fit(PerturbedArgmax(0.5, seed=3, loss_scale=1 / BATCH))
    np.testing.assert_allclose(measured, given, rtol=1e-3 if "mixed" in policy else 1e-6)


@pytest.mark.parametrize(
    ("loss", "arguments", "received"),
    [
        (Linear(reduction="sum"), {}, "Linear with reduction 'sum'"),
        (Linear(), {"loss_weights": 2.0}, "`loss_weights` 2.0"),
    ],
)
def test_a_factor_that_is_not_measured_is_refused_by_name(loss, arguments, received):
    with pytest.raises(ValueError, match=f"mean over the batch.*{received}.*loss_scale.*relative"):
        gradient_of_fit(PerturbedArgmax(0.5), loss, **arguments)


def test_two_calls_in_a_custom_loop_are_refused_unless_each_adds_its_losses():
    model = keras.Sequential([PerturbedArgmax(0.5, seed=0)])
    logits = tf.random.normal([BATCH, 4], seed=0)

    def step(each, loss_scale=None):
        model.layers[0].loss_scale = loss_scale
        with tf.GradientTape() as tape:
            tape.watch(logits)
            loss = 0.0
            for _ in range(2):
                loss += tf.reduce_mean(
                    Linear().call(TABLE[np.newaxis], model(logits, training=True))
                )
                loss += sum(model.losses) if each else 0.0
            loss += 0.0 if each else sum(model.losses)
        return tape.gradient(loss, logits)

    assert np.any(step(each=True))
    assert np.any(step(each=False, loss_scale="relative"))
    with pytest.raises(ValueError, match=r"after every call of the model.*the next call clears"):
        step(each=False)


@keras.saving.register_keras_serializable("test_layer_factors")
class Cell(keras.layers.Layer):
    """A recurrent state that is a code."""

    state_size = output_size = 4

    def __init__(self, loss_scale):
        super().__init__()
        self.scores, self.argmax = (
            keras.layers.Dense(4),
            PerturbedArgmax(1.0, loss_scale=loss_scale),
        )

    def build(self, shape):
        self.scores.build((None, shape[-1] + 4))
        self.built = True

    def call(self, inputs, states, training=False):
        code = self.argmax(self.scores(tf.concat([inputs, states[0]], -1)), training=training)
        return code, [code]


def test_an_rnn_cell_is_refused_or_takes_a_relative_step():
    inputs = np.random.default_rng(0).normal(size=[8, 3, 2]).astype(np.float32)

    def fit(loss_scale):
        model = keras.Sequential([keras.layers.RNN(Cell(loss_scale))])
        model.compile("sgd", "mse")
        model.fit(inputs, np.eye(4)[np.arange(8) % 4], verbose=0)
        return model

    with pytest.raises(ValueError, match=r"outside of a layer's own loop.*RNN"):
        fit(None)
    assert np.any(fit("relative").get_weights()[1])  # The bias has moved from zero.


def test_xla_without_the_probe_is_refused_when_traced():
    layer = PerturbedArgmax(0.5, seed=0)

    @tf.function(jit_compile=True)
    def gradient(logits):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            loss = tf.reduce_mean(layer(logits, training=True) * TABLE)
        return tape.gradient(loss, logits)

    with pytest.raises(ValueError, match=r"Add sum\(model.losses\)"):
        gradient(tf.zeros([2, 4]))


def test_a_loss_scale_that_overflows_skips_the_step_and_training_goes_on():
    keras.config.set_dtype_policy("mixed_float16")
    model = keras.Sequential([keras.layers.Dense(4), PerturbedArgmax(0.5), keras.layers.Dense(3)])
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(), initial_scale=2.0**40)
    model.compile(optimizer, "mse")
    model.fit(np.ones([32, 3]), 100 * np.ones([32, 3]), batch_size=1, verbose=0)
    assert float(optimizer.dynamic_scale.numpy()) < 2.0**20
    assert all(np.isfinite(weight).all() for weight in model.get_weights())


def test_a_relative_step_of_two_categories_is_refused():
    # Their length about the mean is their gap: below an epsilon of 1 nothing would ever flip.
    layer, logits = PerturbedArgmax(0.5, loss_scale="relative", seed=0), tf.zeros([8, 3, 2])
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = tf.reduce_sum(layer(logits, training=True)[..., 1])
    with pytest.raises(ValueError, match="Expected at least 3 categories with loss_scale"):
        tape.gradient(loss, logits)


def test_a_relative_step_does_not_measure_what_is_excluded():
    def mean(mask):
        layer = PerturbedArgmax(0.5, loss_scale="relative", seed=0)
        logits = tf.tile(tf.constant([[0.3, -0.5, mask]]), [1000, 1])
        with tf.GradientTape() as tape:
            tape.watch(logits)
            loss = tf.reduce_sum(layer(logits, training=True) * [1.0, 3.0, 5.0])
        return tf.reduce_mean(tape.gradient(loss, logits), axis=0).numpy()

    far = mean(-1e9)
    assert far[0] < -0.05
    np.testing.assert_allclose(far, mean(-100.0), rtol=1e-5)


def test_what_drops_gradients_of_ones_own_is_refused():
    scores = tf.zeros([2, 5, 3])

    def rows(function):
        return tf.vectorized_map(function, scores)

    argmax, loss = solvers.Categorical(), tf.zeros([5])
    for function in (
        lambda row: direct_argmax(row, 0.0 * row, 0.5, argmax),
        lambda row: attach_slope(loss, row, row),
        lambda row: PerturbedArgmax(0.5, seed=0)(row, training=True),
    ):
        with pytest.raises(ValueError, match=r"Expected no tf\.vectorized_map around an argmax"):
            rows(function)


@pytest.mark.parametrize("loss_scale", [1.0, "relative"])
def test_an_infinite_upstream_gradient_makes_its_example_nan(loss_scale):
    logits = tf.constant(np.tile(H, [2, 1]))
    with tf.GradientTape() as tape:
        tape.watch(logits)
        code = direct_argmax(logits, 0 * logits, 0.5, solvers.Categorical(), loss_scale=loss_scale)
    upstream = np.stack([[np.inf, 0.0, 0.0, 0.0], TABLE])
    sent = tape.gradient(code, logits, output_gradients=upstream).numpy()
    assert np.isnan(sent[0]).all()
    assert np.isfinite(sent[1]).all()


def test_a_second_derivative_is_refused():
    layer, logits = PerturbedArgmax(0.5, loss_scale="relative"), tf.zeros([2, 4])
    with tf.GradientTape() as outer:
        outer.watch(logits)
        with tf.GradientTape() as tape:
            tape.watch(logits)
            loss = tf.reduce_sum(layer(logits, training=True) * TABLE)
        slope = tape.gradient(loss, logits)
    with pytest.raises(ValueError, match="Expected a first derivative of an argmax"):
        outer.gradient(slope, logits)


# Noise and draws.


def mean_gradient(layer, draws, variables=()):
    """The gradients of the mean of <TABLE, code> towards logits H, all examples alike."""
    logits = tf.Variable(H)
    with tf.GradientTape() as tape:
        code = layer(tf.broadcast_to(logits, [draws, 4]), training=True)
        loss = tf.reduce_mean(tf.reduce_sum(code * TABLE, axis=-1))
        loss += sum(layer.losses) if layer.loss_scale is None else 0.0
    return tape.gradient(loss, [logits, *variables]), code.numpy()


@pytest.mark.parametrize("difference", DIFFERENCES)
def test_several_draws_average_codes_and_differences(difference):
    # Measured and given factors agree; mean of 4 * 16384 draws, each of a deviation below 1 / eps.
    epsilon, draws = 3.0, 2**14
    for loss_scale in (None, 1 / draws):
        layer = PerturbedArgmax(
            epsilon, seed=1, difference=difference, num_samples=4, loss_scale=loss_scale
        )
        (slope,), code = mean_gradient(layer, draws)
        expected = oracles.direct_gradient(H.astype(np.float64), TABLE, epsilon, difference)
        np.testing.assert_allclose(slope, expected, atol=4 / epsilon / np.sqrt(4 * draws))
        assert set(np.unique(code)) == {0.0, 0.25, 0.5, 0.75, 1.0}
        np.testing.assert_allclose(code.mean(axis=0), oracles.softmax(H), atol=0.01)


def test_noise_scale_is_a_temperature_and_its_gradient_is_that_of_the_expectation():
    # Gumbel noise of scale t draws from softmax(h / t), whose expected loss is differentiated.
    scale, draws, epsilon = 0.7, 2**17, 0.1
    layer = PerturbedArgmax(
        epsilon, seed=2, difference="central", noise_scale=scale, learn_noise_scale=True
    )
    layer.build((None, 4))
    (_, slope), code = mean_gradient(layer, draws, [layer.raw_noise_scale.value])
    np.testing.assert_allclose(code.mean(axis=0), oracles.softmax(H / scale), atol=0.01)
    p = oracles.softmax(H / scale)
    towards_scale = -np.sum(p * (TABLE - p @ TABLE) * H) / scale**2
    towards_weight = towards_scale * (1 - np.exp(-scale))  # The slope of softplus.
    # A difference is at most 1 / eps and its noise about 2 x 1.3: 4 standard errors, and the bias.
    assert float(slope) == pytest.approx(towards_weight, abs=4 * 2.6 / epsilon / np.sqrt(draws))
    assert abs(towards_weight) > 0.15


def test_normal_noise_is_probit():
    layer = PerturbedArgmax(seed=0, noise="normal")
    code = layer(tf.broadcast_to([[0.8, 0.0]], [40_000, 2]), training=True).numpy()
    expected = 0.714196  # Phi(0.8 / sqrt(2)).
    assert code[:, 0].mean() == pytest.approx(expected, abs=4 * 0.5 / 200)


def test_a_sum_of_gammas_sums_to_a_gumbel():
    # A series of 10 terms lacks 1/10 - 1/200 of the variance. 40000 sums: 2.5 % is 4 errors.
    k, draws = 3, 40_000
    total = sample_sum_of_gamma([draws, k], [0, 1], k).numpy().sum(axis=-1)
    oracles.assert_mean_is(total, 0.0)
    assert total.var() == pytest.approx(sum(1 / i**2 for i in range(1, 11)), rel=0.05)
    layer = PerturbedArgmax(0.5, solvers.TopK(k), noise="sum_of_gamma", seed=0)
    assert not layer.supports_jit
    np.testing.assert_array_equal(
        layer(tf.zeros([5, 7]), training=True).numpy().sum(axis=1), [k] * 5
    )


def test_without_noise_it_is_blackbox_interpolation():
    layer = PerturbedArgmax(2.0, noise=None, loss_scale=1.0)
    logits = tf.constant([[1.0, 0.5, 0.0]])
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = tf.reduce_sum(layer(logits, training=True) * [[1.0, 0.0, 0.5]])
    # argmax{h - 2 f} is the second entry.
    np.testing.assert_array_equal(tape.gradient(loss, logits), [[0.5, -0.5, 0.0]])


def test_costs_are_minimised_and_their_gradient_has_the_sign_of_costs():
    costs = np.array([[3.0, 1.0, 2.0]], np.float32)
    layer = PerturbedArgmax(10.0, minimize=True, noise=None, loss_scale=1.0)
    np.testing.assert_array_equal(layer(costs), [[0.0, 1.0, 0.0]])
    predicted = tf.constant([[1.0, 2.0, 3.0]])
    with tf.GradientTape() as tape:
        tape.watch(predicted)
        loss = tf.reduce_sum(layer(predicted, training=True) * costs)
    # The decision is the first; the second costs less, so its predicted cost has to fall.
    np.testing.assert_allclose(tape.gradient(loss, predicted), [[-0.1, 0.1, 0.0]])


# What the layer is.


@pytest.mark.parametrize(
    "config",
    [
        {"loss_scale": "relative", "noise": "normal", "noise_scale": 0.3, "num_samples": 3},
        {"learn_noise_scale": True, "minimize": True, "difference": "central"},
        {"noise": None},
        {"noise": "sum_of_gamma", "num_ones": 2, "epsilon": np.float32(0.5), "seed": np.int64(3)},
    ],
)
def test_every_argument_survives_saving(tmp_path, config):
    model = keras.Sequential([keras.Input((2, 3)), PerturbedArgmax(**{"seed": 5, **config})])
    inputs = np.random.default_rng(0).normal(size=[4, 2, 3]).astype(np.float32)
    model(inputs, training=True)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.layers[0].get_config() == model.layers[0].get_config()
    np.testing.assert_array_equal(model(inputs, training=True), again(inputs, training=True))


def test_a_config_of_an_older_version_loads():
    old = {"name": "a", "epsilon": 0.5, "solver": "categorical", "seed": 3, "difference": "central"}
    layer = PerturbedArgmax.from_config({**old, "loss_scale": None})
    assert (layer.noise, layer.num_samples, layer.minimize) == ("gumbel", 1, False)


def test_images_of_codes_and_masks_and_integers():
    logits = np.random.default_rng(0).normal(size=[2, 3, 4, 5]).astype(np.float32)
    layer = PerturbedArgmax(0.5, seed=0)
    np.testing.assert_array_equal(layer(logits), np.eye(5)[logits.argmax(axis=-1)])
    assert layer(logits, training=True).shape == (2, 3, 4, 5)
    masked = keras.layers.Embedding(3, 5, mask_zero=True)(np.array([[1, 0, 2]]))
    np.testing.assert_array_equal(layer(masked)._keras_mask, [[True, False, True]])
    np.testing.assert_array_equal(layer(np.array([[1, 3, 2]])), [[0.0, 1.0, 0.0]])
    np.testing.assert_array_equal(solvers.TopK(1)(tf.constant([[1, 3, 2]])), [[0.0, 1.0, 0.0]])


@pytest.mark.parametrize(
    ("solver", "error", "message"),
    [
        (lambda s: 0.5 * s, tf.errors.InvalidArgumentError, "entries 0 and 1; received others"),
        (lambda s: s * np.nan, tf.errors.InvalidArgumentError, "entries 0 and 1; received others"),
        (lambda s: s[:, :2], ValueError, r"shape of its scores, \(2, 4\); received shape \(2, 2\)"),
        (lambda s: 1 / 0, ZeroDivisionError, "division by zero"),
    ],
)
def test_rubbish_of_a_solver_is_refused(solver, error, message):
    with pytest.raises(error, match=message):
        PerturbedArgmax(solver=solver)(tf.ones([2, 4]))


def test_rubbish_of_a_solver_is_nan_under_xla():
    layer = PerturbedArgmax(solver=lambda scores: 0.5 + 0.0 * scores)
    assert np.isnan(tf.function(layer, jit_compile=True)(tf.ones([2, 4]))).all()


def test_export_needs_a_solver_in_tensorflow(tmp_path):
    inputs = np.random.default_rng(0).normal(size=[2, 4, 4]).astype(np.float32)
    model = keras.Sequential([keras.Input((4, 4)), PerturbedArgmax()])
    model.export(tmp_path / "served", verbose=False)
    served = tf.saved_model.load(tmp_path / "served")
    np.testing.assert_array_equal(served.serve(inputs), model(inputs))
    model = keras.Sequential([keras.Input((4, 4)), PerturbedArgmax(solver="assignment")])
    with pytest.raises(ValueError, match=r"Expected a solver in TensorFlow .* exported"):
        model.export(tmp_path / "refused", verbose=False)
