"""Binary variables and their pairs: the layout that solvers, posteriors and codes share.

A configuration z in {0, 1}^n with unary and pairwise terms has the score

    s(z) = sum_i h_i z_i + sum_{i < j} h_ij z_i z_j,

so its sufficient statistics are [z_1 .. z_n | z_i z_j for i < j], the pairs in the order of
`itertools.combinations(range(n), 2)`, and scores have the same layout. Configurations are numbered
with z_1 as the most significant bit. With z = (z1, z2) split in two halves,

    s(z) = s1(z1) + s2(z2) + z1' H12 z2,

which is three matrix products of tables with 2^(n/2) rows: no tensor [B, 2^n, n(n+1)/2] appears.
"""

import functools

import numpy as np
import tensorflow as tf

# The most variables whose 2^n configurations are enumerated.
MAX_VARIABLES = 20


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
    expected = num_statistics(num_variables)
    if len(scores.shape) != 2 or scores.shape[1] != expected:
        raise ValueError(
            f"Expected scores of shape [batch, {expected}] for configuration_scores; received "
            f"shape {tuple(scores.shape)}. Reshape them, or give another `num_variables`."
        )
    rows, second = factors(scores, num_variables)
    table = expand(rows, second, num_variables)
    return tf.reshape(table, [-1, 2**num_variables])


def factors(
    scores,  # [B, n (n + 1) / 2]
    n,
):
    """`(rows [B, 2^n1, n2 + 1], second [B, 2^n2])` with s = rows [z2; 1] + second.

    For who wants some rows of configurations, all that share their first n1 = n // 2 bits, without
    the others; see `expand`.
    """
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


def expand(
    rows,  # [B, R, n2 + 1]
    second,  # [B, 2^n2]
    n,
):
    """Scores [B, R, 2^n2] of the configurations whose first half is one of R rows."""
    z2 = _tables(n)[3]
    num_rows = tf.shape(rows)[1]
    flat = tf.matmul(tf.reshape(rows, [-1, rows.shape[-1]]), tf.constant(z2, rows.dtype))
    table = tf.reshape(flat, [-1, num_rows, z2.shape[1]])
    return table + second[:, tf.newaxis]


def check_num_variables(num_variables: int) -> int:
    """The n itself; ValueError for one whose 2^n configurations cannot be enumerated."""
    whole = isinstance(num_variables, int | np.integer) and not isinstance(num_variables, bool)
    if not (whole and 1 <= num_variables <= MAX_VARIABLES):
        raise ValueError(
            f"Expected `num_variables` to be an integer from 1 to {MAX_VARIABLES}, as 2^n "
            f"configurations are enumerated; received {num_variables!r}. For more, use "
            "PairwiseBinaryMaxFlow (couplings >= 0) or PairwiseBinaryMILP (any sign)."
        )
    return int(num_variables)


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
