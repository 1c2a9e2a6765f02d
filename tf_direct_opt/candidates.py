"""The direct gradient given its candidates: the noise averaged out in closed form.

Give every configuration a Gumbel of its own and let S = {1..M} be the M configurations that score
highest, a draw without replacement, with q_s = q(z_s), losses f_s and statistics s(z_s). Given the
*set* S, in whatever order it was drawn, the mean of (s(z*) - s(z*(eps))) / eps is elementary as
eps -> 0:

    g = sum_{s < t} c_st (f_s - f_t) (s(z_s) - s(z_t)),    c_st = q_s q_t P_{-st}(S - st) / P(S),

with c_st the density of a tie of s and t on top, P(S) the probability of the set and P_{-st} that
of the others where s and t do not exist. Its mean is the true gradient; it has no epsilon and no
variance of order 1 / epsilon, and is the policy gradient of the unordered set as well.

Seen as a race, s arrives at an exponential time of rate q_s, and S are the first M to arrive. Given
the time y of the next one, the members of S are independent, and everything is a mean under the
density of y:

    w(y) ~ exp(-(1 - q(S)) y) prod_s (1 - exp(-q_s y)),    r_s(y) = q_s / (1 - exp(-q_s y)),
    P[s is first | S] = E_w[r_s],    c_st = E_w[r_s r_t].

References:
    Kool, van Hoof, Welling, "Estimating gradients for discrete random variables by sampling
    without replacement", ICLR 2020; Lorberbom et al., NeurIPS 2019, arXiv:1806.02867.
"""

import math

import numpy as np
import tensorflow as tf

from tf_direct_opt.direct import check_difference, checked_epsilon

_TINY = np.finfo(np.float32).tiny


def order_weights(
    log_probs: tf.Tensor,  # [B, M]
) -> tuple[tf.Tensor, tf.Tensor]:
    """P[s is first | S], and the density c_st of a tie of s and t on top.

    M = 2 is a closed form. Beyond, means under w(y) by the trapezoid rule in log y: the integrand
    is analytic and decays at both ends, so that the error falls exponentially with the step.

    Args:
        log_probs: log q_s of M >= 2 different configurations, in any order.

    Returns:
        float32 [B, M], which sums to 1, and symmetric [B, M, M], whose diagonal has no meaning.
        No gradient passes.

    Raises:
        ValueError: fewer than two candidates, or their number unknown.

    Example:
        >>> first, ties = order_weights(tf.math.log([[0.5, 0.2]]))
        >>> first.numpy().round(4)  # 0.5 0.2 / (1 - 0.5) against 0.2 0.5 / (1 - 0.2)
        array([[0.6154, 0.3846]], dtype=float32)
        >>> ties.numpy()[0, 0, 1].round(4)  # (1 - q_1) (1 - q_2) / (2 - q_1 - q_2)
        np.float32(0.3077)
    """
    count = log_probs.shape[-1]
    if count is None or count < 2:
        raise ValueError(
            "Expected at least 2 candidates, their number known when the step is traced; received "
            f"log_probs of shape {log_probs.shape}. Please take `num_candidates` >= 2."
        )
    probs = tf.stop_gradient(tf.exp(tf.cast(log_probs, tf.float32)))
    if count == 2:
        others = _all_but(probs)
        first = others[:, ::-1] / tf.reduce_sum(others, axis=-1, keepdims=True)
        return first, (first * others)[:, tf.newaxis] * tf.ones([2, 1])
    # In units of the next arrival, u = (1 - q(S)) y. The rest is positive also where S is all.
    rest = tf.maximum(_all_but_candidates(probs), 1e-30)[:, tf.newaxis]
    nodes = tf.constant(_nodes(count))[:, tf.newaxis]  # u, [Q, 1]
    rates = probs[:, tf.newaxis] / rest  # [B, 1, M]
    arrived = tf.maximum(-tf.math.expm1(-rates * nodes), _TINY)  # [B, Q, M]
    log_weights = tf.reduce_sum(tf.math.log(arrived), axis=-1) + (tf.math.log(nodes) - nodes)[:, 0]
    ratios = rest * tf.maximum(rates, _TINY / nodes) / arrived  # r_s; 1 / y where q_s underflows
    weighted = tf.nn.softmax(log_weights)[..., tf.newaxis] * ratios
    return tf.reduce_sum(weighted, axis=1), tf.matmul(weighted, ratios, transpose_a=True)


def mean_difference(
    log_probs: tf.Tensor,  # [B, M]
    losses: tf.Tensor,  # [B, M]
    epsilon: tf.Tensor | float | None = None,  # [] or [B]
    difference: str = "toward_better",
) -> tuple[tf.Tensor, tf.Tensor]:
    """The mean epsilon-difference given the candidates, as weights of the candidates' statistics.

    With weights a_s the gradient towards the potentials is sum_s a_s s(z_s): that is, a is the
    gradient towards the M scores h . s(z_s). In the limit a_s = sum_t c_st (f_s - f_t).

    At a finite epsilon the noise is averaged out as well: with D = f_s - f_t the factor D becomes

        sign(D) (1 - e^(-eps |D|)) / (eps (1 - q_first (1 - e^(-eps |D|)))),

    bounded by 1 / eps and with q_first that of z*: the worse of the two going toward better, the
    better one going away from worse. That is exact for M = 2. For M > 2 it treats every pair as if
    it were alone on top, which is right as eps -> 0 and biased beyond.

    Args:
        log_probs: log q_s of M different configurations, drawn without replacement.
        losses: f_s, nats.
        epsilon: step, in 1/nats; None for the limit.
        difference: sign of the finite step; see `direct.epsilon_difference`.

    Returns:
        Weights float32 [B, M], which sum to 0, and P[s is first | S], [B, M].

    Raises:
        ValueError: as `order_weights`, for an unknown `difference`, and for an epsilon that is not
            positive.

    Example:
        >>> weights, _ = mean_difference(tf.math.log([[0.5, 0.2]]), tf.constant([[3.0, 1.0]]))
        >>> weights.numpy().round(4)
        array([[ 0.6154, -0.6154]], dtype=float32)
    """
    check_difference(difference)
    log_probs, losses = tf.cast(log_probs, tf.float32), tf.cast(losses, tf.float32)
    first, ties = order_weights(log_probs)
    gaps = losses[:, :, tf.newaxis] - losses[:, tf.newaxis]  # f_s - f_t
    if epsilon is not None:
        rest = _all_but(tf.exp(log_probs))
        here, there = rest[:, :, tf.newaxis], rest[:, tf.newaxis]
        worse, better = (tf.where(gate, here, there) for gate in (gaps > 0.0, gaps <= 0.0))
        epsilon = tf.reshape(checked_epsilon(epsilon), [-1, 1, 1])
        before = {
            "toward_better": [worse],
            "away_from_worse": [better],
            "central": [worse, better],
        }[difference]
        gaps = tf.add_n([_bounded(gaps, epsilon, left) for left in before]) / len(before)
    return tf.stop_gradient(tf.reduce_sum(ties * gaps, axis=-1)), first


def _all_but_candidates(probs):
    """1 - q(S), [B, 1]: the greatest is taken off first, which costs no digits."""
    ordered = tf.sort(probs, axis=-1, direction="DESCENDING")
    return (1.0 - ordered[:, :1]) - tf.reduce_sum(ordered[:, 1:], axis=-1, keepdims=True)


def _all_but(probs):
    """1 - q_s, [B, M]: where q_s rounds to 1, what the other candidates have of it."""
    others = tf.matmul(probs, 1.0 - tf.eye(probs.shape[-1]))
    return tf.maximum(1.0 - probs, others)


def _bounded(gaps, epsilon, rest):
    """The factor of a pair at a finite epsilon; `rest` is 1 - q_first."""
    kept = tf.exp(-epsilon * tf.abs(gaps))
    flips = -tf.math.expm1(-epsilon * tf.abs(gaps))
    # 1 - q (1 - e^..) without cancellation. Where it is below the floor c_st is, too.
    share = tf.maximum(rest + (1.0 - rest) * kept, 1e-30)
    return tf.sign(gaps) * flips / (epsilon * share)


def _nodes(count):
    """Points u of the trapezoid rule in log u for M candidates: float32 [Q].

    The integrand ends like exp(-u) on the right, after a peak that lies at u = M at most, and
    falls like u on the left at least. A peak is of width 1 / sqrt(M) in log u, and one step of
    that size leaves an error of exp(-2 pi^2), 3e-9.
    """
    last = math.log(count + 10.0 * math.sqrt(count) + 10.0)
    step = min(0.4, 1.0 / math.sqrt(count))
    return np.exp(np.arange(last, -16.0, -step)).astype(np.float32)
