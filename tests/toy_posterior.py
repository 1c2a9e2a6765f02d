"""A posterior as somebody else would write it: one file; `test_extending.py` adds the line."""

import tensorflow as tf

from tf_direct_opt.posteriors import Categorical, Posterior
from tf_direct_opt.posteriors.base import check_shape


class Unanimous(Posterior):
    """N variables that all take the same one of K categories: q(k, ..., k) = softmax(h)_k.

    Args:
        logits: [B, K], nats.
        num_variables: N.
        num_categories: K.
    """

    def __init__(self, logits, num_variables, num_categories):
        self.parameters = tf.convert_to_tensor(logits)
        shape = self.parameter_shape(num_variables, num_categories)
        check_shape(self.parameters.shape, shape, "a unanimous vote")
        self.num_variables, self.num_categories = num_variables, num_categories
        self._vote = Categorical(self.parameters)

    @classmethod
    def parameter_shape(cls, num_variables, num_categories):
        return (num_categories,)

    num_configurations = property(lambda self: self.num_categories)

    def configurations(self, index):
        return self._repeated(tf.one_hot(index, self.num_categories)[:, tf.newaxis])

    def index(self, codes):
        return tf.argmax(codes[..., 0, :], axis=-1, output_type=tf.int32)

    def mode(self):
        return self._repeated(self._vote.mode())

    def sample(self, count, seed):
        return self._repeated(self._vote.sample(count, seed))

    def gumbel_top_k(self, count, seed):
        values, codes = self._vote.gumbel_top_k(count, seed)
        return values, self._repeated(codes)

    def score(self, codes):
        return self._vote.score(codes[..., :1, :])

    def log_partition(self):
        return self._vote.log_partition()

    def marginals(self):
        return self._repeated(self._vote.marginals())

    def kl_to_uniform(self):
        return self._vote.kl_to_uniform()

    def _repeated(self, codes):
        return tf.repeat(codes, self.num_variables, axis=-2)
