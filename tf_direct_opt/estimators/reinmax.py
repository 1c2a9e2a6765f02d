"""ReinMax, straight-through of second order."""

import keras
import tensorflow as tf

from tf_direct_opt.estimators.straight_through import StraightThroughBase


@keras.saving.register_keras_serializable("tf_direct_opt")
class ReinMax(StraightThroughBase):
    """2 J(pi) g - J(p) g / 2 with g = df/dz at the draw z*, the trapezoid rule of a difference.

    Here p = softmax(h), pi = (softmax(h / temperature) + z*) / 2 and J(q) = diag(q) - q q'.
    Straight-through is p_i p_j (f(e_i) - f(e_j)) with the slope at one end for the difference, the
    rule of Euler; this one averages the slopes at both ends (Heun). Bias: none for a quadratic f
    at temperature 1, third order otherwise. A temperature above 1 lowers the variance. Decoder
    evaluations: S an example, with gradient.

    At temperature 1 it is also the limit of `gumbel_rao` as its temperature goes to 0, in closed
    form: (J(p) + (z* - p) (z* - p)') g / 2, known as ZGR.

    Args:
        temperature: number or schedule, positive; the paper's search took 1.3.
        num_samples: S, draws that are averaged.
        seed: integer seed of the noise; None draws one.

    Raises:
        ValueError, tf.errors.InvalidArgumentError: as `GumbelSoftmax`.

    Reports:
        `temperature`.

    References:
        Liu, Dong, Liu, Yu, Gao, "Bridging Discrete and Backpropagation: Straight-Through and
        Beyond", NeurIPS 2023, arXiv:2304.08612. Shekhovtsov, "Cold Analysis of Rao-Blackwellized
        Straight-Through Gumbel-Softmax Gradient Estimator", ICML 2023.
    """

    def surrogate(self, logits, noise, code, temperature):
        del noise
        fixed = tf.stop_gradient(logits)
        middle = (tf.nn.softmax(fixed / temperature) + code) / 2.0
        # softmax(log q + h) at h = 0 is q, and its derivative J(q).
        at_middle = tf.nn.softmax(tf.math.log(middle) + logits - fixed)
        return 2.0 * at_middle - tf.nn.softmax(logits) / 2.0
