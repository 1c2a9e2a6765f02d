import numpy as np
import oracles
import pytest
import scipy.special
import tensorflow as tf

from tf_direct_opt import losses


def brute_force_nll(images, pixel_logits):
    probability = scipy.special.expit(pixel_logits.astype(np.float64))
    likelihood = np.where(images[:, np.newaxis] == 1, probability, 1 - probability)
    return -np.log(likelihood).sum(axis=-1)


@pytest.mark.parametrize("shared", [1, 6])
def test_bernoulli_nll_for_shared_and_for_own_codes(shared):
    generator = np.random.default_rng(0)
    images = generator.integers(0, 2, [6, 9]).astype(np.uint8)
    logits = generator.normal(size=[shared, 4, 9]).astype(np.float32)
    expected = brute_force_nll(images, logits)
    np.testing.assert_allclose(losses.bernoulli_nll(images, tf.constant(logits)), expected, 1e-5)


def test_bernoulli_nll_is_float32_and_finite_for_half_precision_and_large_logits():
    logits = tf.constant([[[80.0, -80.0]]], tf.float16)
    nll = losses.bernoulli_nll(tf.constant([[0.0, 1.0]]), logits)
    assert nll.dtype == tf.float32
    np.testing.assert_allclose(nll, [[160.0]])


def test_exact_negative_log_likelihood_by_its_definition():
    f = np.random.default_rng(0).normal(size=[5, 7])
    expected = -np.log(np.mean(np.exp(-f), axis=1))
    got = losses.exact_negative_log_likelihood(tf.constant(f, tf.float32))
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_importance_weighted_nll_lies_between_the_likelihood_and_the_elbo_and_converges():
    # Averaged over 4000 repetitions; each comparison has a margin of many standard errors.
    generator = np.random.default_rng(0)
    h, f = generator.normal(size=[2, 5])
    q = oracles.softmax(h)
    exact = -np.log(np.mean(np.exp(-f)))
    negative_elbo = np.sum(q * (f + np.log(q) + np.log(5)))
    bounds = []
    for samples in (1, 10, 1000):
        z = generator.choice(5, p=q, size=[4000, samples])
        bound = losses.importance_weighted_nll(
            tf.constant(f[z], tf.float32), tf.constant(np.log(5 * q[z]), tf.float32)
        )
        bounds.append(float(tf.reduce_mean(bound)))
    assert bounds[0] == pytest.approx(negative_elbo, abs=0.1)
    assert negative_elbo > bounds[1] > bounds[2]
    assert bounds[2] == pytest.approx(exact, abs=5e-3)
