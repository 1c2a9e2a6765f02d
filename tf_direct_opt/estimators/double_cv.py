"""Double control variates: the score function without what is linear in the code."""

import keras
import tensorflow as tf

from tf_direct_opt.checks import check_count
from tf_direct_opt.estimators.base import Estimator, batch_mean
from tf_direct_opt.loss_fn import differentiated
from tf_direct_opt.slopes import attach_slope


@keras.saving.register_keras_serializable("tf_direct_opt")
class DoubleCV(Estimator):
    """Leave-one-out score function of S draws, its loss reduced by its slopes at the other draws.

    With g_s = df/dz at draw s, gbar_s the mean of the other g, p = softmax(h), J = diag(p) - p p'
    and a scale a, the mean over s of

        (f_s - a <gbar_s, z_s - p> - mean_{t != s} (f_t - a <g_t, z_t - p>)) (z_s - p) + a J gbar_s.

    The first control is taken out and its mean put back; the second makes the baseline as good. A
    loss that is linear in the code has no variance left at a = 1. The scale is a weight that
    descends the second moment of the gradient. Bias: none. Decoder evaluations: S an example, with
    gradient towards the decoder and towards the code.

    Args:
        num_samples: S, at least 2.
        seed: integer seed of the noise; None draws one.

    Raises:
        ValueError: `num_samples` out of range; a `loss_fn` that is not differentiable towards the
            codes.
        ValueError, tf.errors.InvalidArgumentError: as `Estimator`.

    References:
        Titsias, Shi, "Double Control Variates for Gradient Estimation in Discrete Latent Variable
        Models", AISTATS 2022, arXiv:2111.05300 (for binary variables).
    """

    differentiates_loss = True

    def __init__(self, num_samples=2, seed=None, **kwargs):
        super().__init__(seed=seed, **kwargs)
        self.num_samples = check_count(num_samples, "num_samples", 2)

    def build(self, logits_shape):
        super().build(logits_shape)
        self.scale = self.add_float32_weight("scale", "ones")

    def estimate(self, posterior, loss_fn, step):
        del step
        logits = posterior.logits
        codes = posterior.sample(self.num_samples, self.seeds.next())
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(codes)
            losses = loss_fn(codes)  # [B, S]
        slopes = tf.stop_gradient(differentiated(tape.gradient(losses, codes)))  # [B, S, N, K]

        probability = tf.stop_gradient(posterior.marginals())[:, tf.newaxis]
        score = codes - probability
        others = mean_of_others(slopes)
        own = tf.einsum("bsnk,bsnk->bs", slopes, score)
        control = tf.einsum("bsnk,bsnk->bs", others, score) - mean_of_others(own)
        f = loss_fn.compared(codes, losses)
        centred = others - tf.reduce_sum(probability * others, axis=-1, keepdims=True)
        plain = tf.einsum("bs,bsnk->bnk", f - mean_of_others(f), score) / self.num_samples
        controlled = tf.reduce_mean(probability * centred, axis=1)
        controlled -= tf.einsum("bs,bsnk->bnk", control, score) / self.num_samples

        scale = self.scale.value
        slope = plain + tf.stop_gradient(scale) * controlled
        # Zero, with the slope of the second moment towards the scale alone.
        of_moment = 2.0 * batch_mean(tf.reduce_sum(slope * controlled, axis=[1, 2]))
        tuning = (scale - tf.stop_gradient(scale)) * tf.stop_gradient(of_moment)
        return attach_slope(tf.reduce_mean(losses, axis=1) + tuning, logits, slope)

    def get_config(self):
        return {**super().get_config(), "num_samples": self.num_samples}


def mean_of_others(
    values: tf.Tensor,  # [B, S, ...]
) -> tf.Tensor:
    """For each of S values the mean of the others: [B, S, ...]."""
    count = values.shape[1]
    return (tf.reduce_sum(values, axis=1, keepdims=True) - values) / (count - 1)
