"""A prior that is learned: its KL, bounds and draws by enumeration."""

import keras
import numpy as np
import oracles
import pytest
import scipy.special
import tensorflow as tf
from test_discrete_vae import make_model, stripes

from tf_direct_opt import posteriors
from tf_direct_opt.models import MixtureVAE, PosteriorVAE, StructuredVAE


def logits(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def kl_by_enumeration(h, l):  # noqa: E741
    """Sum over all K^N codes, [N, K] each, in float64."""
    codes = oracles.all_codes(*h.shape)
    log_q, log_p = (oracles.log_posterior(given, codes) for given in (h, l))
    return np.sum(np.exp(log_q) * (log_q - log_p))


def test_kl_to_a_prior_and_its_gradients():
    h, prior = logits(2, 3, 4), logits(1, 3, 4, seed=1)
    variables = [tf.Variable(value, dtype=tf.float32) for value in (h, prior)]
    with tf.GradientTape() as tape:
        kl = posteriors.Categorical(variables[0]).kl_to(posteriors.Categorical(variables[1]))
    np.testing.assert_allclose(kl, [kl_by_enumeration(one, prior[0]) for one in h], rtol=1e-5)
    for gradient, which in zip(tape.gradient(kl, variables), (0, 1), strict=True):
        direction = logits(*gradient.shape, seed=2)
        ends = []
        for step in (1e-5, -1e-5):
            moved = [h.copy(), prior.copy()]
            moved[which] += step * direction
            ends.append(sum(kl_by_enumeration(one, moved[1][0]) for one in moved[0]))
        assert (ends[0] - ends[1]) / 2e-5 == pytest.approx(np.sum(gradient * direction), rel=1e-4)


def with_prior(**config):
    model = make_model({"run_eagerly": True}, prior="learned", **config)
    model.build((None, 6, 6))
    model.prior_logits.assign(2.0 * logits(*model.prior_logits.shape))
    return model


@pytest.mark.parametrize(("num_variables", "num_categories"), [(1, 4), (2, 3)])
def test_bounds_by_enumeration(num_variables, num_categories):
    model = with_prior(
        num_variables=num_variables, num_categories=num_categories, num_eval_samples=500
    )
    for weight in model.decoder.trainable_weights:  # Codes that differ.
        weight.assign(4.0 * weight)
    images = stripes(20)
    codes = oracles.all_codes(num_variables, num_categories)
    log_p = oracles.log_posterior(model.prior_logits.numpy().astype(np.float64), codes)
    f = model.make_loss_fn(images)(tf.constant(codes[np.newaxis], tf.float32)).numpy()
    h = model(images)["logits"].numpy().astype(np.float64)
    log_q = np.array([oracles.log_posterior(one, codes) for one in h])
    q = np.exp(log_q)
    got = model.evaluate(images, batch_size=10, verbose=0, return_dict=True)
    sampled = 0.0 if num_variables == 1 else 0.1
    nll = got["negative_log_likelihood" if num_variables == 1 else "importance_weighted_nll"]
    expected = -np.mean(scipy.special.logsumexp(log_p - f, axis=1))
    assert got["kl"] == pytest.approx(np.mean(np.sum(q * (log_q - log_p), axis=1)), rel=1e-5)
    assert got["reconstruction"] == pytest.approx(np.mean(np.sum(q * f, axis=1)), 1e-5, 3 * sampled)
    assert nll == pytest.approx(expected, 1e-5, sampled)
    uniform = -np.mean(scipy.special.logsumexp(-f, axis=1)) + np.log(len(codes))
    assert abs(expected - uniform) > 0.3


def test_samples_are_decoded_draws_of_the_prior():
    # 2000 draws: each share has a standard error of at most 0.011.
    model = with_prior(num_variables=2, num_categories=3)
    drawn = model.sample(2000, seed=1).numpy().reshape(2000, -1)
    codes = oracles.all_codes(2, 3)
    every = model.decode(codes.astype(np.float32)).numpy().reshape(9, -1)
    which = np.abs(drawn[:, np.newaxis] - every).sum(axis=-1).argmin(axis=1)
    probabilities = np.exp(oracles.log_posterior(model.prior_logits.numpy(), codes))
    np.testing.assert_allclose(np.bincount(which, minlength=9) / 2000, probabilities, atol=0.05)
    assert np.ptp(probabilities) > 0.3
    np.testing.assert_array_equal(model.sample(5, seed=1), model.sample(5, seed=1))


@pytest.mark.slow
def test_it_is_learned_saved_and_makes_the_kl_smaller(tmp_path):
    # Three of four images are of one kind: a prior that knows it saves log 4 - H(3/4, 1/4).
    kinds = np.random.default_rng(0).integers(0, 2, [2, 6, 6]).astype(np.float32)
    images = kinds[[0, 0, 0, 1] * 25]
    model = make_model(prior="learned", kl_weight=1.0)
    model.optimizer.learning_rate = 0.05
    model.fit(images, batch_size=100, epochs=60, verbose=0)
    figures = model.evaluate(images, verbose=0, return_dict=True)
    entropy = -0.75 * np.log(0.75) - 0.25 * np.log(0.25)
    assert figures["negative_log_likelihood"] < entropy + 0.5 < np.log(4)
    average = np.mean(model.predict(images, verbose=0)["probabilities"], axis=0)
    np.testing.assert_allclose(tf.nn.softmax(model.prior_logits), average, atol=0.1)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again.prior_logits, model.prior_logits)
    assert again.evaluate(images, verbose=0, return_dict=True) == figures


@pytest.mark.parametrize("kind", [StructuredVAE, MixtureVAE])
def test_other_posteriors_have_a_uniform_prior(kind):
    with pytest.raises(ValueError, match=r"Expected no `prior`, which is uniform in a"):
        kind(prior="learned")
    with pytest.raises(ValueError, match=r"Expected no `prior`, which is uniform in a Posterior"):
        PosteriorVAE(posteriors.get("k_subset", num_variables=4, k=2), prior="learned")
