"""What float32 would round away: losses and logits with a large part that all have in common."""

import math

import numpy as np
import oracles
import pytest
import tensorflow as tf

from tf_direct_opt import estimators, posteriors, schedules, solvers
from tf_direct_opt.coupled_law import coupled_law
from tf_direct_opt.direct import epsilon_difference
from tf_direct_opt.perturbation import sample_gumbel

H = np.array([0.3, -0.2, 0.5], np.float32)


def gradient_of(estimator, logits, losses):
    """Towards logits [B, 1, K], where code k costs losses [B, K], or [K]."""
    logits = tf.constant(logits)
    losses = tf.broadcast_to(tf.constant(losses, tf.float32), logits[:, 0].shape)

    def loss_fn(codes):
        shape = [logits.shape[0], *codes.shape[1:]]
        return tf.einsum("bmnk,bk->bm", tf.broadcast_to(codes, shape), losses)

    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = estimator(logits, loss_fn=loss_fn, training=True)
    return tape.gradient(loss, logits).numpy()[:, 0]


@pytest.mark.parametrize("difference", ["toward_better", "away_from_worse", "central"])
def test_a_loss_that_is_constant_moves_nothing(difference):
    scores = H + sample_gumbel([20_000, 3], [1, 2])
    solver = solvers.Categorical()
    table = tf.fill(scores.shape, 1e6)
    sent = epsilon_difference(scores, solver(scores), table, 1.0, solver, difference)
    assert not np.any(sent)


def test_as_many_flip_as_are_to_however_large_the_loss_is():
    generator = np.random.default_rng(0)
    logits = generator.normal(size=[2000, 1, 5]).astype(np.float32)
    losses = generator.integers(0, 64, [2000, 5]) / 16  # Exact, with 1e5 added.
    shares = []
    for shared in (0.0, 1e5):
        estimator = estimators.Direct(schedules.FlipRate(1.0, over="example"), seed=1)
        shares.append(np.any(gradient_of(estimator, logits, losses + shared), axis=-1).mean())
    assert shares[0] == shares[1] > 0.7


@pytest.mark.parametrize("name", ["exact", "local_expectation"])
@pytest.mark.parametrize("shared", [1e5, 1e7])
def test_what_all_losses_share_cancels(name, shared):
    losses = np.array([0.0, 1.0, 2.0])
    sent = gradient_of(estimators.get(name), H[np.newaxis, np.newaxis], shared + losses)
    np.testing.assert_allclose(sent[0], oracles.true_gradient(H, losses), atol=1e-6)


def test_the_mean_of_many_large_losses_is_not_rounded():
    sent = gradient_of(
        estimators.ScoreFunction(50_000, seed=0), H[np.newaxis, np.newaxis], 1e6 + np.arange(3.0)
    )
    # Standard deviation of a draw's gradient below 1: an error of 0.03 is 6 standard errors.
    np.testing.assert_allclose(sent[0], oracles.true_gradient(H, np.arange(3.0)), atol=0.03)


@pytest.mark.parametrize(("rate", "count", "flipped"), [(0.6, 25, 15), (0.3, 50, 15), (1.0, 7, 7)])
def test_a_share_is_rounded_up_but_not_by_its_own_rounding(rate, count, flipped):
    critical = tf.constant(np.random.default_rng(0).random([1, count]), tf.float32)
    epsilon = schedules.FlipRate(rate)(critical, 0)
    assert np.sum(critical.numpy() < epsilon.numpy()) == flipped


@pytest.mark.parametrize("logits", [[-1e9, 0.0, 0.0], [-800.0, 0.0, 0.0]])
def test_the_law_where_the_lowest_loss_is_never_drawn(logits):
    law = coupled_law(tf.constant([logits]), tf.constant([[0.0, 1.0, 2.0]]), 1000.0)
    np.testing.assert_allclose(law[0], [[0, 0, 0], [0, 0.5, 0], [0, 0.5, 0]], atol=1e-12)


@pytest.mark.parametrize("shared", [1e3, 1e6])
def test_a_constant_on_the_logits_of_a_subset_changes_nothing(shared):
    logits = tf.constant([[0.0, 0.5, 1.0, 1.5, 2.0, -1.0]])
    plain, moved = (posteriors.KSubset(h, num_variables=6, k=5) for h in (logits, logits + shared))
    np.testing.assert_allclose(moved.kl_to_uniform(), plain.kl_to_uniform(), rtol=1e-5)
    np.testing.assert_allclose(moved.marginals(), plain.marginals(), atol=1e-6)
    expected = plain.log_partition() + 5 * shared
    np.testing.assert_allclose(moved.log_partition(), expected, rtol=1e-6)


def test_many_elements_have_the_law_of_float64():
    logits = 0.1 * np.random.default_rng(0).normal(size=[1, 600])
    narrow, wide = (
        posteriors.KSubset(tf.constant(logits, dtype), num_variables=600, k=300)
        for dtype in (tf.float32, tf.float64)
    )
    np.testing.assert_allclose(narrow.kl_to_uniform(), wide.kl_to_uniform(), atol=5e-3)
    assert narrow.marginals().numpy()[0, :, 1].sum() == pytest.approx(300, abs=5e-3)


def test_excluded_and_forced_elements_leave_the_law_of_the_others():
    rest = tf.constant([[0.3, -0.4, 0.2]])
    more = tf.concat([[[-1e9, 1e9, -1e9]], rest], axis=1)
    all_six = posteriors.KSubset(more, num_variables=6, k=2)
    of_three = posteriors.KSubset(rest, num_variables=3, k=1)
    np.testing.assert_allclose(all_six.marginals()[0, 3:], of_three.marginals()[0], atol=1e-5)


def test_a_constant_on_the_labels_of_a_chain_changes_nothing():
    potentials = np.random.default_rng(0).normal(size=[1, 3 * 2 + 2 * 4]).astype(np.float32)
    moved = potentials.copy()
    moved[:, :6] += 8192.0  # Rounds each by 1 / 2048 at most.
    plain, moved = (
        posteriors.Chain(tf.constant(h), num_variables=3, num_categories=2)
        for h in (moved - np.float32([8192.0] * 6 + [0.0] * 8), moved)
    )
    np.testing.assert_allclose(moved.kl_to_uniform(), plain.kl_to_uniform(), atol=1e-5)
    np.testing.assert_allclose(moved.marginals(), plain.marginals(), atol=1e-5)


def test_the_kl_beside_one_that_is_all_but_certain():
    q = posteriors.PairwiseBinary(tf.constant([[0.0, 1e4, 0.7]]), 3, couplings=False)
    p = 1 / (1 + math.exp(-float(np.float32(0.7))))
    entropy = -p * math.log(p) - (1 - p) * math.log(1 - p)
    assert q.kl_to_uniform().numpy()[0] == pytest.approx(2 * math.log(2) - entropy, abs=3e-6)
