"""The Gibbs distribution of binary variables with pairwise potentials, exactly.

    q(z) = exp(sum_i h_i z_i + sum_{i < j} h_ij z_i z_j - log Z),    z in {0, 1}^n,

with potentials [B, n + n (n - 1) / 2] laid out as in `solvers.pairwise_binary`. Everything is an
enumeration of the 2^n configurations, a few examples at a time: n <= 20 runs in bounded memory.
Potentials [B, n], without the pairs, are n independent variables; then everything is a closed
form, at any n.

This is the law of z* under an independent Gumbel for every configuration (Theorem 2). Noise on
the unary potentials only, which is what scales to max-flow, gives another one
("perturb-and-MAP"), whose density nobody can evaluate; the two agree where the couplings are 0.

References:
    Lorberbom et al., NeurIPS 2019, arXiv:1806.02867; Papandreou, Yuille, "Perturb-and-MAP random
    fields", ICCV 2011; Hazan, Jaakkola, "On the partition function and random maximum a-posteriori
    perturbations", ICML 2012.
"""

import math

import tensorflow as tf
import tensorflow_probability as tfp

from tf_direct_opt.direct import attach_slope
from tf_direct_opt.perturbation import sample_gumbel
from tf_direct_opt.solvers import pairwise_binary

# Configurations of all examples of a chunk: 2 MB a tensor. At n = 15 chunks that stay in the cache
# take 12 ms, one chunk of a whole batch of 100 takes 17 (one core).
MAX_CONFIGURATIONS = 2**19


def log_partition(
    potentials: tf.Tensor,  # [B, d]
    num_variables: int,
) -> tf.Tensor:
    """log Z = log sum_z exp(h . s(z)): [B], float32; its gradient is the mean statistics.

    Args:
        potentials: d = n (n + 1) / 2, or d = n without couplings; nats.
        num_variables: n.

    Raises:
        ValueError: potentials of another shape, or more than 20 coupled variables.

    Example:
        >>> log_partition(tf.constant([[0.0, 0.0, 0.0]]), 2).numpy() / math.log(2)
        array([2.], dtype=float32)
    """
    value, means, _, _ = _moments(potentials, num_variables)
    return attach_slope(value, potentials, means)


def mean_statistics(
    potentials: tf.Tensor,  # [B, d]
    num_variables: int,
) -> tf.Tensor:
    """E_q s(z): the probabilities of z_i = 1 and of z_i z_j = 1, [B, d]. No gradient passes.

    Args, Raises: as `log_partition`.
    """
    return _moments(potentials, num_variables)[1]


def entropy(
    potentials: tf.Tensor,  # [B, d]
    num_variables: int,
) -> tf.Tensor:
    """-E_q log q(z), nats: [B].

    Args, Raises: as `log_partition`.
    """
    return num_variables * math.log(2.0) - kl_to_uniform(potentials, num_variables)


def kl_to_uniform(
    potentials: tf.Tensor,  # [B, d]
    num_variables: int,
) -> tf.Tensor:
    """KL(q || uniform) = n log 2 - entropy, nats: [B]. See `kl_and_mean_statistics`."""
    return kl_and_mean_statistics(potentials, num_variables)[0]


def kl_and_mean_statistics(
    potentials: tf.Tensor,  # [B, d]
    num_variables: int,
) -> tuple[tf.Tensor, tf.Tensor]:
    """KL(q || uniform) and E_q s(z) from one enumeration.

    KL = h . E_q s - log Z + n log 2, and its gradient towards h is Cov_q(s) h, computed as
    Cov_q(s, h . s) along with the value: nothing of size 2^n is kept for the backward pass.

    Args, Raises: as `log_partition`.

    Returns:
        KL [B], nats, differentiable; mean statistics [B, d], through which no gradient passes.
    """
    value, means, score, covariance = _moments(potentials, num_variables)
    kl = num_variables * math.log(2.0) + score - value
    return attach_slope(kl, potentials, covariance), means


def log_prob(
    potentials: tf.Tensor,  # [B, d]
    bits: tf.Tensor,  # [B, S, n]
) -> tf.Tensor:
    """log q(z_s), nats: [B, S].

    Args:
        potentials: as for `log_partition`.
        bits: configurations, 0 or 1.
    """
    num_variables = bits.shape[-1]
    statistics = (
        bits if _factorised(potentials, num_variables) else pairwise_binary.statistics(bits)
    )
    scores = tf.linalg.matvec(statistics, tf.cast(potentials, tf.float32))
    return scores - log_partition(potentials, num_variables)[:, tf.newaxis]


def sample(
    potentials: tf.Tensor,  # [B, d]
    num_variables: int,
    num_samples: int,
    seed: tf.Tensor,  # [2] int
) -> tf.Tensor:
    """Exact draws of q, as bits: float32 [B, num_samples, n].

    The first half of the variables is drawn from its marginal and the second given the first, so
    that no [B, num_samples, 2^n] tensor appears, whatever way the categorical draw is compiled.

    Args:
        potentials, num_variables: as for `log_partition`.
        num_samples: S.
        seed: two integers; the same seed gives the same draws.
    """
    potentials = tf.stop_gradient(tf.cast(potentials, tf.float32))
    if _factorised(potentials, num_variables):
        noise = sample_logistic([tf.shape(potentials)[0], num_samples, num_variables], seed)
        return tf.cast(potentials[:, tf.newaxis] + noise > 0.0, tf.float32)
    columns = 2 ** (num_variables - num_variables // 2)

    def draw(chunk, number):
        seeds = tf.random.split(tf.random.fold_in(seed, number), 2)
        scores = pairwise_binary.configuration_scores(chunk, num_variables)
        scores = tf.reshape(scores, [-1, 2**num_variables // columns, columns])
        first = tf.random.stateless_categorical(
            tf.reduce_logsumexp(scores, axis=-1), num_samples, seeds[0], tf.int32
        )
        rows = tf.reshape(tf.gather(scores, first, batch_dims=1), [-1, columns])
        second = tf.random.stateless_categorical(rows, 1, seeds[1], tf.int32)
        return first * columns + tf.reshape(second, tf.shape(first))

    index = _in_chunks(draw, potentials, num_variables, tf.int32)
    return pairwise_binary.configuration_bits(index, num_variables)


def gumbel_top_k(
    potentials: tf.Tensor,  # [B, d]
    num_variables: int,
    count: int,
    seed: tf.Tensor,  # [2] int
) -> tuple[tf.Tensor, tf.Tensor]:
    """The best configurations under an independent zero-mean Gumbel for each of the 2^n.

    The first is an exact draw of q, the others follow it in a draw without replacement.

    Drawn from the top down, as 2^n Gumbels would be the dearest part of a training step: the
    maximum of a row of configurations that share their first n / 2 bits is a Gumbel around the
    row's log-sum-exp. No row but the `count` greatest can hold one of the `count` best, so noise
    is drawn for these alone, given its maximum.

    Args:
        potentials, num_variables: as for `log_partition`, but n <= 20 without couplings too.
        count: k, at most 2^n.
        seed: two integers; the same seed gives the same draws.

    Returns:
        Perturbed scores [B, k], descending, and the bits [B, k, n] of their configurations. No
        gradient passes.

    References:
        Kool, van Hoof, Welling, "Stochastic beams and where to find them", ICML 2019; Maddison,
        Tarlow, Minka, "A* sampling", NeurIPS 2014.
    """
    potentials = tf.stop_gradient(tf.cast(potentials, tf.float32))
    potentials = pairwise_binary.with_pairs(potentials, num_variables)
    columns = 2 ** (num_variables - num_variables // 2)
    num_rows = 2**num_variables // columns
    kept = min(count, num_rows)

    def draw(chunk, number):
        seeds = tf.random.split(tf.random.fold_in(seed, number), 2)
        scores = pairwise_binary.configuration_scores(chunk, num_variables)
        scores = tf.reshape(scores, [-1, num_rows, columns])
        row_scores = tf.reduce_logsumexp(scores, axis=-1)
        row_scores += sample_gumbel(tf.shape(row_scores), seeds[0])
        maxima, row = tf.math.top_k(row_scores, kept)
        free = tf.gather(scores, row, batch_dims=1)
        free += sample_gumbel(tf.shape(free), seeds[1])
        values = tf.reshape(_given_maximum(free, maxima), [-1, kept * columns])
        values, place = tf.math.top_k(values, count)
        index = tf.gather(row, place // columns, batch_dims=1) * columns + place % columns
        return values, index

    values, index = _in_chunks(draw, potentials, num_variables, (tf.float32, tf.int32))
    return values, pairwise_binary.configuration_bits(index, num_variables)


def _given_maximum(
    values,  # [..., M], perturbed by independent Gumbels
    maximum,  # [...]
):
    """The same values, moved so that their maximum is the given one: draws given that maximum.

    Each is -log(exp(-maximum) - exp(-greatest) + exp(-value)), in the order of operations that
    neither overflows nor cancels (Kool et al. 2019, appendix B.3).
    """
    maximum = maximum[..., tf.newaxis]
    greatest = tf.reduce_max(values, axis=-1, keepdims=True)
    # -inf for the greatest itself, which becomes the maximum.
    excess = maximum - values + tfp.math.log1mexp(values - greatest)
    return maximum - tf.nn.relu(excess) - tf.nn.softplus(-tf.abs(excess))


def sample_logistic(
    shape,  # ints, or a 1-D int tensor
    seed: tf.Tensor,  # [2] int
) -> tf.Tensor:
    """Logistic noise, the difference of two Gumbels: P[h + noise > 0] = sigmoid(h). float32."""
    gumbel = sample_gumbel(tf.concat([shape, [2]], axis=0), seed)
    return gumbel[..., 1] - gumbel[..., 0]


def _moments(potentials, num_variables):
    """log Z [B], E s [B, d], E (h . s) [B], Cov(s, h . s) [B, d]; no gradient passes."""
    potentials = tf.stop_gradient(tf.cast(potentials, tf.float32))
    if _factorised(potentials, num_variables):
        means = tf.sigmoid(potentials)
        return (
            tf.reduce_sum(tf.nn.softplus(potentials), axis=-1),
            means,
            tf.reduce_sum(means * potentials, axis=-1),
            means * tf.sigmoid(-potentials) * potentials,
        )

    def moments(chunk, _):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(chunk)
            scores = pairwise_binary.configuration_scores(chunk, num_variables)
        # The map from potentials to scores is linear, so its gradient is a weighted sum of s(z).
        greatest = tf.reduce_max(scores, axis=-1, keepdims=True)
        scores_below = scores - greatest
        weights = tf.exp(scores_below)
        total = tf.reduce_sum(weights, axis=-1, keepdims=True)
        weighted = weights * scores_below
        score = tf.reduce_sum(weighted, axis=-1, keepdims=True) / total
        means = tape.gradient(scores, chunk, weights) / total
        covariance = tape.gradient(scores, chunk, weighted) / total - score * means
        value = greatest + tf.math.log(total)
        return tf.concat([value, score + greatest, means, covariance], axis=-1)

    d = potentials.shape[-1]
    result = _in_chunks(moments, potentials, num_variables, tf.float32)
    value, score, means, covariance = tf.split(result, [1, 1, d, d], axis=-1)
    return value[:, 0], means, score[:, 0], covariance


def _in_chunks(function, potentials, num_variables, dtype):
    """function(chunk [C, d], number) over as few examples at a time as fit; results [B, ...].

    `dtype` has the structure of what the function returns.
    """
    size = _chunk_size(num_variables)
    batch = potentials.shape[0]
    if batch is not None and batch <= size:
        return function(potentials, tf.constant(0))
    batch = tf.shape(potentials)[0]
    num_chunks = tf.maximum(1, -(-batch // size))
    # The last chunk is filled up with zeros, cut off again below.
    filled = tf.pad(potentials, [[0, num_chunks * size - batch], [0, 0]])
    results = tf.map_fn(
        lambda pair: function(*pair),
        (tf.reshape(filled, [num_chunks, size, potentials.shape[-1]]), tf.range(num_chunks)),
        fn_output_signature=dtype,
        parallel_iterations=1,
    )
    return tf.nest.map_structure(
        lambda result: tf.reshape(result, [num_chunks * size, *result.shape[2:]])[:batch], results
    )


def _chunk_size(num_variables):
    return max(1, MAX_CONFIGURATIONS // 2**num_variables)


def _factorised(potentials, num_variables):
    """Whether there are no couplings; ValueError for a size that is neither."""
    size = potentials.shape[-1]
    if len(potentials.shape) == 2 and size == num_variables:
        return True
    expected = pairwise_binary.num_statistics(num_variables)
    if len(potentials.shape) != 2 or size != expected:
        raise ValueError(
            f"Expected potentials [B, {expected}] of {num_variables} coupled variables, or "
            f"[B, {num_variables}] without couplings; received shape {tuple(potentials.shape)}."
        )
    return False
