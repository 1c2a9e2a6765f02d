"""Codes shared by a grid of variables: their usage by hand, dead ones restarted by enumeration."""

import keras
import numpy as np
import oracles
import pytest
import tensorflow as tf

from tf_direct_opt import codebook
from tf_direct_opt.models import DiscreteVAE


def grid_vae(**config):
    """Images of 4x4 pixels in colour, a grid of 2x2 codes of 4 categories; 1 and 3 are dead."""
    encoder = keras.Sequential(
        [
            keras.layers.Conv2D(6, 2, 2, activation="relu"),
            keras.layers.Conv2D(4, 1, name="logits", kernel_initializer="he_normal"),
        ]
    )
    decoder = keras.Sequential(
        [
            keras.layers.Reshape((2, 2, 4)),
            keras.layers.Dense(5, use_bias=False, name="embedding"),
            keras.layers.Conv2DTranspose(3, 2, 2),
        ]
    )
    model = DiscreteVAE(
        4, 4, "reinmax", encoder=encoder, decoder=decoder, likelihood="gaussian", seed=0, **config
    )
    model.build((None, 4, 4, 3))
    model.encoder.get_layer("logits").bias.assign([0.5, -20.0, 0.0, -25.0])
    if model.prior_logits is not None:
        prior = np.random.default_rng(1).normal(size=[4, 4])
        model.prior_logits.assign(prior - np.array([0.0, 15.0, 0.0, 20.0]))
    return model


def images():
    return np.random.default_rng(0).random([6, 4, 4, 3], np.float32)


def seen_by_the_decoder(model):
    """Of each image, E_q f over all 4^4 codes, E_q exp(-f), the KL; and the usage [K]."""
    posterior = model.posterior(model.encode(images()))
    codes = tf.constant(oracles.all_codes(4, 4)[np.newaxis], tf.float32)
    f = 0.01 * model.make_loss_fn(images())(codes).numpy().astype(np.float64)
    q = np.exp(posterior.log_prob(codes).numpy().astype(np.float64))
    moments = np.sum(q * f, axis=1), np.sum(q * np.exp(-f), axis=1)
    return *moments, model.kl(posterior).numpy(), codebook.shares(posterior.marginals())


def test_figures_by_hand():
    figures = codebook.figures(np.array([0.5, 0.497, 0.002, 0.001]))
    assert figures["dead_codes"] == 2
    assert figures["usage"] == 0.5
    assert figures["perplexity"] == pytest.approx(2.041, abs=1e-3)
    assert codebook.figures(np.full(8, 1 / 8)) == {
        "usage": 1.0, "perplexity": pytest.approx(8.0), "dead_codes": 0,
    }  # fmt: skip
    one = np.eye(4)[[[0, 1], [0, 2]]]
    np.testing.assert_array_equal(codebook.shares(one), [0.5, 0.25, 0.25, 0.0])


@pytest.mark.parametrize("prior", ["uniform", "learned"])
def test_a_restart_changes_nothing_that_is_decoded(prior):
    model = grid_vae(prior=prior)
    *before, share = seen_by_the_decoder(model)
    assert list(share < 0.01 / 4) == [False, True, False, True]
    dead = codebook.restart_dead_codes(
        share,
        model.encoder.get_layer("logits"),
        model.decoder.get_layer("embedding"),
        model.prior_logits,
    )
    *after, now = seen_by_the_decoder(model)
    assert dead == 2
    assert now.min() > 0.05
    np.testing.assert_allclose(now.sum(), 1.0)
    for got, expected in zip(after[:2], before[:2], strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5)
    if prior == "learned":
        np.testing.assert_allclose(after[2], before[2], atol=1e-4)
    else:
        # log 2 for what each of the two splits halves, in each of the four variables.
        first = np.max(share)
        second = max(first / 2, np.min(share[[0, 2]]))
        drop = 4 * np.log(2) * (first + second)
        assert np.mean(before[2] - after[2]) == pytest.approx(drop, rel=1e-4)


@pytest.mark.parametrize("restart", [pytest.param(False, marks=pytest.mark.slow), True])
def test_usage_is_reported_and_dead_codes_come_to_life(restart):
    model = grid_vae()
    model.compile(keras.optimizers.SGD(1e-5), run_eagerly=True)
    usage = codebook.CodeUsage(images(), restart=restart)
    reported = keras.callbacks.History()
    model.fit(images(), epochs=2, batch_size=6, verbose=0, callbacks=[usage, reported])
    history = reported.history
    assert history["dead_codes"] == ([2.0, 0.0] if restart else [2.0, 2.0])
    assert history["usage"] == [1 - dead / 4 for dead in history["dead_codes"]]
    assert (history["perplexity"][1] > history["perplexity"][0] + 0.5) == restart
