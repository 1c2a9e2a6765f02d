"""N independent categorical variables: one argmax each."""

import tensorflow as tf

from tf_direct_opt.solvers.base import check_scores


class Categorical:
    """Argmax over the last axis, as a one-hot; ties go to the lowest index.

    Raises:
        ValueError: scores without an axis of categories.
        tf.errors.InvalidArgumentError: scores that are not finite.

    Example:
        >>> Categorical()(tf.constant([[0.1, 2.0, 2.0]])).numpy()
        array([[0., 1., 0.]], dtype=float32)
    """

    supports_jit = True

    def __call__(
        self,
        scores: tf.Tensor,  # [B, K] or [B, N, K]
    ) -> tf.Tensor:
        scores = tf.convert_to_tensor(scores)
        variables = [None] * max(0, (scores.shape.rank or 0) - 2)
        scores = check_scores(scores, (*variables, None), "Categorical")
        best = tf.argmax(scores, axis=-1, output_type=tf.int32)
        return tf.one_hot(best, tf.shape(scores)[-1], dtype=scores.dtype)
