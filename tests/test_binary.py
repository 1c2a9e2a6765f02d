"""The layout of bits and pairs, and the gradient of pairwise scores under a full perturbation."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from scipy.special import softmax

from tf_direct_opt import binary, direct, perturbation, solvers


def enumerated(num_variables):
    """Every configuration and its statistics, spelt out."""
    bits = list(itertools.product([0.0, 1.0], repeat=num_variables))
    pairs = list(itertools.combinations(range(num_variables), 2))
    return np.array(bits), np.array([[*z, *(z[i] * z[j] for i, j in pairs)] for z in bits])


def random_scores(num_variables, batch=5, seed=0):
    shape = [batch, binary.num_statistics(num_variables)]
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("num_variables", [1, 2, 3, 7, 10])
def test_scores_bits_and_statistics_of_every_configuration(num_variables):
    bits, statistics = enumerated(num_variables)
    scores = random_scores(num_variables)
    assert binary.num_statistics(num_variables) == statistics.shape[1]
    np.testing.assert_allclose(
        binary.configuration_scores(tf.constant(scores), num_variables),
        scores @ statistics.T,
        atol=1e-4,
    )
    index = np.arange(2**num_variables).reshape([2, -1])
    again = binary.configuration_bits(tf.constant(index), num_variables)
    np.testing.assert_array_equal(again, bits.reshape([2, -1, num_variables]))
    np.testing.assert_array_equal(
        binary.statistics(again), statistics.reshape([2, len(bits) // 2, -1])
    )


def test_the_gradient_of_the_log_partition_is_the_mean_of_the_statistics():
    _, statistics = enumerated(6)
    scores = tf.Variable(random_scores(6))
    with tf.GradientTape() as tape:
        log_partition = tf.reduce_logsumexp(binary.configuration_scores(scores, 6), -1)
    mean = softmax(scores.numpy() @ statistics.T, axis=-1) @ statistics
    np.testing.assert_allclose(tape.gradient(log_partition, scores), mean, atol=1e-5)


def test_twenty_variables_are_enumerated_in_chunks():
    # The maximum of a score that is the sum over four blocks of five variables is known.
    scores = np.zeros([3, 20, 20], np.float32)
    blocks = [random_scores(5, 3, seed) for seed in range(4)]
    expected = np.zeros([3, 20], np.float32)
    first, second = np.triu_indices(5, 1)
    for number, block in enumerate(blocks):
        start = 5 * number
        scores[:, range(start, start + 5), range(start, start + 5)] = block[:, :5]
        scores[:, start + first, start + second] = block[:, 5:]
        expected[:, start : start + 5] = solvers.PairwiseBinary(5)(block)[:, :5]
    pairs = scores[:, *np.triu_indices(20, 1)]
    flat = np.concatenate([np.diagonal(scores, axis1=1, axis2=2), pairs], axis=1)
    np.testing.assert_array_equal(solvers.PairwiseBinary(20)(flat)[:, :20], expected)


def test_wrong_scores_of_configurations_are_refused():
    with pytest.raises(ValueError, match=r"\[batch, 6\] for configuration_scores; .*\(2, 5\)"):
        binary.configuration_scores(tf.zeros([2, 5]), 3)
    with pytest.raises(ValueError, match=r"from 1 to 20.*received 21"):
        binary.configuration_scores(tf.zeros([2, 231]), 21)


def test_the_difference_under_a_full_perturbation_tends_to_the_exact_gradient():
    # One independent Gumbel for each of the 16 configurations: z* is a draw from the Gibbs
    # distribution (Theorem 2), and the mean of the difference, pulled back to the 10 potentials,
    # is known at every epsilon. 2^18 draws, fixed seed; 2 epsilons and 10 coordinates at 4
    # standard errors, for both tests: one seed in 400 would fail.
    num_variables, draws = 4, 2**18
    _, statistics = enumerated(num_variables)
    potentials = random_scores(num_variables, batch=1)
    table = np.random.default_rng(1).normal(size=16)  # f(z): any function of the configuration
    scores = (potentials.astype(np.float64) @ statistics.T)[0]
    p = softmax(scores)
    exact = statistics.T @ (p * (table - p @ table))
    for seed, epsilon in enumerate((0.5, 0.02)):
        tiled = tf.tile(tf.constant(potentials), [draws, 1])
        with tf.GradientTape() as tape:
            tape.watch(tiled)
            per_configuration = binary.configuration_scores(tiled, num_variables)
            noise = perturbation.sample_gumbel([draws, 16], [seed, 0])
            losses = tf.tile(tf.constant(table[np.newaxis], tf.float32), [draws, 1])
            code = solvers.Categorical()(per_configuration + noise)
            loss = tf.reduce_sum(losses * code, axis=-1)
            loss = direct.direct_loss(
                loss, per_configuration, noise, losses, epsilon, solvers.Categorical()
            )
        gradient = tape.gradient(loss, tiled).numpy().astype(np.float64)
        error = gradient.std(axis=0) / np.sqrt(draws)
        finite = statistics.T @ (p - softmax(scores - epsilon * table)) / epsilon
        assert np.all(np.abs(gradient.mean(axis=0) - finite) < 4 * error)
        bias = np.abs(finite - exact).max()
        assert bias < 0.5 * epsilon
        if epsilon == 0.02:
            # Here the bias is lost in the noise, for unary and pairwise potentials alike.
            assert np.all(np.abs(gradient.mean(axis=0) - exact) < 4 * error)
            assert np.all(error < 0.2 * np.abs(exact).max())
    assert np.abs(exact[:4]).max() > 0.1
    assert np.abs(exact[4:]).max() > 0.05


def test_a_loss_that_is_linear_in_the_statistics_moves_the_potentials():
    # s(z) - eps <t, statistics(z)> has potentials h - eps t, so that the solver on 10 statistics
    # and an argmax over 16 configurations give the same z*(eps).
    scores, table = random_scores(4, 50), 3.0 * random_scores(4, 50, seed=1)
    _, statistics = enumerated(4)
    by_solver = direct.epsilon_difference(
        tf.constant(scores),
        solvers.PairwiseBinary(4)(scores),
        tf.constant(table),
        0.5,
        solvers.PairwiseBinary(4),
    )
    before, after = (s.astype(np.float64) @ statistics.T for s in (scores, scores - 0.5 * table))
    expected = statistics[before.argmax(axis=1)] - statistics[after.argmax(axis=1)]
    np.testing.assert_allclose(by_solver, expected / 0.5)
    assert np.any(expected)
