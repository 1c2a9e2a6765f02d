"""The gapped straight-through estimator (GST)."""

import keras
import tensorflow as tf

from tf_direct_opt import schedules
from tf_direct_opt.estimators.straight_through import StraightThroughBase


@keras.saving.register_keras_serializable("tf_direct_opt")
class GST(StraightThroughBase):
    """Straight-through with the logits moved, by a fixed rule, to where the draw z* wins by a gap.

    Backward as if z* had been softmax((h + m) / temperature), where m raises the category drawn to
    the largest logit and lowers every other one to at most that minus `gap`. It plays the part of
    the noise given z* in `gumbel_rao` without drawing any. Bias: f is linearised at z*, and m is no
    law of noise. Variance: that of z* alone. Decoder evaluations: S an example, with gradient.

    Args:
        temperature: number or schedule, positive.
        gap: nats between the category drawn and every other, at least 0.
        num_samples: S, draws that are averaged.
        seed: integer seed of the noise; None draws one.

    Raises:
        ValueError: `gap` out of range.
        ValueError, tf.errors.InvalidArgumentError: as `GumbelSoftmax`.

    Reports:
        `temperature`.

    References:
        Fan, Chi, Rudnicky, Ramadge, "Training Discrete Deep Generative Models via Gapped
        Straight-Through Estimator", ICML 2022, arXiv:2206.07235.
    """

    def __init__(self, temperature=1.0, gap=1.0, num_samples=1, seed=None, **kwargs):
        super().__init__(temperature, num_samples, seed, **kwargs)
        self.gap = schedules.check_positive(gap, "gap", allow_zero=True)

    def surrogate(self, logits, noise, code, temperature):
        del noise
        fixed = tf.stop_gradient(logits)
        largest = tf.reduce_max(fixed, axis=-1, keepdims=True)
        apart = tf.where(code > 0.0, largest, tf.minimum(fixed, largest - self.gap))
        return tf.nn.softmax((apart + (logits - fixed)) / temperature)

    def get_config(self):
        return {**super().get_config(), "gap": self.gap}
