"""k-subsets: the k highest of n scores."""

import tensorflow as tf

from tf_direct_opt.checks import check_count
from tf_direct_opt.solvers.base import check_scores


class TopK:
    """argmax over z in {0, 1}^n with sum_i z_i = k of sum_i h_i z_i.

    Scores and code [B, n]. Among equal scores the lower index is taken first, so that ties go to
    the lowest subset in the order of `itertools.combinations`. O(n log n) an example, TensorFlow.

    Args:
        k: size of the subset, 0 <= k <= n.

    Raises:
        ValueError: k out of range; scores of another rank.
        tf.errors.InvalidArgumentError: scores that are not finite.

    Example:
        >>> TopK(2)(tf.constant([[0.1, 2.0, -1.0, 2.0]])).numpy()
        array([[0., 1., 0., 1.]], dtype=float32)
    """

    supports_jit = True

    def __init__(self, k: int):
        self.k = check_count(k, "k", 0)

    def __call__(
        self,
        scores: tf.Tensor,  # [B, n]
    ) -> tf.Tensor:
        scores = check_scores(scores, (None,), "TopK")
        size = scores.shape[1]
        if size is not None and size < self.k:
            raise ValueError(
                f"Expected at least k = {self.k} scores for TopK; received shape {scores.shape}. "
                "Make the solver with a smaller k."
            )
        # The rank of each score; a sum of k one-hots would need k times the memory.
        order = tf.argsort(scores, direction="DESCENDING", stable=True)
        return tf.cast(tf.argsort(order) < self.k, scores.dtype)

    def get_config(self) -> dict:
        return {"k": self.k}
