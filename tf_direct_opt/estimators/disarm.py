"""DisARM, for binary variables."""

import keras
import tensorflow as tf

from tf_direct_opt.estimators.base import Estimator, check_binary
from tf_direct_opt.perturbation import sample_uniform
from tf_direct_opt.slopes import attach_slope


@keras.saving.register_keras_serializable("tf_direct_opt")
class DisARM(Estimator):
    """An antithetic pair of codes, the uniform noise integrated out given the pair. K = 2 only.

    With phi = h_1 - h_0, b = [u < sigmoid(phi)] and b' = [1 - u < sigmoid(phi)],
    d/dphi_i = (f(b) - f(b')) / 2 * (-1)^b'_i [b_i != b'_i] sigmoid(|phi_i|): ARM (the same with
    u - 1/2 instead) without the noise that it does not need. Bias: none. Decoder evaluations: two
    an example, with gradient: the decoder's loss is the mean over the pair.

    Args:
        seed: integer seed of the noise; None draws one.

    Raises:
        ValueError: logits of another number of categories than 2.
        ValueError, tf.errors.InvalidArgumentError: as `Estimator`.

    References:
        Dong, Mnih, Tucker, "DisARM: An Antithetic Gradient Estimator for Binary Latent Variables",
        NeurIPS 2020. Yin, Zhou, "ARM: Augment-REINFORCE-Merge Gradient", ICLR 2019.
    """

    def build(self, logits_shape):
        super().build(logits_shape)
        check_binary(logits_shape)

    def estimate(self, posterior, loss_fn, step):
        del step
        logits = posterior.logits
        wide = tf.stop_gradient(tf.cast(logits, tf.float32))
        phi = wide[..., 1] - wide[..., 0]  # [B, N]
        uniform = sample_uniform(tf.shape(phi), self.seeds.next())
        pair = tf.stack([uniform, 1.0 - uniform], axis=1) < tf.sigmoid(phi)[:, tf.newaxis]
        codes = tf.one_hot(tf.cast(pair, tf.int32), 2)
        losses = loss_fn(codes)  # [B, 2]
        compared = loss_fn.compared(codes, losses)
        bits = tf.cast(pair, tf.float32)  # [B, 2, N]
        # (b - b') is (-1)^b' where the two differ and 0 elsewhere.
        halved = (compared[:, :1] - compared[:, 1:]) / 2.0
        towards_one = halved * (bits[:, 0] - bits[:, 1]) * tf.sigmoid(tf.abs(phi))
        slope = tf.stack([-towards_one, towards_one], axis=-1)
        return attach_slope(tf.reduce_mean(losses, axis=1), logits, slope)
