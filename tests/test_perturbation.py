import numpy as np
import oracles
import pytest
import scipy.stats
import tensorflow as tf

from tf_direct_opt import perturbation
from tf_direct_opt.perturbation import perturbed_argmax, sample_gumbel
from tf_direct_opt.solvers import Categorical

DRAWS = 400_000


def test_noise_has_mean_zero_and_variance_pi_squared_over_six():
    # 4 standard errors: fails for 1 seed in 16000. The fourth central moment is 27/5 var^2.
    noise = sample_gumbel([DRAWS], [1, 2]).numpy().astype(np.float64)
    variance = np.pi**2 / 6
    oracles.assert_mean_is(noise, 0.0)
    error = variance * np.sqrt((5.4 - 1) / DRAWS)
    assert abs(noise.var() - variance) < 4 * error


def test_noise_has_the_gumbel_law():
    # Kolmogorov-Smirnov at level 1e-4.
    noise = sample_gumbel([DRAWS], [3, 4]).numpy()
    law = scipy.stats.gumbel_r(loc=-np.euler_gamma)
    assert scipy.stats.kstest(noise, law.cdf).pvalue > 1e-4


def test_noise_is_finite_float32_and_a_function_of_its_seed():
    noise = sample_gumbel([10_000_000], [5, 6])
    assert noise.dtype == tf.float32
    assert np.isfinite(noise).all()
    np.testing.assert_array_equal(sample_gumbel([7], [5, 6]), sample_gumbel([7], [5, 6]))
    assert (sample_gumbel([7], [5, 6]).numpy() != sample_gumbel([7], [5, 7]).numpy()).all()


@pytest.mark.parametrize("num_categories", [2, 7, 40])
def test_gumbel_max_frequencies_are_softmax(num_categories):
    # Chi-squared at level 1e-4.
    h = np.random.default_rng(num_categories).normal(size=num_categories).astype(np.float32)
    noise = sample_gumbel([DRAWS, num_categories], [num_categories, 0])
    _, code = perturbed_argmax(tf.broadcast_to(h, noise.shape), noise, Categorical())
    expected = DRAWS * oracles.softmax(h.astype(np.float64))
    assert scipy.stats.chisquare(code.numpy().sum(axis=0), expected).pvalue > 1e-4


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_scores_raise_in_eager_and_graph_mode(bad):
    logits = tf.constant([[0.0, 1.0], [bad, 0.0]])
    for function in (perturbed_argmax, tf.function(perturbed_argmax)):
        with pytest.raises(tf.errors.InvalidArgumentError, match="Expected finite logits"):
            function(logits, tf.zeros_like(logits), Categorical())


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_scores_give_a_nan_code_under_xla(bad):
    logits = tf.constant([[0.0, 1.0], [bad, 0.0]])
    compiled = tf.function(perturbed_argmax, jit_compile=True)
    _, code = compiled(logits, tf.zeros_like(logits), Categorical())
    np.testing.assert_array_equal(code[0], [0.0, 1.0])
    assert np.isnan(code[1]).all()


@pytest.mark.parametrize("jit_compile", [None, True])
@pytest.mark.parametrize("seed", [[3, 4], [-3, 4]])
def test_draws_are_those_of_tensorflow(seed, jit_compile):
    for own, other in (
        (perturbation.sample_uniform, tf.random.stateless_uniform),
        (perturbation.sample_normal, tf.random.stateless_normal),
    ):
        one, two = (
            tf.function(lambda draw=draw: draw([3, 5], seed), jit_compile=jit_compile)()
            for draw in (own, other)
        )
        np.testing.assert_array_equal(one, two)


def test_xla_does_not_begin_anew_for_every_number():
    # Where the draws begin is written down once: there is a place where it is updated.
    draw = tf.function(lambda seed: perturbation.sample_uniform([1000], seed), jit_compile=True)
    program = draw.experimental_get_compiler_ir(tf.constant([3, 4]))("optimized_hlo")
    assert "dynamic-update-slice" in program
