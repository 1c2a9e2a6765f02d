import functools

import keras
import numpy as np
import oracles
import programs
import pytest
import tensorflow as tf
from keras.src import testing

from tf_direct_opt import schedules, solvers
from tf_direct_opt.layers import PerturbedArgmax


@keras.saving.register_keras_serializable("test_layers")
def best_half(scores):
    """A user's own solver: the 0/1 indicator of the upper half of the scores."""
    rank = tf.argsort(tf.argsort(scores))
    return tf.cast(rank >= scores.shape[-1] // 2, scores.dtype)


@keras.saving.register_keras_serializable("test_layers")
class LinearLoss(keras.losses.Loss):
    """<table, code> for each example: the upstream gradient is the table itself."""

    def call(self, table, code):
        return tf.reduce_sum(table * code, axis=-1)


def fixed_logits(batch, categories=5):
    return np.random.default_rng(0).normal(size=[batch, categories]).astype(np.float32)


def test_inference_is_the_plain_argmax():
    logits = fixed_logits(8)
    code = PerturbedArgmax()(logits)
    np.testing.assert_array_equal(code, np.eye(5)[logits.argmax(axis=1)])


@pytest.mark.parametrize("shape", [(8, 5), (8, 3, 5)])
def test_training_samples_one_hots(shape):
    layer = PerturbedArgmax(seed=0)
    first, second = (layer(tf.zeros(shape), training=True).numpy() for _ in range(2))
    assert first.shape == shape
    np.testing.assert_array_equal(first.sum(axis=-1), np.ones(shape[:-1]))
    assert np.any(first != second)


@pytest.mark.parametrize(
    "build",
    [
        # README and tutorials have the first two, and are fast.
        *(pytest.param(k, marks=pytest.mark.slow) for k in ("sequential", "functional", "subclass"))
    ],
)
def test_trains_in_any_kind_of_model(build):
    # The bottleneck has as many categories as there are distinct inputs: each gets its code.
    inputs = np.tile(np.eye(4, dtype=np.float32), [64, 1])
    hidden, argmax, out = keras.layers.Dense(6), PerturbedArgmax(0.2, seed=0), keras.layers.Dense(4)
    if build == "sequential":
        model = keras.Sequential([hidden, argmax, out])
    elif build == "functional":
        start = keras.Input((4,))
        model = keras.Model(start, out(argmax(hidden(start))))
    else:

        class Model(keras.Model):
            def __init__(self):
                super().__init__()
                self.parts = [hidden, argmax, out]

            def call(self, x, training=False):
                for part in self.parts:
                    x = part(x, training=training) if part is argmax else part(x)
                return x

        model = Model()
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.05), loss, steps_per_execution=8)
    before = model.evaluate(inputs, inputs, verbose=0)
    model.fit(inputs, inputs, batch_size=32, epochs=25, verbose=0)
    assert model.evaluate(inputs, inputs, verbose=0) < 0.35 * before


@pytest.mark.parametrize(
    ("batch", "policy"),
    [
        (16, "mixed_float16"),
        (64, "float32"),
        pytest.param(64, "mixed_float16", marks=pytest.mark.slow),
        pytest.param(16, "float32", marks=pytest.mark.slow),
    ],
)
def test_under_fit_the_gradient_is_that_of_the_per_example_loss(batch, policy):
    # The mean over the batch and the loss scale of float16 are measured by the layer itself: the
    # bias of Dense(use_bias) sees the mean epsilon-difference, whose closed form is known.
    epsilon, draws = 0.5, 4096
    keras.config.set_dtype_policy(policy)
    h = np.array([0.5, 0.0, -0.5, 0.25], np.float32)
    table = np.array([1.0, -2.0, 0.5, 0.0], np.float32)

    class Bias(keras.layers.Layer):
        def build(self, shape):
            self.bias = self.add_weight(shape=shape[1:], initializer="zeros")

        def call(self, x):
            return x + tf.cast(self.bias, x.dtype)

    bias = Bias()
    model = keras.Sequential([bias, PerturbedArgmax(epsilon, seed=0)])
    # With a rate of 1/steps the weight accumulates minus the mean of the gradients of the steps,
    # and the logits move away from h by little enough, as the rate is divided by 1000 more.
    steps = draws // batch
    rate = 1e-3 / steps
    model.compile(keras.optimizers.SGD(rate), LinearLoss())
    model.fit(
        np.tile(h, [draws, 1]),
        np.tile(table, [draws, 1]),
        batch_size=batch,
        verbose=0,
        shuffle=False,
    )
    mean = -bias.bias.numpy() / (rate * steps)
    expected = oracles.direct_gradient(h, table, epsilon, "toward_better")
    # One draw has a standard deviation below 1 / epsilon.
    np.testing.assert_allclose(mean, expected, atol=4 / epsilon / np.sqrt(draws))
    assert np.abs(expected).max() > 0.2


def test_custom_loop_has_to_add_the_losses_or_give_the_scale():
    logits, table = tf.constant(fixed_logits(64)), tf.constant(3 * fixed_logits(64)[::-1])

    def gradient(layer, with_losses):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            loss = tf.reduce_mean(tf.reduce_sum(layer(logits, training=True) * table, axis=-1))
            if with_losses:
                loss += sum(layer.losses)
        return tape.gradient(loss, logits)

    measured = gradient(PerturbedArgmax(0.5, seed=1), True)
    given = gradient(PerturbedArgmax(0.5, seed=1, loss_scale=1 / 64), False)
    assert np.any(measured)
    np.testing.assert_allclose(measured, given, rtol=1e-6)
    with pytest.raises(ValueError, match=r"Add sum\(model.losses\) .* \"relative\""):
        gradient(PerturbedArgmax(0.5, seed=1), False)


def test_own_solver():
    layer = PerturbedArgmax(solver=best_half, seed=0)
    code = layer(tf.zeros([5, 6]), training=True).numpy()
    np.testing.assert_array_equal(code.sum(axis=1), [3.0] * 5)
    assert len(np.unique(code, axis=0)) > 1


def test_solver_in_python_keeps_xla_away():
    class InPython:
        supports_jit = False

        def __call__(self, scores):
            code = tf.numpy_function(
                lambda s: np.eye(s.shape[-1], dtype=s.dtype)[s.argmax(-1)], [scores], scores.dtype
            )
            return tf.ensure_shape(code, scores.shape)

    layer = PerturbedArgmax(0.5, InPython(), seed=0)
    assert not layer.supports_jit
    model = keras.Sequential([layer, keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    assert not model.jit_compile
    history = model.fit(fixed_logits(32), np.ones([32, 1]), verbose=0)
    assert np.isfinite(history.history["loss"]).all()


def test_schedule_follows_the_training_calls():
    layer = PerturbedArgmax(schedules.two_phase(4.0, 0.5, 1), seed=0, loss_scale=1.0)
    logits = tf.zeros([400, 2])
    sizes = []
    for _ in range(2):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            first = layer(logits, training=True)[:, 0]
        sizes.append(np.abs(tape.gradient(first, logits).numpy()).max())
    np.testing.assert_allclose(sizes, [1 / 4.0, 1 / 0.5])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_non_finite_logits_raise_in_eager_and_graph_and_stop_a_compiled_fit(bad):
    logits = fixed_logits(4)
    logits[2, 1] = bad
    layer = PerturbedArgmax(seed=0)
    for function in (layer, tf.function(layer)):
        for training in (False, True):
            with pytest.raises(tf.errors.InvalidArgumentError, match="Expected finite logits"):
                function(logits, training=training)
    if bad == np.inf:  # What becomes NaN stops a fit, whatever it was.
        return
    model = keras.Sequential([PerturbedArgmax(seed=0), keras.layers.Dense(1)])
    model.compile("sgd", "mse", jit_compile=True)
    history = model.fit(
        logits, np.ones([4, 1]), epochs=3, verbose=0, callbacks=[keras.callbacks.TerminateOnNaN()]
    )
    assert np.isnan(history.history["loss"][0])
    assert len(history.history["loss"]) == 1


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"solver": solvers.Categorical()},
        {"solver": solvers.SpanningTree(4)},
        {"solver": best_half, "difference": "central"},
    ],
)
def test_saved_and_loaded_model_predicts_alike_and_goes_on_with_the_noise(tmp_path, config):
    model = keras.Sequential(
        [keras.Input((6,)), PerturbedArgmax(schedules.two_phase(1.0, 0.1, 3), seed=3, **config)]
    )
    model(fixed_logits(4, 6), training=True)
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    assert again.layers[0].get_config() == model.layers[0].get_config()
    for training in (False, True):
        np.testing.assert_array_equal(
            model(fixed_logits(4, 6), training=training),
            again(fixed_logits(4, 6), training=training),
        )


def test_a_model_with_a_solver_loads_in_a_new_process(tmp_path):
    model = keras.Sequential(
        [
            keras.Input((5,)),
            PerturbedArgmax(solver=solvers.TopK(3)),
            keras.layers.Reshape((5, 1)),
            keras.layers.Dense(5),
            PerturbedArgmax(solver="assignment"),
        ]
    )
    inputs = fixed_logits(6)
    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "inputs.npy", inputs)
    program = tmp_path / "program.py"
    program.write_text("""
import sys, keras, numpy as np
import tf_direct_opt
model = keras.saving.load_model(sys.argv[1] + "/model.keras", safe_mode=True)
assert model.layers[0].solver.k == 3
np.save(sys.argv[1] + "/outputs.npy", model.predict(np.load(sys.argv[1] + "/inputs.npy")))
""")
    code, _, err = programs.run(program, tmp_path)
    assert code == 0, err
    expected = model.predict(inputs, verbose=0)
    assert expected.shape == (6, 5, 5)
    np.testing.assert_array_equal(np.load(tmp_path / "outputs.npy"), expected)


@pytest.mark.parametrize(
    ("solver", "shape"),
    [
        (solvers.Assignment(), (4, 4)),
        (solvers.Chain(3, 2), (14,)),
        pytest.param(solvers.PairwiseBinary(4), (10,), marks=pytest.mark.slow),
        pytest.param(solvers.ShortestPath(), (3, 4), marks=pytest.mark.slow),
        pytest.param(solvers.SpanningTree(4), (6,), marks=pytest.mark.slow),
        pytest.param(solvers.TopK(2), (5,), marks=pytest.mark.slow),
    ],
    ids=lambda value: type(value).__name__,
)
def test_solvers_learn_under_fit(solver, shape):
    # The target is one configuration; a bias towards it has to be found by the difference alone.
    target = solver(np.random.default_rng(0).normal(size=[1, *shape]).astype(np.float32))[0]
    scores = keras.layers.Dense(int(np.prod(shape)), kernel_initializer="zeros")
    layer = PerturbedArgmax(1.0, solver, seed=0)
    model = keras.Sequential([scores, keras.layers.Reshape(shape), layer])

    def hamming(wanted, code):
        axes = list(range(1, len(shape) + 1))
        return tf.reduce_sum(wanted * (1 - code) + (1 - wanted) * code, axis=axes)

    model.compile(keras.optimizers.Adam(0.3), hamming)
    inputs, targets = np.ones([256, 1], np.float32), np.tile(target, [256] + [1] * len(shape))
    model.fit(inputs, targets, batch_size=16, epochs=2, verbose=0)
    np.testing.assert_array_equal(model.predict(inputs[:2], verbose=0), targets[:2])


def test_output_spec():
    layer = PerturbedArgmax(dtype="mixed_float16")
    assert layer.compute_output_shape((None, 3, 4)) == (None, 3, 4)
    out = layer(keras.KerasTensor((None, 3, 4)))
    assert out.shape == (None, 3, 4)
    assert out.dtype == "float16"
    assert layer(tf.zeros([2, 3, 4]), training=True).dtype == tf.float16


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"epsilon": 0.0}, "Expected `epsilon` to be greater than 0"),
        ({"epsilon": -1}, "Expected `epsilon` to be greater than 0"),
        ({"solver": "softmax"}, "Expected `solver` to be one of"),
        ({"difference": "both"}, "Expected `difference` in .* received 'both'"),
        ({"loss_scale": 0.0}, "Expected a positive `loss_scale`"),
        ({"loss_scale": 1e-50}, "Expected a positive `loss_scale`"),
        ({"epsilon": 1e-50}, "Expected `epsilon` to be greater than 0; received 1e-50"),
        ({"loss_scale": "mean"}, "Expected a positive `loss_scale`, 'relative' or None"),
        ({"seed": "x"}, "Expected `seed` to be an integer"),
        ({"seed": -1}, "Expected `seed` to be an integer from 0 to 2.63 - 1 or None; received -1"),
        ({"seed": 2**63}, "Expected `seed` to be an integer from 0 to"),
        ({"seed": True}, "Expected `seed` to be an integer .* received True"),
        ({"noise": "uniform"}, r"Expected `noise` in \['gumbel', .* or None; received 'uniform'"),
        ({"noise": "sum_of_gamma"}, "Expected `num_ones`, .* received None"),
        ({"noise_scale": -1.0}, "Expected `noise_scale` to be at least 0"),
        ({"noise_scale": 0.0, "learn_noise_scale": True}, "Expected `noise_scale` .* positive"),
        ({"num_samples": 0}, "Expected `num_samples` to be an integer of at least 1"),
    ],
)
def test_bad_arguments_are_refused(config, message):
    with pytest.raises(ValueError, match=message):
        PerturbedArgmax(**config)


@pytest.mark.parametrize("shape", [(3,), (2, 1)])
def test_wrong_logits_are_refused(shape):
    with pytest.raises(ValueError, match=r"Expected logits of shape .* at least 2 categories"):
        PerturbedArgmax()(tf.zeros(shape))


@pytest.mark.filterwarnings("ignore:`shuffle=True`", "ignore:The model does not have any trainable")
@pytest.mark.parametrize(
    "config",
    [
        {"epsilon": 0.5},
        pytest.param(
            {"loss_scale": "relative", "difference": "central", "num_samples": 2},
            marks=pytest.mark.slow,
        ),
        pytest.param({"loss_scale": "relative", "learn_noise_scale": True}, marks=pytest.mark.slow),
    ],
)
def test_what_keras_asks_of_every_layer(config):
    ask = functools.partial(
        testing.TestCase().run_layer_test,
        PerturbedArgmax,
        init_kwargs={"seed": 0, **config},
        input_shape=(2, 5),
        expected_num_losses=None,
        expected_num_trainable_weights=int("learn_noise_scale" in config),
        expected_num_non_trainable_weights=1,  # The number of draws.
        expected_num_seed_generators=0,
        supports_masking=True,
    )
    ask(expected_output_shape=(2, 5))
    with pytest.raises(AssertionError):  # It asserts by itself.
        ask(expected_output_shape=(2, 4))
