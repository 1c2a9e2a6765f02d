"""Straight-through Gumbel-softmax."""

import keras
import tensorflow as tf

from tf_direct_opt.estimators.gumbel_softmax import GumbelSoftmax
from tf_direct_opt.solvers import Categorical


@keras.saving.register_keras_serializable("tf_direct_opt")
class StraightThrough(GumbelSoftmax):
    """f(z*) at the exact sample, with the gradient of the Gumbel-softmax relaxation.

    Forward z* = argmax(h + gamma), backward as if it had been softmax((h + gamma) / temperature).
    The decoder meets discrete codes only. Bias: f is linearised at z*, which no temperature
    mends. Variance: O(1 / tau). Decoder evaluations: one an example, with gradient.

    References:
        Jang, Gu, Poole, ICLR 2017, section 2.2; Bengio, Leonard, Courville, arXiv:1308.3432.
    """

    def relaxed_code(self, logits, step):
        relaxed = super().relaxed_code(logits, step)
        # A monotone function of the scores has their argmax.
        code = Categorical()(relaxed)
        return code + relaxed - tf.stop_gradient(relaxed)
