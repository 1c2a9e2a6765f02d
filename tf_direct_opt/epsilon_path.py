"""The whole path of epsilon, from one loss table under one noise.

For a step toward better the score of category k overtakes that of the chosen one at

    eps_k = (s_z* - s_k) / (f_z* - f_k)    where f_k < f_z*,    and never elsewhere,

away from worse with the losses' negatives. The least of them is the critical epsilon of a
variable: z*(eps) = z* below it. So epsilon can be chosen by the share of a batch that is to flip
(`schedules.FlipRate`), and steps of several sizes can be combined, without another decoder
evaluation.
"""

import math

import tensorflow as tf

from tf_direct_opt.direct import check_difference, epsilon_difference


def critical_epsilon(
    scores: tf.Tensor,  # [B, N, K]
    code: tf.Tensor,  # [B, N, K]
    loss_table: tf.Tensor,  # [B, N, K]
    difference: str = "toward_better",
) -> tf.Tensor:
    """The epsilon at which each variable flips first: [B, N], 1/nats; infinite where it never does.

    Args:
        scores: logits + noise.
        code: their argmax, one-hot.
        loss_table: loss of every choice of each variable, nats.
        difference: sign of the step; a variable flips centrally where it flips either way.

    Example:
        >>> critical_epsilon(
        ...     tf.constant([[[2.0, 1.0, 0.0]]]), tf.constant([[[1.0, 0.0, 0.0]]]),
        ...     tf.constant([[[3.0, 2.5, 1.0]]])).numpy()
        array([[1.]], dtype=float32)
    """
    check_difference(difference)

    def of_chosen(values):
        return tf.reduce_sum(code * values, axis=-1, keepdims=True)

    gaps, gains = of_chosen(scores) - scores, of_chosen(loss_table) - loss_table
    gains = {"toward_better": gains, "away_from_worse": -gains, "central": tf.abs(gains)}[
        difference
    ]
    flips = gains > 0.0
    epsilons = gaps / tf.where(flips, gains, 1.0)
    return tf.reduce_min(tf.where(flips, epsilons, math.inf), axis=-1)


def richardson_difference(
    scores,  # [B, *event]
    code,  # [B, *event]
    loss_table,  # [B, *event]
    epsilon,  # [] or [B]
    solver,
    difference="toward_better",
):
    """Two steps under one noise, combined so that the leading term of the bias cancels.

    2 g(eps) - g(2 eps) for a one-sided difference g, whose bias is then O(eps^2);
    (4 g(eps) - g(2 eps)) / 3 for the central one, O(eps^4). Arguments and result are those of
    `direct.epsilon_difference`; one more argmax, no further decoder evaluation.
    """
    near, far = (
        epsilon_difference(scores, code, loss_table, factor * epsilon, solver, difference)
        for factor in (1.0, 2.0)
    )
    order = 4.0 if difference == "central" else 2.0
    return (order * near - far) / (order - 1.0)
