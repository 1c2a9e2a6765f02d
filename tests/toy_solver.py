"""A solver as somebody else would write it: one file; `test_extending.py` adds the line."""

import tensorflow as tf

from tf_direct_opt.solvers.base import check_scores


class AtMostOne:
    """None or one of n items: the best, if its score is above 0. Ties go to nothing."""

    def __init__(self, n):
        self.n = n

    def __call__(self, scores):
        scores = check_scores(scores, (self.n,), "AtMostOne")
        best = tf.one_hot(tf.argmax(scores, axis=-1), self.n)
        return tf.where(tf.reduce_max(scores, axis=-1, keepdims=True) > 0, best, 0.0)

    def get_config(self):
        return {"n": self.n}
