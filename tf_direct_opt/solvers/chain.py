"""A chain of categorical variables with a score for each transition: Viterbi."""

import tensorflow as tf

from tf_direct_opt.checks import check_count
from tf_direct_opt.solvers.base import check_scores


class Chain:
    """argmax over labels y_1 .. y_T of sum_t u_t(y_t) + sum_t v_t(y_t, y_t+1), by Viterbi.

    Scores and code [B, T K + (T - 1) K K] = [u, flattened from [T, K] | v, flattened from
    [T - 1, K, K], the label at t before the label at t + 1]; the code is the one-hot of each
    label and of each pair of neighbours. Ties go to the lowest sequence of labels. O(T K^2) an
    example, TensorFlow.

    Args:
        length: T, at least 1.
        num_categories: K, at least 1.

    Raises:
        ValueError: arguments out of range; scores of another shape.
        tf.errors.InvalidArgumentError: scores that are not finite.

    Example:
        >>> scores = tf.constant([[1.0, 0.0, 0.0, 1.0, 5.0, 0.0, 0.0, 0.0]])  # T = K = 2
        >>> Chain(2, 2)(scores).numpy()
        array([[1., 0., 1., 0., 1., 0., 0., 0.]], dtype=float32)

    References:
        Viterbi, IEEE Transactions on Information Theory, 1967.
    """

    supports_jit = True

    def __init__(self, length: int, num_categories: int):
        self.length = check_count(length, "length", 1)
        self.num_categories = check_count(num_categories, "num_categories", 1)

    def __call__(
        self,
        scores: tf.Tensor,  # [B, T K + (T - 1) K K]
    ) -> tf.Tensor:
        length, size = self.length, self.num_categories
        num_unaries = length * size
        scores = check_scores(scores, (num_unaries + (length - 1) * size**2,), "Chain")
        unaries = tf.reshape(scores[:, :num_unaries], [-1, length, size])
        transitions = tf.reshape(scores[:, num_unaries:], [-1, length - 1, size, size])

        # Values to the end of the chain, backwards; then the labels forwards, so that the first
        # label that differs is the lower one among sequences that tie.
        to_go = [unaries[:, -1]]
        for t in reversed(range(length - 1)):
            onward = tf.reduce_max(transitions[:, t] + to_go[-1][:, tf.newaxis], axis=-1)
            to_go.append(unaries[:, t] + onward)
        labels = [_best(to_go.pop())]  # one-hot, [B, K]
        pairs = []
        for t in range(length - 1):
            onward = tf.einsum("bi,bij->bj", labels[-1], transitions[:, t]) + to_go.pop()
            labels.append(_best(onward))
            pairs.append(labels[-2][:, :, tf.newaxis] * labels[-1][:, tf.newaxis])
        code = [tf.reshape(tf.stack(labels, axis=1), [-1, num_unaries])]
        if pairs:
            code.append(tf.reshape(tf.stack(pairs, axis=1), [-1, (length - 1) * size**2]))
        return tf.concat(code, axis=-1)

    def get_config(self) -> dict:
        return {"length": self.length, "num_categories": self.num_categories}


def _best(scores):
    return tf.one_hot(tf.argmax(scores, axis=-1), scores.shape[-1], dtype=scores.dtype)
