"""Estimators, posteriors, networks, likelihoods and losses of one's own, and Keras' settings.

Each is right, or refused in one line, where it was once silently wrong or a traceback.
"""

import contextlib
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from replicas import two_replicas

from tf_direct_opt import codebook, decisions, direct, estimators, labels, posteriors, solvers
from tf_direct_opt.layers import PerturbedArgmax
from tf_direct_opt.models import DiscreteVAE, MixtureVAE, PosteriorVAE
from tf_direct_opt.solvers.base import exact

tfd = tfp.distributions
IMAGES = np.random.default_rng(0).integers(0, 2, [8, 6, 6]).astype("float32")


def encoder(size):
    return keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(size)])


def trained_once(model, *data, **compiled):
    model.compile(keras.optimizers.SGD(0.1), **compiled)
    return model.train_on_batch(*(data or (IMAGES,)), return_dict=True)


# What returns another shape, or another dtype.


@pytest.mark.parametrize("columns", [1, 8])
def test_an_estimator_returns_one_number_an_example(columns):
    class Own(estimators.Estimator):
        def estimate(self, posterior, loss_fn, step):
            losses = loss_fn(posterior.sample(1, self.seeds.next()))
            return tf.repeat(losses, columns, axis=1)

    model = DiscreteVAE(3, 2, Own(seed=0), hidden_units=4)
    with pytest.raises(ValueError, match=r"Expected `estimate` of Own, one number .* \(8, \d\)"):
        trained_once(model)


def test_a_posterior_has_one_kl_an_example(monkeypatch):
    kl = posteriors.Chain.kl_to_uniform
    monkeypatch.setattr(posteriors.Chain, "kl_to_uniform", lambda self: kl(self)[:, tf.newaxis])
    family = posteriors.get("chain", num_variables=2, num_categories=2)
    with pytest.raises(ValueError, match="Expected the KL of the posterior, one number an exam"):
        trained_once(PosteriorVAE(family, hidden_units=4))


@pytest.mark.parametrize("name", ["score", "log_partition"])
def test_a_score_with_an_axis_of_1(monkeypatch, name):
    right = getattr(posteriors.Chain, name)
    monkeypatch.setattr(posteriors.Chain, name, lambda *a: right(*a)[..., tf.newaxis])
    family = posteriors.get("chain", num_variables=2, num_categories=2)
    with pytest.raises(ValueError, match=f"Expected `{name}` of Chain to be .*; received shape"):
        trained_once(PosteriorVAE(family, hidden_units=4))


def test_a_weight_that_is_set_when_its_step_is_traced():
    model = DiscreteVAE(1, 3, hidden_units=4)
    trained_once(model)
    with pytest.raises(ValueError, match="Expected `kl_weight` before the training step is traced"):
        model.kl_weight = 0.5
    assert model.kl_weight == 1.0
    model.compile("sgd")
    model.kl_weight = 0.5
    assert model.fit(IMAGES, verbose=0).history["kl_weight"] == [0.5]
    with pytest.raises(ValueError, match="Expected `kl_weight` to be at least 0"):
        DiscreteVAE(1, 3).kl_weight = -1.0


def test_a_distribution_of_ones_own_without_checks():
    class Plain(tfd.Distribution):
        def __init__(self, logits):
            super().__init__(
                tf.float32, tfp.distributions.NOT_REPARAMETERIZED, False, False,
                parameters={"logits": logits},
            )  # fmt: skip
            self.logits = logits

        def _batch_shape_tensor(self):
            return tf.shape(self.logits)

        def _batch_shape(self):
            return self.logits.shape

        def _event_shape(self):
            return tf.TensorShape([])

        def _log_prob(self, value):
            return tfd.Bernoulli(self.logits).log_prob(value)

    model = DiscreteVAE(1, 3, hidden_units=4, likelihood=lambda o: Plain(o[..., 0]))
    assert np.isfinite(trained_once(model)["loss"])


def test_a_distribution_in_float64():
    def double(outputs):
        return tfd.Normal(tf.cast(outputs[..., 0], tf.float64), np.float64(1))

    assert np.isfinite(trained_once(DiscreteVAE(1, 3, hidden_units=4, likelihood=double))["loss"])


@pytest.mark.parametrize(
    ("wrapped", "inside"),
    [
        (lambda o: tfd.Independent(tfd.Bernoulli(logits=o[..., 0]), 1), IMAGES),
        (lambda o: tfd.Independent(tfd.Beta(tf.exp(o[..., 0]), 1.0), 1), IMAGES / 2 + 0.25),
        (
            lambda o: tfd.MixtureSameFamily(
                tfd.Categorical(logits=tf.zeros([2])),
                tfd.Bernoulli(logits=o[..., :1] + tf.zeros([2])),
            ),
            IMAGES,
        ),
        (
            lambda o: tfd.Mixture(
                tfd.Categorical(logits=tf.stack([0.0 * o[..., 0]] * 2, axis=-1)),
                [tfd.Bernoulli(logits=o[..., 0]), tfd.Bernoulli(logits=-o[..., 0])],
            ),
            IMAGES,
        ),
    ],
    ids=["Bernoulli", "Beta", "mixture", "list"],
)
def test_images_outside_of_the_support_of_what_a_distribution_wraps(wrapped, inside):
    model = DiscreteVAE(1, 3, hidden_units=4, likelihood=wrapped)
    assert np.isfinite(trained_once(model, inside)["loss"])
    with pytest.raises(tf.errors.InvalidArgumentError):
        model.train_on_batch(IMAGES * 255.5)


# Losses that a decoder adds, and losses of one's own.


class Penalty(keras.layers.Layer):
    def call(self, codes):
        self.add_loss(tf.constant(1.0))
        return codes


@pytest.mark.parametrize("name", ["direct", "local_expectation", "candidates", "reinmax"])
@pytest.mark.parametrize(
    "more",
    [
        pytest.param([], id="", marks=pytest.mark.slow),
        pytest.param([keras.layers.Dropout(0.5)], id="Dropout"),
    ],
)
def test_a_penalty_of_the_decoder_is_that_of_the_codes_used(name, more):
    layers = [Penalty(), *(type(layer)(0.5) for layer in more), keras.layers.Dense(36)]
    model = DiscreteVAE(3, 2, name, decoder=keras.Sequential(layers), hidden_units=4)
    logs = trained_once(model)
    # A penalty of 1, counted once.
    assert logs["loss"] - logs["reconstruction"] - logs["kl"] == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("replicas", [2, pytest.param(1, marks=pytest.mark.slow)])
def test_a_penalty_on_two_replicas_and_under_xla(replicas):
    with two_replicas().scope() if replicas == 2 else contextlib.nullcontext():
        layers = [Penalty(), keras.layers.Dense(36, activity_regularizer="l2")]
        model = DiscreteVAE(3, 2, "direct", decoder=keras.Sequential(layers), hidden_units=4)
        model.compile("sgd", jit_compile=replicas == 1)
        assert np.isfinite(model.fit(IMAGES, batch_size=4, verbose=0).history["loss"]).all()


def test_a_penalty_is_differentiated_once_on_every_number_of_replicas():
    def weights(scope):
        keras.utils.set_random_seed(0)
        with scope:
            layers = [keras.layers.Dense(36, kernel_regularizer=keras.regularizers.L2(1.0))]
            model = DiscreteVAE(1, 3, "exact", decoder=keras.Sequential(layers), hidden_units=4)
            model.compile(keras.optimizers.SGD(0.1))
        model.fit(IMAGES, batch_size=8, verbose=0, shuffle=False)
        return model.get_weights()

    for one, two in zip(
        weights(contextlib.nullcontext()), weights(two_replicas().scope()), strict=True
    ):
        np.testing.assert_allclose(two, one, atol=1e-5)


def test_activities_of_many_flips_are_not_those_of_the_model():
    decoder = keras.Sequential(
        [keras.layers.Dense(8, activity_regularizer="l2"), keras.layers.Dense(36)]
    )
    assert np.isfinite(trained_once(DiscreteVAE(3, 30, "direct", decoder=decoder))["loss"])


# Posteriors by their names.


class Reversed(posteriors.Chain):
    def mode(self):
        return super().mode()[..., ::-1]


@pytest.fixture
def registry():
    before = dict(posteriors.REGISTRY)
    yield
    posteriors.REGISTRY.clear()
    posteriors.REGISTRY.update(before)


@pytest.mark.usefixtures("registry")
def test_a_family_is_saved_under_its_own_name_only():
    config = {"num_variables": 3, "num_categories": 2}
    for name in ("chain", "reversed"):
        with pytest.raises(ValueError, match=r"Expected a registered posterior .* received Rever"):
            posteriors.Family(name, Reversed, config).get_config()
    with pytest.raises(ValueError, match="Expected a name that is not taken; received 'chain'"):
        posteriors.register("chain", Reversed)
    posteriors.register("reversed", Reversed)
    posteriors.register("reversed", Reversed)
    family = posteriors.Family("reversed", Reversed, config)
    assert posteriors.get(family.get_config()) == family
    assert posteriors.get(family.get_config()).kind is Reversed


def test_a_family_without_its_sizes():
    class Sized(posteriors.Chain):
        pass

    family = posteriors.Family("sized", Sized, {"num_variables": 3})
    with pytest.raises(ValueError, match="Expected `num_categories` among the arguments of Sized"):
        _ = family.num_categories


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("categorical", {"num_variables": 0, "num_categories": 2}),
        ("categorical", {"num_variables": 2, "num_categories": 1}),
        ("categorical", {"num_variables": 2.5, "num_categories": 2}),
        ("categorical", {"num_variables": "2", "num_categories": 2}),
        ("pairwise_binary", {"num_variables": -1}),
        ("pairwise_binary", {"num_variables": 2.0}),
        ("pairwise_binary", {"num_variables": 2, "couplings": "no"}),
        ("pairwise_binary", {"num_variables": 2, "unary_density": "no"}),
        ("class_gaussian", {"num_categories": 0, "gaussian_dim": 2}),
        ("class_gaussian", {"num_categories": 2, "gaussian_dim": 0}),
    ],
)
def test_sizes_that_are_none(name, config):
    with pytest.raises(ValueError, match="Expected `"):
        posteriors.get(name, **config)


# Clocks of schedules.


@pytest.mark.parametrize(
    ("make", "report"),
    [
        (lambda s: estimators.GumbelRao(s, seed=0), "temperature"),
        (lambda s: estimators.GumbelSoftmax(s, seed=0), "temperature"),
        (lambda s: estimators.Direct(s, num_flipped=1, seed=0), "epsilon"),
        (lambda s: estimators.Direct(s, num_flipped=3, seed=0), "epsilon"),
    ],
)
def test_a_schedule_goes_by_training_calls(make, report):
    estimator = make(keras.optimizers.schedules.PolynomialDecay(1.0, 10, 0.1))
    found = []
    for _ in range(3):
        for metric in estimator.metrics:
            metric.reset_state()
        estimator(tf.zeros([4, 2, 3]), loss_fn=lambda codes: codes[..., 0, 0], training=True)
        found.append(float(estimator.metrics[0].result()[report]))
    assert found == pytest.approx([1.0, 0.91, 0.82])


def by_calls():
    """Estimators of a categorical posterior that something goes by the number of calls of."""
    scheduled = {"epsilon", "temperature", "noise_scale"}
    names = {*estimators.names()} - {"flips", "exact"}
    return sorted(name for name in names if estimators.arguments(name) & scheduled)


@pytest.mark.parametrize("name", by_calls())
def test_a_call_of_every_estimator_with_a_schedule_is_counted_once(name):
    estimator = estimators.get(name, seed=0)
    posterior = posteriors.Categorical(tf.zeros([4, 3, 2]))
    for _ in range(2):
        estimator(posterior.parameters, loss_fn=lambda codes: codes[..., 0, 0], training=True)
    assert int(estimator.seeds.num_drawn) == 2 * estimator.draws_a_call(posterior)


# Shapes that would be broadcast.


def test_what_does_not_belong_together_is_not_broadcast():
    logits, noise, solver = tf.zeros([4, 3]), tf.zeros([4, 3]), solvers.Categorical()
    loss, table = tf.zeros([4]), tf.zeros([4, 3])
    refused = (
        lambda: direct.direct_argmax(tf.zeros([4, 1, 3]), noise, 1.0, solver),
        lambda: direct.direct_argmax(logits, noise[:1], 1.0, solver),
        lambda: direct.direct_loss(loss, logits, noise, table[:, None], 1.0, solver),
        lambda: direct.direct_loss(loss[0], logits, noise, table, 1.0, solver),
        lambda: labels.direct_label_loss(tf.zeros([4, 1, 3]), noise, tf.zeros([4], tf.int32), 0.5),
        lambda: labels.direct_label_loss(logits, noise[:1], tf.zeros([4], tf.int32), 0.5),
    )
    for call in refused:
        with pytest.raises(ValueError, match=r"^Expected .*received"):
            call()


@pytest.mark.parametrize("layout", [(8, 36), (8, 6, 6, 1), (8, 4, 9)])
def test_targets_that_are_images_in_another_layout(layout):
    with pytest.raises(ValueError, match="Expected images alone, which are their own targets"):
        trained_once(DiscreteVAE(1, 3, hidden_units=4), IMAGES, IMAGES.reshape(layout))


@pytest.mark.parametrize(
    ("outputs", "image", "right"),
    [
        *(((*outputs,), (8, 4, 3), True) for outputs in ([96], [8, 4, 3], [32, 3], [8, 12])),
        *(
            ((*outputs,), (8, 4, 3), False)
            for outputs in ([3, 8, 4], [4, 8, 3], [8, 3, 4], [4, 24])
        ),
        ((8, 4, 3, 2), (8, 4, 3), True),
        ((8, 4, 6), (8, 4, 3), True),
        ((2, 8, 8), (8, 8), False),
        ((8, 8, 2), (8, 8, 1), True),
        ((64, 2), (8, 8), True),
        ((1, 8, 8), (8, 8, 1), True),
        ((8, 8), (64,), True),
    ],
)
def test_outputs_of_a_decoder_lie_as_the_pixels_do(outputs, image, right):
    decoder = keras.Sequential(
        [keras.layers.Dense(math.prod(outputs)), keras.layers.Reshape(outputs)]
    )
    likelihood = "gaussian"
    if math.prod(outputs) > math.prod(image):
        likelihood = lambda o: tfd.Normal(o[..., 0], tf.exp(o[..., 1]))  # noqa: E731
    model = DiscreteVAE(1, 3, decoder=decoder, hidden_units=4, likelihood=likelihood)
    if right:
        model.build((None, *image))
        return
    with pytest.raises(ValueError, match=r"Expected a decoder whose outputs are laid out as"):
        model.build((None, *image))


@pytest.mark.parametrize("loss_scale", [None, "relative", 0.25])
def test_a_decoder_whose_layer_measures_its_factor_is_refused(loss_scale):
    inner = keras.Sequential([keras.layers.Dense(5), PerturbedArgmax(loss_scale=loss_scale)])
    decoder = keras.Sequential([inner, keras.layers.Dense(36)])
    model = DiscreteVAE(1, 3, decoder=decoder, hidden_units=4)
    if loss_scale is not None:
        model.build((None, 6, 6))
        return
    with pytest.raises(ValueError, match="Expected PerturbedArgmax in a decoder"):
        model.build((None, 6, 6))


@pytest.mark.parametrize(
    "model_class", [DiscreteVAE, pytest.param(MixtureVAE, marks=pytest.mark.slow)]
)
def test_the_loss_of_images_alone_needs_an_optimizer_for_its_steps(model_class):
    model = model_class(num_categories=3, hidden_units=4, seed=0)
    model.build((None, 6, 6))
    assert np.isfinite(model.compute_loss(IMAGES, training=False))
    with pytest.raises(ValueError, match="Expected a compiled model"):
        model.compute_loss(IMAGES)
    model.compile("sgd")
    assert np.isfinite(model.compute_loss(IMAGES))


def test_images_of_another_layout():
    model = DiscreteVAE(1, 3, hidden_units=4)
    trained_once(model, IMAGES.reshape(8, 4, 9))
    for same in ((8, 4, 9, 1), (8, 36)):
        assert np.isfinite(model.evaluate(IMAGES.reshape(same), verbose=0)[0])
    for _ in range(2):  # In the graph, where its shape is known and where it is not.
        with pytest.raises(
            (ValueError, tf.errors.InvalidArgumentError),
            match=r"Expected images of the size \(4, 9",
        ):
            model.train_on_batch(IMAGES.reshape(8, 9, 4))


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf])
def test_a_tensor_for_the_loss_scale_is_positive(scale):
    logits = tf.Variable(tf.zeros([4, 3]))
    with tf.GradientTape() as tape:
        code = direct.direct_argmax(
            logits, tf.zeros([4, 3]), 1.0, solvers.Categorical(), loss_scale=tf.constant(scale)
        )
        loss = tf.reduce_sum(code * tf.range(3.0))
    with pytest.raises(tf.errors.InvalidArgumentError, match="Expected a positive, finite `loss_s"):
        tape.gradient(loss, logits)


def test_arguments_of_the_layer():
    for wrong in (
        {"loss_scale": tf.constant(0.25)}, {"loss_scale": np.ones(4)},
        {"noise": None, "learn_noise_scale": True},
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"^Expected .*received"):
            PerturbedArgmax(0.5, **wrong)
    layer = PerturbedArgmax(0.5, noise_scale=1000.0, learn_noise_scale=True)
    layer.build((None, 3))
    assert float(layer._noise_scale(0)) == pytest.approx(1000.0)


# A second call of another rank, for which TensorFlow traces with an unknown one.


def test_labels_weights_and_images_of_one_rank_more():
    model = DiscreteVAE(1, 3, "exact", hidden_units=4)
    model.compile("sgd", run_eagerly=True)
    ones = np.ones(8, "float32")
    model.fit(IMAGES, np.zeros(8), sample_weight=ones, verbose=0)
    model.fit(IMAGES, np.zeros((8, 1)), sample_weight=ones[:, None], verbose=0)
    expected = model.evaluate(IMAGES, verbose=0)
    assert model.evaluate(IMAGES[..., None], verbose=0) == pytest.approx(expected)
    mixture = MixtureVAE(3, 2, hidden_units=4, seed=0)
    mixture.compile("sgd", run_eagerly=True)
    classes = np.arange(8) % 3
    for given in (classes, classes[:, None]):
        assert np.isfinite(mixture.fit(IMAGES, given, verbose=0).history["loss"]).all()


def test_images_whose_shape_nobody_says():
    def unknown(images):
        return tf.numpy_function(lambda x: x, [images], tf.float32)

    data = tf.data.Dataset.from_tensors(IMAGES).map(unknown)
    model = DiscreteVAE(1, 3, "exact", hidden_units=4)
    model.compile("sgd")
    with pytest.raises(ValueError, match=r"Expected images .* known size; .* tf.ensure_shape"):
        model.fit(data, verbose=0, shuffle=False)
    model.build((None, 6, 6))
    assert model.evaluate(data, verbose=0) == pytest.approx(model.evaluate(IMAGES, verbose=0))
    model.fit(data, verbose=0, shuffle=False)
    other = tf.data.Dataset.from_tensors(IMAGES[:, :3]).map(unknown)
    with pytest.raises(tf.errors.InvalidArgumentError, match="Expected images of the size"):
        model.evaluate(other, verbose=0)


# Networks of one's own.


class Own(keras.Model):
    def __init__(self, units):
        super().__init__()
        self.flatten, self.dense = keras.layers.Flatten(), keras.layers.Dense(units)

    def call(self, inputs):
        return self.dense(self.flatten(inputs))


def test_a_subclassed_model_as_encoder_and_decoder():
    model = DiscreteVAE(1, 3, encoder=Own(3), decoder=Own(36))
    model.compile("adam")
    before = None
    for _ in range(2):
        model.fit(IMAGES, verbose=0)
        weights = [np.array(weight) for weight in model.trainable_weights]
        assert len(weights) == 4
        assert before is None or not np.array_equal(before[0], weights[0])
        before = weights


def test_a_network_of_several_outputs():
    inputs = keras.Input((6, 6))
    flat = keras.layers.Flatten()(inputs)
    two = keras.Model(inputs, [keras.layers.Dense(3)(flat), keras.layers.Dense(3)(flat)])

    class Dict(keras.layers.Layer):
        def call(self, codes):
            return {"a": codes}

    for networks in ({"encoder": two}, {"decoder": Dict()}):
        with pytest.raises(ValueError, match="Expected one tensor from"):
            DiscreteVAE(1, 3, **networks).build((None, 6, 6))


def test_frozen_networks_are_evaluated_as_they_are():
    model = DiscreteVAE(1, 3, encoder=encoder(3), decoder=encoder(36))
    model.encoder.trainable = model.decoder.trainable = False
    assert np.isfinite(trained_once(model)["loss"])


# What Keras is set to.


@pytest.mark.parametrize("name", ["float64", "bfloat16"])
def test_other_floats_of_keras(name):
    keras.config.set_floatx(name)
    try:
        model = keras.Sequential(
            [keras.layers.Dense(4), PerturbedArgmax(0.5, seed=0), keras.layers.Dense(1)]
        )
        model.compile("sgd", "mse")
        loss = model.fit(np.ones([8, 3]), np.ones([8, 1]), verbose=0).history["loss"]
        assert math.isfinite(float(loss[0]))
        regret = decisions.Regret()
        regret.update_state([[[3.0, 2.0], [0.0, 1.0]]], [[1.0, 0.0]])
        assert float(regret.result()) == pytest.approx(0.5, rel=1e-2)
    finally:
        keras.config.set_floatx("float32")


# The rest.


def test_a_solver_may_have_an_attribute_exact():
    class Flagged(solvers.Categorical):
        exact = True

    class Method(solvers.Categorical):
        def exact(self, tolerance):
            return tolerance

    for solver in (Flagged(), Method()):
        assert exact(solver) is solver


def test_codes_without_biases_are_not_restarted():
    without = keras.layers.Dense(3, use_bias=False)
    embedding = keras.layers.Dense(2)
    without.build((None, 4))
    embedding.build((None, 3))
    with pytest.raises(ValueError, match=r"Expected layers of the 3 codes .* 0 biases"):
        codebook.restart_dead_codes(np.array([1.0, 0.0, 0.0]), without, embedding)


def test_a_loss_in_its_place_is_refused():
    with pytest.raises(ValueError, match=r"Expected compile\(optimizer=...\) alone; received"):
        DiscreteVAE(1, 3).compile("adam", "mse")


@pytest.mark.usefixtures("registry")
def test_posterior_vae_of_a_class_of_ones_own_is_saved(tmp_path):
    posteriors.register("reversed", Reversed)
    family = posteriors.Family("reversed", Reversed, {"num_variables": 2, "num_categories": 2})
    model = PosteriorVAE(family, hidden_units=4, seed=0)
    model.compile("sgd")
    model.build((None, 6, 6))
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    assert again.posterior.kind is Reversed
    np.testing.assert_array_equal(again(IMAGES)["code"], model(IMAGES)["code"])
