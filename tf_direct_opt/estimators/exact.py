"""The exact expectation over all codes of a single categorical variable."""

import keras
import tensorflow as tf

from tf_direct_opt import tables
from tf_direct_opt.estimators.base import Estimator


@keras.saving.register_keras_serializable("tf_direct_opt")
class Exact(Estimator):
    """E_q f(z) = sum_k softmax(h)_k f(e_k), differentiated exactly.

    Bias and variance: none. Decoder evaluations: K for a whole batch. N = 1 only: enumeration of
    K^N codes is what discrete estimators exist to avoid. The decoder's gradient is that of the
    expected loss: every code is "the code used", in proportion to its probability.

    Args:
        seed: as for every estimator; nothing is drawn here.

    Raises:
        ValueError: logits of more than one variable.
        ValueError, tf.errors.InvalidArgumentError: as `Estimator`.
    """

    def build(self, logits_shape):
        super().build(logits_shape)
        if len(logits_shape) == 3 and logits_shape[1] != 1:
            raise ValueError(
                f"Expected one variable for exact enumeration; received {logits_shape[1]}, logits "
                f"of shape {tuple(logits_shape)}. Please use the estimator 'direct' for more."
            )

    def estimate(self, posterior, loss_fn, step):
        del step
        logits = posterior.logits
        probabilities = tf.nn.softmax(tf.cast(logits[:, 0], tf.float32))
        losses = tables.all_codes_loss(loss_fn, logits.shape[-1])
        if loss_fn.inference is loss_fn:
            return _expectation(probabilities, losses)
        compared = loss_fn.compared(tables.every_code(logits.shape[-1]), losses)
        slope = _expectation(probabilities, compared)
        expected = _expectation(tf.stop_gradient(probabilities), losses)
        return expected + (slope - tf.stop_gradient(slope))


def _expectation(probabilities, losses):
    """E f [B], of differences of f: what all losses share would cancel in the gradient, rounded."""
    shared = tf.stop_gradient(losses[:, :1])
    return shared[:, 0] + tf.reduce_sum(probabilities * (losses - shared), axis=-1)
