"""Binary variables with pairwise terms: the best of all 2^n configurations, by enumeration."""

import tensorflow as tf

from tf_direct_opt import binary
from tf_direct_opt.solvers.base import check_scores

# Scores of one example that exist at once: with batch 100 a chunk is 13 MB, about a cache's size.
_CHUNK = 2**15


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
        num_variables = binary.check_num_variables(num_variables)
        self.num_variables = num_variables

    def __call__(
        self,
        scores: tf.Tensor,  # [B, n (n + 1) / 2]
    ) -> tf.Tensor:
        n = self.num_variables
        scores = check_scores(scores, (binary.num_statistics(n),), "PairwiseBinary")
        rows, second = binary.factors(scores, n)
        first_best = tf.argmax(_row_maxima(rows, second, n), axis=-1, output_type=tf.int32)
        # The best row once more, [B, 1, 2^n2], instead of an argmax over all that was enumerated:
        # a maximum is vectorised, an argmax is not.
        row = binary.expand(tf.gather(rows, first_best[:, tf.newaxis], batch_dims=1), second, n)
        second_best = tf.argmax(row[:, 0], axis=-1, output_type=tf.int32)
        index = first_best * 2 ** (n - n // 2) + second_best
        return tf.cast(binary.statistics(binary.configuration_bits(index, n)), scores.dtype)

    def get_config(self) -> dict:
        return {"num_variables": self.num_variables}


def _row_maxima(rows, second, n):
    """max over z2 of every score, [B, 2^n1], a bounded number of rows at a time."""
    num_rows = 2 ** (n // 2)
    size = max(1, _CHUNK // 2 ** (n - n // 2))
    if size >= num_rows:
        return tf.reduce_max(binary.expand(rows, second, n), axis=-1)
    chunks = tf.reshape(rows, [-1, num_rows // size, size, rows.shape[-1]])
    maxima = tf.map_fn(
        lambda chunk: tf.reduce_max(binary.expand(chunk, second, n), axis=-1),
        tf.transpose(chunks, [1, 0, 2, 3]),
        parallel_iterations=1,
    )  # [2^n1 / size, B, size]
    return tf.reshape(tf.transpose(maxima, [1, 0, 2]), [-1, num_rows])
