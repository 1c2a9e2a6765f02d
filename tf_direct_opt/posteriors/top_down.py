"""Drawing without replacement from the top down, without noise for every configuration.

The greatest perturbed score below a partial configuration is a Gumbel around its log-mass, the
log-sum-exp of the scores below it. So the maxima of a few groups are drawn first, and noise below
a group only where one of the best may lie, given that maximum.

References:
    Kool, van Hoof, Welling, "Stochastic beams and where to find them", ICML 2019; Maddison,
    Tarlow, Minka, "A* sampling", NeurIPS 2014.
"""

import tensorflow as tf
import tensorflow_probability as tfp

from tf_direct_opt.perturbation import sample_gumbel


def best_of_rows(
    scores: tf.Tensor,  # [B, R, C]
    count: int,
    seed: tf.Tensor,  # [2] int
) -> tuple[tf.Tensor, tf.Tensor]:
    """The `count` greatest of R * C scores under an independent zero-mean Gumbel for each.

    Row maxima first: no row but the `count` greatest can hold one of the `count` best, so noise
    is drawn for these alone, given its maximum.

    Args:
        scores: unnormalised log-probabilities, nats, in R rows.
        count: M, at most R * C.
        seed: two integers; the same seed gives the same draws.

    Returns:
        Perturbed scores [B, M], descending, and their places int32 [B, M] among the R * C.
    """
    _, num_rows, columns = scores.shape
    kept = min(count, num_rows)
    seeds = tf.random.split(seed, 2)
    row_scores = tf.reduce_logsumexp(scores, axis=-1)
    row_scores += sample_gumbel(tf.shape(row_scores), seeds[0])
    maxima, row = tf.math.top_k(row_scores, kept)
    free = tf.gather(scores, row, batch_dims=1)
    free += sample_gumbel(tf.shape(free), seeds[1])
    values = tf.reshape(given_maximum(free, maxima), [-1, kept * columns])
    values, place = tf.math.top_k(values, count)
    return values, tf.gather(row, place // columns, batch_dims=1) * columns + place % columns


def given_maximum(
    values: tf.Tensor,  # [..., M], perturbed by independent Gumbels
    maximum: tf.Tensor,  # [...]
) -> tf.Tensor:
    """The same values, moved so that their maximum is the given one: draws given that maximum.

    Each is -log(exp(-maximum) - exp(-greatest) + exp(-value)), in the order of operations that
    neither overflows nor cancels (Kool et al. 2019, appendix B.3).
    """
    maximum = maximum[..., tf.newaxis]
    greatest = tf.reduce_max(values, axis=-1, keepdims=True)
    # -inf for the greatest itself, which becomes the maximum.
    excess = maximum - values + tfp.math.log1mexp(values - greatest)
    return maximum - tf.nn.relu(excess) - tf.nn.softplus(-tf.abs(excess))
