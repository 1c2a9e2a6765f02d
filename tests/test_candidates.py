import itertools

import numpy as np
import oracles
import pytest
import scipy.special
import tensorflow as tf

from tf_direct_opt import candidates, direct
from tf_direct_opt.perturbation import sample_gumbel


def set_probability(q, mass=1.0):
    """P[the first draws without replacement are this set], over all orders of it."""
    total = 0.0
    for order in itertools.permutations(q):
        gone = np.concatenate([[0.0], np.cumsum(order)[:-1]])
        total += np.prod(order / (mass - gone))
    return total


def by_permutations(q, mass=1.0):
    """P[s is first | S] and c_st in float64."""
    count, whole = len(q), set_probability(q, mass)
    first = [q[s] * set_probability(np.delete(q, s), mass - q[s]) / whole for s in range(count)]
    ties = np.zeros([count, count])
    for s, t in itertools.permutations(range(count), 2):
        rest = set_probability(np.delete(q, [s, t]), mass - q[s] - q[t])
        ties[s, t] = q[s] * q[t] * rest / whole
    return np.array(first), ties


def draw(h, count, draws, seed):
    """Log-probabilities [draws, count] of a draw without replacement, and their places."""
    scores = tf.constant(h, tf.float32) + sample_gumbel([draws, len(h)], seed)
    places = tf.math.top_k(scores, count).indices
    return tf.gather(tf.constant(scipy.special.log_softmax(h), tf.float32), places), places


@pytest.mark.parametrize(
    ("count", "size", "scale"),
    [(2, 5, 1), (3, 9, 1), (4, 64, 3), (6, 64, 0.1), (6, 64, 8), (5, 5, 2)],
)
def test_the_weights_are_the_sum_over_permutations(count, size, scale):
    h = np.random.default_rng(count).normal(size=[size]) * scale
    log_probs, _ = draw(h, count, 5, [1, count])
    first, ties = candidates.order_weights(log_probs)
    off_diagonal = ~np.eye(count, dtype=bool)
    for i in range(5):
        q = np.exp(log_probs[i].numpy().astype(np.float64))
        expected = by_permutations(q, 1.0 if count < size else q.sum())
        np.testing.assert_allclose(first[i], expected[0], rtol=3e-5, atol=1e-7)
        assert np.max(np.abs(ties[i] - expected[1])[off_diagonal]) < 3e-5 * expected[1].max()


@pytest.mark.parametrize("size", [3, 8, 64])
def test_all_configurations_give_the_exact_weights(size):
    h = np.random.default_rng(size).normal(size=[2, size]) * [[1.0], [20.0]]
    log_probs = tf.constant(scipy.special.log_softmax(h, axis=1), tf.float32)
    first, ties = candidates.order_weights(log_probs)
    q = scipy.special.softmax(h, axis=1)
    np.testing.assert_allclose(first, q, rtol=1e-4, atol=1e-7)
    exact = q[:, :, np.newaxis] * q[:, np.newaxis]
    off_diagonal = ~np.eye(size, dtype=bool)
    np.testing.assert_allclose(ties.numpy()[:, off_diagonal], exact[:, off_diagonal], atol=1e-6)


@pytest.mark.parametrize(("count", "size"), [(2, 2), (8, 9), (64, 64), (64, 65)])
def test_certain_posteriors_give_finite_weights(count, size):
    h = np.full([size], -200.0)
    h[0] = 0.0
    log_probs = tf.constant(scipy.special.log_softmax(h)[np.newaxis, :count], tf.float32)
    first, ties = candidates.order_weights(log_probs)
    weights, _ = candidates.mean_difference(log_probs, tf.range(1.0, count + 1.0)[tf.newaxis], 0.5)
    for values in (first, ties, weights):
        assert np.all(np.isfinite(values))
    np.testing.assert_allclose(tf.reduce_sum(first), 1.0, rtol=1e-5)


def weights_by_orders(h, losses, count, epsilon, difference):
    """`mean_difference` of the first configurations of logits h by its definition, float64."""
    rates = np.exp(h - h.max())

    def rest(gone):  # 1 - q(gone), from what is left: nothing cancels.
        return np.delete(rates, list(gone)).sum() / rates.sum()

    def probability(members, gone):
        total = 0.0
        for order in itertools.permutations(members):
            left = [rest([*gone, *order[:i]]) for i in range(len(order))]
            total += np.prod(rates[list(order)] / rates.sum() / left)
        return total

    weights, everyone = np.zeros(count), probability(range(count), [])
    for s, t in itertools.permutations(range(count), 2):
        others = [i for i in range(count) if i not in (s, t)]
        tie = rates[s] * rates[t] / rates.sum() ** 2 * probability(others, [s, t]) / everyone
        gap = losses[s] - losses[t]
        worse, better = (s, t) if gap > 0 else (t, s)
        kept, q = np.exp(-epsilon * abs(gap)), rates / rates.sum()
        first = {
            "toward_better": [worse], "away_from_worse": [better], "central": [worse, better]
        }[difference]  # fmt: skip
        factors = [(1 - kept) / (epsilon * (rest([i]) + q[i] * kept)) for i in first]
        weights[s] += tie * np.sign(gap) * np.mean(factors)
    return weights


@pytest.mark.parametrize("difference", direct.DIFFERENCES)
@pytest.mark.parametrize("count", [2, 3, pytest.param(5, marks=pytest.mark.slow)])
def test_of_a_certain_posterior_the_weights_are_those_of_float64(count, difference):
    # 1 - q of the certain one is 4e-5 to 1e-25: in float32 it is 0 from a gap of 19 on.
    epsilon = 0.2
    for gap, steps, sign in itertools.product(
        (12.0, 17.0, 18.0, 20.0, 60.0), (5, 100, 1000), (1, -1)
    ):
        h, losses = np.linspace(0.0, 0.5, 10), 0.3 * np.arange(10)
        h[0] += gap
        losses[0] += sign * steps / epsilon
        log_probs = tf.nn.log_softmax(tf.constant(h[np.newaxis], tf.float32))[:, :count]
        given = tf.constant(losses[np.newaxis, :count], tf.float32)
        weights, _ = candidates.mean_difference(log_probs, given, epsilon, difference)
        expected = weights_by_orders(h, losses, count, epsilon, difference)
        np.testing.assert_allclose(epsilon * weights[0], epsilon * expected, atol=0.02)


@pytest.mark.parametrize(
    ("count", "draws"),
    [
        (2, 200_000),
        (4, 20_000),
        *[pytest.param(count, 200_000, marks=pytest.mark.slow) for count in (4, 8, 10)],
    ],
)
def test_the_limit_has_the_mean_of_the_true_gradient(count, draws):
    # 10 entries within 4 standard errors: fails for 1 seed in 1600 each.
    h, f = np.random.default_rng(7).normal(size=[2, 10])
    f *= 3.0
    log_probs, places = draw(h, count, draws, [count, 5])
    losses = tf.gather(tf.constant(f, tf.float32), places)
    weights = [
        candidates.mean_difference(log_probs[i : i + 10_000], losses[i : i + 10_000])[0]
        for i in range(0, draws, 10_000)
    ]
    drawn = np.zeros([draws, 10])
    np.put_along_axis(drawn, places.numpy(), np.concatenate(weights), axis=1)
    oracles.assert_mean_is(drawn, oracles.true_gradient(h, f))


def simulated_difference(h, f, count, epsilon, difference, draws, seed):
    """Plain epsilon-differences of the candidates [draws, K], all under noise of their own."""
    noise = sample_gumbel([draws, len(h)], seed).numpy()
    scores = h + noise
    kept = np.argsort(-scores, axis=1)[:, :count]
    top = np.take_along_axis(scores, kept, axis=1)

    def best(sign):
        place = np.argmax(top + sign * epsilon * f[kept], axis=1)
        return np.eye(len(h))[np.take_along_axis(kept, place[:, np.newaxis], axis=1)[:, 0]]

    match difference:
        case "toward_better":
            return (best(0) - best(-1)) / epsilon, kept
        case "away_from_worse":
            return (best(1) - best(0)) / epsilon, kept
    return (best(1) - best(-1)) / (2 * epsilon), kept


@pytest.mark.parametrize("difference", ["toward_better", "away_from_worse", "central"])
def test_two_candidates_at_a_finite_epsilon_average_the_plain_difference(difference):
    # The same sets, 100000 of them: the mean of plain minus averaged is 0, 4 entries within 4
    # standard errors: fails for 1 seed in 4000 each. Averaging leaves less variance.
    h, f = np.random.default_rng(3).normal(size=[2, 4])
    f, epsilon = 2.0 * f, 0.7
    plain, kept = simulated_difference(h, f, 2, epsilon, difference, 100_000, [4, 4])
    log_probs = scipy.special.log_softmax(h)[kept]
    weights, _ = candidates.mean_difference(
        tf.constant(log_probs, tf.float32), tf.constant(f[kept], tf.float32), epsilon, difference
    )
    averaged = np.zeros_like(plain)
    np.put_along_axis(averaged, kept, weights.numpy(), axis=1)
    oracles.assert_mean_is(plain - averaged, np.zeros(4))
    assert averaged.var(axis=0).sum() < 0.7 * plain.var(axis=0).sum()


def test_more_candidates_at_a_finite_epsilon_are_bounded_and_end_in_the_limit():
    h, f = np.random.default_rng(5).normal(size=[2, 12])
    log_probs, places = draw(h, 5, 50, [1, 1])
    losses = tf.gather(tf.constant(10.0 * f, tf.float32), places)
    limit, _ = candidates.mean_difference(log_probs, losses)
    near, _ = candidates.mean_difference(log_probs, losses, 1e-4)
    np.testing.assert_allclose(near, limit, rtol=2e-2, atol=1e-3)
    for epsilon in (0.5, tf.fill([50], 0.5)):
        bounded, _ = candidates.mean_difference(log_probs, losses, epsilon)
        np.testing.assert_allclose(tf.reduce_sum(bounded, axis=1), np.zeros(50), atol=1e-5)
        # Of each pair at most 1 / eps, as often as it ties on top.
        assert np.abs(bounded).max() < 2 * 5 / 0.5


def test_one_candidate_is_refused():
    with pytest.raises(ValueError, match="Expected at least 2 candidates"):
        candidates.order_weights(tf.zeros([3, 1]))
