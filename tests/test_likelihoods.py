"""Likelihoods against SciPy in float64, and as an argument of the models."""

import keras
import numpy as np
import pytest
import scipy.special
import scipy.stats
import tensorflow as tf
import tensorflow_probability as tfp
from test_model_trust import compiled, discrete, mixture, structured, values

from tf_direct_opt import likelihoods, posteriors
from tf_direct_opt.models import DiscreteVAE, PosteriorVAE

tfd = tfp.distributions
LEVELS = 16


@keras.saving.register_keras_serializable("test_likelihoods")
def with_scales(outputs):
    """A scale for every pixel, from the decoder."""
    return tfd.Laplace(outputs[..., 0], tf.nn.softplus(outputs[..., 1]))


def whole_images(outputs):
    """One distribution over all pixels of an image."""
    return tfd.MultivariateNormalDiag(outputs[..., 0], 0.3 * tf.ones_like(outputs[..., 0]))


def logistic_levels(x, outputs, scale):
    """log P of the levels by masses of intervals, the first and the last unbounded."""
    level, last = np.round(x * (LEVELS - 1)), LEVELS - 1
    upper, lower = (
        scipy.special.expit(((level + half) / last - outputs) / scale) for half in (0.5, -0.5)
    )
    return np.log(np.where(level == last, 1.0, upper) - np.where(level == 0, 0.0, lower))


def softmax_levels(x, outputs):
    level = np.round(x * (LEVELS - 1)).astype(int)
    log_probs = scipy.special.log_softmax(outputs, axis=-1)
    return np.sum(np.eye(LEVELS)[level] * log_probs, axis=-1)


# Of each: the likelihood, its outputs a pixel, and log p of pixels [B, 1, P] given [S, M, P, C].
CASES = {
    "bernoulli": (
        likelihoods.Bernoulli,
        1,
        lambda x, o: scipy.stats.bernoulli.logpmf(np.round(x), scipy.special.expit(o[..., 0])),
    ),
    "gaussian": (
        lambda: likelihoods.Gaussian(0.3),
        1,
        lambda x, o: scipy.stats.norm.logpdf(x, o[..., 0], 0.3),
    ),
    "gaussian_fixed": (
        lambda: likelihoods.Gaussian(0.2, learned=False),
        1,
        lambda x, o: scipy.stats.norm.logpdf(x, o[..., 0], 0.2),
    ),
    "discretised_logistic": (
        lambda: likelihoods.DiscretisedLogistic(0.05, levels=LEVELS),
        1,
        lambda x, o: logistic_levels(x, o[..., 0], 0.05),
    ),
    "categorical": (lambda: likelihoods.Categorical(LEVELS), LEVELS, softmax_levels),
    "laplace": (
        lambda: likelihoods.get(with_scales),
        2,
        lambda x, o: scipy.stats.laplace.logpdf(x, o[..., 0], np.logaddexp(0, o[..., 1])),
    ),
    "whole_images": (
        lambda: likelihoods.get(whole_images),
        1,
        lambda x, o: scipy.stats.norm.logpdf(x, o[..., 0], 0.3),
    ),
}


def problem(name, shared):
    make, per_pixel, log_prob = CASES[name]
    generator = np.random.default_rng(0)
    levels = 2 if name == "bernoulli" else LEVELS
    images = (generator.integers(0, levels, [5, 7]) / (levels - 1)).astype(np.float32)
    outputs = generator.normal(0.5, 0.5, [shared, 3, 7, per_pixel]).astype(np.float32)
    return make(), images, outputs, log_prob


def test_every_registered_likelihood_is_below():
    assert {*likelihoods.names()} <= {*CASES}


@pytest.mark.parametrize("shared", [1, 5])
@pytest.mark.parametrize("name", CASES)
def test_negative_log_likelihood_by_its_definition(name, shared):
    likelihood, images, outputs, log_prob = problem(name, shared)
    got = likelihood.negative_log_likelihood(tf.constant(images), tf.constant(outputs))
    wide = outputs.astype(np.float64), images.astype(np.float64)[:, np.newaxis]
    expected = -np.sum(log_prob(wide[1], wide[0]), axis=-1)
    assert got.dtype == tf.float32
    np.testing.assert_allclose(got, expected, rtol=2e-5)


@pytest.mark.parametrize("name", ["gaussian", "discretised_logistic", "categorical"])
def test_gradients_by_finite_differences(name):
    likelihood, images, outputs, _ = problem(name, 1)
    likelihood.build()
    variables = [tf.Variable(outputs), *likelihood.trainable_variables]
    loss = lambda: likelihood.negative_log_likelihood(tf.constant(images), variables[0])  # noqa: E731
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(loss())
    for variable, gradient in zip(variables, tape.gradient(total, variables), strict=True):
        direction = np.random.default_rng(1).normal(size=variable.shape).astype(np.float32)
        value, steps = variable.numpy(), []
        for step in (1e-2, -1e-2):
            variable.assign(value + step * direction)
            steps.append(np.sum(loss().numpy().astype(np.float64)))
        variable.assign(value)
        slope = np.sum(gradient * direction)
        assert (steps[0] - steps[1]) / 2e-2 == pytest.approx(slope, rel=2e-3, abs=0.05)


@pytest.mark.parametrize("name", ["discretised_logistic", "categorical"])
def test_the_levels_of_a_pixel_share_all_the_probability(name):
    likelihood, _, outputs, _ = problem(name, 1)
    every = np.tile(np.arange(LEVELS)[:, np.newaxis] / (LEVELS - 1), [1, 7]).astype(np.float32)
    one_pixel = [
        likelihood.negative_log_likelihood(every[:, i : i + 1], outputs[:, :, i : i + 1])
        for i in range(7)
    ]
    np.testing.assert_allclose(np.sum(np.exp(-np.array(one_pixel)), axis=1), 1.0, rtol=1e-5)
    by_levels = np.einsum("pbm,b->pm", np.exp(-np.array(one_pixel)), every[:, 0]).T
    # Rounding moves the mean of the logistic by less than half a level.
    np.testing.assert_allclose(likelihood.means(tf.constant(outputs))[0], by_levels, atol=0.04)


def test_a_logistic_far_from_its_pixel_has_a_finite_loss_and_slope():
    likelihood = likelihoods.DiscretisedLogistic(1e-3)
    outputs = tf.Variable(np.linspace(-30.0, 30.0, 7).reshape([1, 7, 1, 1]).astype(np.float32))
    with tf.GradientTape() as tape:
        losses = likelihood.negative_log_likelihood(tf.constant([[0.0], [0.2], [1.0]]), outputs)
    assert np.all(np.isfinite(losses))
    slopes = tape.gradient(losses, outputs).numpy().ravel()
    assert np.all(np.isfinite(slopes))
    # 1 / scale of each image, but for the one whose level is the last on that side.
    assert slopes[0] == pytest.approx(-2000.0)
    assert slopes[-1] == pytest.approx(2000.0)


@pytest.mark.parametrize("ratio", [0.5, 1.0, 2.0])
def test_a_learned_scale_goes_to_the_deviation_of_the_pixels(ratio):
    images = tf.random.stateless_normal([20, 9], [1, 2])
    deviation = np.sqrt(np.mean(np.square(images)))
    likelihood = likelihoods.Gaussian(ratio * deviation)
    with tf.GradientTape() as tape:
        loss = likelihood.negative_log_likelihood(images, tf.zeros([1, 1, 9, 1]))
    slope = tape.gradient(loss, likelihood.log_scale)
    assert float(slope) == pytest.approx(180 * (1 - ratio**-2), abs=1e-3)


def test_a_fixed_scale_stays():
    fixed = likelihoods.Gaussian(learned=False)
    fixed.build()
    assert float(fixed.scale) == pytest.approx(0.1)
    assert not fixed.variables


# What is refused.


@pytest.mark.parametrize(
    ("identifier", "message"),
    [
        ("poisson", r"Expected `likelihood` to be one of \['bernoulli'"),
        (likelihoods.Gaussian, "Expected `likelihood` to be one of"),
        (lambda outputs: outputs, r"Expected `likelihood` to return a tfp.distributions"),
        (
            lambda outputs: tfd.Normal(tf.zeros([4]), 1.0),
            r"Expected `likelihood` to be a distribution over 36 pixels",
        ),
    ],
)
def test_what_is_no_likelihood_is_refused(identifier, message):
    with pytest.raises(ValueError, match=message):
        compiled(discrete(likelihood=identifier)).train_on_batch(levels(4))


@pytest.mark.parametrize("name", ["categorical", "discretised_logistic"])
def test_images_of_other_levels_are_refused(name):
    model = compiled(discrete(likelihood=name))
    for images in (255.0 * levels(4), -levels(4), levels(4) + 0.4 / 255):
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"Expected images with values k"):
            model.train_on_batch(images)
    assert np.isfinite(model.train_on_batch(levels(4).astype(np.float16))).all()


def test_a_decoder_that_does_not_fit_the_likelihood_is_refused():
    decoder = keras.Sequential([keras.layers.Dense(36)], name="decoder")
    with pytest.raises(ValueError, match=r"Expected 9216 outputs an example from `decoder`"):
        DiscreteVAE(likelihood="categorical", decoder=decoder).build((None, 6, 6))
    with pytest.raises(ValueError, match=r"Expected a multiple of 36 outputs an example"):
        DiscreteVAE(
            likelihood=with_scales, decoder=keras.Sequential([keras.layers.Dense(37)])
        ).build((None, 6, 6))


# In the models.


def levels(count):
    return np.random.default_rng(0).integers(0, 256, [count, 6, 6]).astype(np.float32) / 255


def posterior_vae(**config):
    chain = posteriors.get("chain", num_variables=3, num_categories=2)
    return PosteriorVAE(chain, hidden_units=4, num_eval_samples=3, seed=0, **config)


MODELS = {
    "discrete": discrete,
    "structured": structured,
    "mixture": mixture,
    "chain": posterior_vae,
}


@pytest.mark.parametrize(
    ("model", "likelihood"),
    [
        ("discrete", "gaussian"),
        pytest.param("chain", with_scales, marks=pytest.mark.slow),
        pytest.param(
            "structured", likelihoods.DiscretisedLogistic(levels=4), marks=pytest.mark.slow
        ),
        pytest.param("mixture", likelihoods.Categorical(4), marks=pytest.mark.slow),
    ],
    ids=["gaussian", "function", "logistic", "categorical"],
)
def test_models_train_evaluate_and_are_saved_with_a_likelihood(model, likelihood, tmp_path):
    own = likelihood is with_scales
    decoder = keras.Sequential([keras.layers.Dense(72)]) if own else None
    prior = {"prior": "learned"} if model == "discrete" else {}
    model = compiled(MODELS[model](likelihood=likelihood, decoder=decoder, **prior))
    images = np.round(3 * levels(4)) / np.float32(3)
    before = model.evaluate(images, verbose=0, return_dict=True)
    assert before["bits_per_dimension"] == pytest.approx(before["loss"] / 36 / np.log(2), rel=1e-5)
    first = values(model.trainable_variables)
    for _ in range(4):
        model.train_on_batch(images)
    assert model.evaluate(images, verbose=0, return_dict=True)["loss"] < before["loss"]
    for now, then in zip(values(model.trainable_variables), first, strict=True):
        assert np.any(now != then)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.likelihood.get_config() == model.likelihood.get_config()
    for got, expected in zip(
        values(again.trainable_variables), values(model.trainable_variables), strict=True
    ):
        np.testing.assert_array_equal(got, expected)
    out, expected = again(images), model(images)
    np.testing.assert_array_equal(out["reconstruction"], expected["reconstruction"])


def test_the_bits_of_binary_images_are_at_most_one():
    model = compiled(discrete())
    figures = model.evaluate(np.round(levels(8)), verbose=0, return_dict=True)
    # Independent fair pixels take a bit each; the KL of an untrained encoder comes on top.
    bits = (figures["reconstruction"] + figures["kl"]) / np.log(2) / 36
    assert figures["bits_per_dimension"] == pytest.approx(bits, rel=1e-5)
    assert 0.9 < figures["bits_per_dimension"] < 1.2
