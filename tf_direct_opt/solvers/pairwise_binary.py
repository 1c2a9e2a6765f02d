"""Binary variables with pairwise terms: the best of all 2^n configurations, by enumeration.

A configuration z in {0, 1}^n has the score

    s(z) = sum_i h_i z_i + sum_{i < j} h_ij z_i z_j,

so its sufficient statistics are [z_1 .. z_n | z_i z_j for i < j], the pairs in the order of
`itertools.combinations(range(n), 2)`, and scores have the same layout. With z = (z1, z2) split in
two halves,

    s(z) = s1(z1) + s2(z2) + z1' H12 z2,

which is three matrix products of tables with 2^(n/2) rows: no tensor [B, 2^n, n(n+1)/2] appears.
"""

import functools

import numpy as np
import tensorflow as tf

from tf_direct_opt.solvers.base import check_scores

MAX_VARIABLES = 20

# Scores of one example that exist at once: with batch 100 a chunk is 13 MB, about a cache's size.
_CHUNK = 2**15


def num_statistics(num_variables: int) -> int:
    """n + n (n - 1) / 2: the unary and the pairwise terms."""
    return num_variables * (num_variables + 1) // 2


def statistics(
    bits: tf.Tensor,  # [..., n]
) -> tf.Tensor:
    """The sufficient statistics [z_i | z_i z_j] of 0/1 configurations.

    Args:
        bits: configurations, 0 or 1.

    Returns:
        [..., n + n (n - 1) / 2], of the dtype of `bits`.

    Example:
        >>> statistics(tf.constant([1.0, 0.0, 1.0])).numpy()
        array([1., 0., 1., 0., 1., 0.], dtype=float32)
    """
    first, second = _pair_selectors(bits.shape[-1])
    left = tf.tensordot(bits, tf.constant(first, bits.dtype), 1)
    right = tf.tensordot(bits, tf.constant(second, bits.dtype), 1)
    return tf.concat([bits, left * right], axis=-1)


def with_pairs(
    scores: tf.Tensor,  # [B, d]
    num_variables: int,
) -> tf.Tensor:
    """Scores [B, n (n + 1) / 2]: those of d = n unaries get pairs of 0, complete ones stay."""
    return tf.pad(scores, [[0, 0], [0, num_statistics(num_variables) - scores.shape[-1]]])


def one_hot(
    bits: tf.Tensor,  # [..., n]
) -> tf.Tensor:
    """The bits as codes of n variables with two categories, [..., n, 2]."""
    return tf.stack([1.0 - bits, bits], axis=-1)


def configuration_bits(
    index: tf.Tensor,  # [...] int
    num_variables: int,
) -> tf.Tensor:
    """The configuration of an index: z_1 is its most significant bit.

    Args:
        index: 0 <= index < 2^n; a lower index is a lexicographically lower configuration.
        num_variables: n.

    Returns:
        float32 [..., n].

    Example:
        >>> configuration_bits(tf.constant([1, 6]), 3).numpy()
        array([[0., 0., 1.], [1., 1., 0.]], dtype=float32)
    """
    shifts = tf.constant(np.arange(num_variables)[::-1], index.dtype)
    bits = tf.bitwise.bitwise_and(tf.bitwise.right_shift(index[..., tf.newaxis], shifts), 1)
    return tf.cast(bits, tf.float32)


def configuration_scores(
    scores: tf.Tensor,  # [B, n (n + 1) / 2]
    num_variables: int,
) -> tf.Tensor:
    """The score of every configuration; differentiable.

    Args:
        scores: [unaries | pairs] of each example.
        num_variables: n, at most 20.

    Returns:
        [B, 2^n], in the order of `configuration_bits`. As unnormalised log-probabilities they
        are the Gibbs distribution of the potentials.

    Raises:
        ValueError: n out of range, or scores of another shape.

    Example:
        >>> configuration_scores(tf.constant([[1.0, 2.0, 5.0]]), 2).numpy()
        array([[0., 2., 1., 8.]], dtype=float32)
    """
    check_num_variables(num_variables)
    check_scores(scores, (num_statistics(num_variables),), "configuration_scores", finite=False)
    rows, second = _factors(scores, num_variables)
    table = _expand(rows, second, num_variables)
    return tf.reshape(table, [-1, 2**num_variables])


class PairwiseBinary:
    """argmax over z in {0, 1}^n of sum_i h_i z_i + sum_{i<j} h_ij z_i z_j, by enumeration.

    Scores [B, n + n (n - 1) / 2] = [unaries | pairs in combinations order], of any sign; code: the
    statistics of the best configuration in the same layout. Ties go to the lexicographically
    lowest configuration. O(2^n n) operations an example, all of them matrix products; memory is
    bounded by B 2^15 scores.

    Args:
        num_variables: n, from 1 to 20.

    Raises:
        ValueError: n out of range; scores of another shape.
        tf.errors.InvalidArgumentError: scores that are not finite.

    Example:
        >>> PairwiseBinary(2)(tf.constant([[-1.0, -1.0, 3.0], [1.0, -1.0, 0.5]])).numpy()
        array([[1., 1., 1.], [1., 0., 0.]], dtype=float32)

    References:
        Lorberbom et al., NeurIPS 2019, section 4.2 (structured latents), there by max-flow and
        by an integer programme.
    """

    supports_jit = True

    def __init__(self, num_variables: int):
        check_num_variables(num_variables)
        self.num_variables = num_variables

    def __call__(
        self,
        scores: tf.Tensor,  # [B, n (n + 1) / 2]
    ) -> tf.Tensor:
        n = self.num_variables
        scores = check_scores(scores, (num_statistics(n),), "PairwiseBinary")
        rows, second = _factors(scores, n)
        first_best = tf.argmax(_row_maxima(rows, second, n), axis=-1, output_type=tf.int32)
        # The best row once more, [B, 1, 2^n2], instead of an argmax over all that was enumerated:
        # a maximum is vectorised, an argmax is not.
        row = _expand(tf.gather(rows, first_best[:, tf.newaxis], batch_dims=1), second, n)
        second_best = tf.argmax(row[:, 0], axis=-1, output_type=tf.int32)
        index = first_best * 2 ** (n - n // 2) + second_best
        return tf.cast(statistics(configuration_bits(index, n)), scores.dtype)

    def get_config(self) -> dict:
        return {"num_variables": self.num_variables}


def _row_maxima(rows, second, n):
    """max over z2 of every score, [B, 2^n1], a bounded number of rows at a time."""
    num_rows = 2 ** (n // 2)
    size = max(1, _CHUNK // 2 ** (n - n // 2))
    if size >= num_rows:
        return tf.reduce_max(_expand(rows, second, n), axis=-1)
    chunks = tf.reshape(rows, [-1, num_rows // size, size, rows.shape[-1]])
    maxima = tf.map_fn(
        lambda chunk: tf.reduce_max(_expand(chunk, second, n), axis=-1),
        tf.transpose(chunks, [1, 0, 2, 3]),
        parallel_iterations=1,
    )  # [2^n1 / size, B, size]
    return tf.reshape(tf.transpose(maxima, [1, 0, 2]), [-1, num_rows])


def _factors(scores, n):
    """`(rows [B, 2^n1, n2 + 1], second [B, 2^n2])`: s = rows [z2; 1] + second."""
    first_half, second_half, z1, _ = _tables(n)
    n1 = n // 2
    n2 = n - n1
    first = tf.matmul(scores, tf.constant(first_half, scores.dtype))
    second = tf.matmul(scores, tf.constant(second_half, scores.dtype))
    if not n1:
        return tf.zeros_like(first)[..., tf.newaxis] * tf.ones([n2 + 1], scores.dtype), second
    # Pairs (i, j) with i in the first half and j in the second: a slice for each i.
    starts = [n + i * n - i * (i + 1) // 2 + n1 - 1 - i for i in range(n1)]
    couplings = tf.stack([scores[:, start : start + n2] for start in starts], axis=1)
    across = tf.matmul(tf.constant(z1, scores.dtype), couplings)  # [B, 2^n1, n2]
    return tf.concat([across, first[..., tf.newaxis]], axis=-1), second


def _expand(rows, second, n):
    """Scores [B, R, 2^n2] of the configurations whose first half is one of R rows."""
    z2 = _tables(n)[3]
    num_rows = tf.shape(rows)[1]
    flat = tf.matmul(tf.reshape(rows, [-1, rows.shape[-1]]), tf.constant(z2, rows.dtype))
    table = tf.reshape(flat, [-1, num_rows, z2.shape[1]])
    return table + second[:, tf.newaxis]


def check_num_variables(num_variables: int):
    """ValueError for an n whose 2^n configurations cannot be enumerated."""
    if not (isinstance(num_variables, int) and 1 <= num_variables <= MAX_VARIABLES):
        raise ValueError(
            f"Expected `num_variables` to be an integer from 1 to {MAX_VARIABLES}, as 2^n "
            f"configurations are enumerated; received {num_variables!r}. For more, use "
            "PairwiseBinaryMaxFlow (couplings >= 0) or PairwiseBinaryMILP (any sign)."
        )


def all_bits(num_variables: int) -> np.ndarray:
    """Every configuration, float32 [2^n, n], the lowest first."""
    shifts = np.arange(num_variables)[::-1]
    return ((np.arange(2**num_variables)[:, np.newaxis] >> shifts) & 1).astype(np.float32)


@functools.cache
def _pair_selectors(n):
    """Two 0/1 matrices [n, n (n - 1) / 2]: the first and the second variable of every pair."""
    first, second = np.triu_indices(n, 1)
    return np.eye(n, dtype=np.float32)[:, first], np.eye(n, dtype=np.float32)[:, second]


@functools.cache
def _tables(n):
    """Statistics of (z1, 0) and of (0, z2), transposed; z1; [z2; 1] transposed."""
    n1 = n // 2
    z1, z2 = all_bits(n1), all_bits(n - n1)
    halves = (np.pad(z1, [(0, 0), (0, n - n1)]), np.pad(z2, [(0, 0), (n1, 0)]))
    first, second = _pair_selectors(n)
    tables = [np.concatenate([z, (z @ first) * (z @ second)], axis=1).T for z in halves]
    return *tables, z1, np.concatenate([z2.T, np.ones([1, len(z2)], np.float32)])
