"""Pixels of equidistant levels, such as those of bytes: with an order, and without."""

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tf_direct_opt.checks import check_count
from tf_direct_opt.likelihoods.base import Likelihood, WithScale
from tf_direct_opt.perturbation import zero_if

tfd = tfp.distributions


class _OfLevels(Likelihood):
    """Pixels of `levels` equidistant values: images have k / (levels - 1), k = 0 .. levels - 1."""

    levels: int

    def values(self, images):
        levels = tf.cast(images, tf.float32) * (self.levels - 1)
        return tf.round(levels) + self.zero_if_images(images)

    def zero_if_images(self, images):
        levels = tf.cast(images, tf.float32) * (self.levels - 1)
        whole = tf.round(levels)
        fits = (tf.reduce_min(whole) >= 0.0) & (tf.reduce_max(whole) <= self.levels - 1)
        # Half precision misses a level by a twelfth.
        fits &= tf.reduce_max(tf.abs(levels - whole)) <= 0.1
        message = (
            f"Expected images with values k / {self.levels - 1}, k = 0..{self.levels - 1}, the "
            f"{self.levels} levels of the {type(self).__name__} likelihood; received others. "
            "Divide bytes by 255, give another number of levels, or take the Gaussian likelihood"
        )
        return zero_if(fits, message)


@keras.saving.register_keras_serializable("tf_direct_opt")
class DiscretisedLogistic(WithScale, _OfLevels):
    """A logistic variable around decoder(z), rounded to the levels of 8-bit pixels.

        P(k) = F((k + 1/2) / (levels - 1)) - F((k - 1/2) / (levels - 1)),
        F(t) = sigmoid((t - decoder(z)) / scale)

    with the tails beyond the first and the last level added to those two. Images: see `levels`.

    Args:
        scale: of the logistic, in the units of the images; the first one or the only one.
        learned: whether it is learned, as the decoder is.
        levels: values of a pixel, k / (levels - 1); 256 of bytes divided by 255.

    Raises:
        ValueError: arguments out of range.
        tf.errors.InvalidArgumentError: images with other values; under XLA the result is NaN.

    References:
        Salimans, Karpathy, Chen, Kingma, "PixelCNN++", ICLR 2017, arXiv:1701.05517, section 2.1.
    """

    def __init__(self, scale=0.1, learned=True, levels=256, **kwargs):
        super().__init__(scale, learned, **kwargs)
        self.levels = check_count(levels, "levels", 2)

    def distribution(self, outputs):
        last = float(self.levels - 1)
        logistic = tfd.Logistic(last * outputs[..., 0], last * self.scale)
        # Half a level down, as what it is quantised by is the next level above.
        shifted = tfd.TransformedDistribution(logistic, tfp.bijectors.Shift(-0.5))
        return tfd.QuantizedDistribution(shifted, low=0.0, high=last)

    def means(self, outputs):
        """The location, which is the mean but for the levels that there are: [S, M, P]."""
        return tf.clip_by_value(tf.cast(outputs[..., 0], tf.float32), 0.0, 1.0)

    def get_config(self):
        return {**super().get_config(), "levels": self.levels}


@keras.saving.register_keras_serializable("tf_direct_opt")
class Categorical(_OfLevels):
    """Any distribution over the levels of a pixel, as the decoder gives a logit for each.

    No order is built in, so there is more to learn: `levels` outputs a pixel.

    Args:
        levels: values of a pixel, k / (levels - 1); 256 of bytes divided by 255.

    Raises:
        ValueError: `levels` out of range.
        tf.errors.InvalidArgumentError: images with other values; under XLA the result is NaN.
    """

    def __init__(self, levels=256, **kwargs):
        super().__init__(**kwargs)
        self.levels = self.outputs_per_pixel = check_count(levels, "levels", 2)

    def distribution(self, outputs):
        return tfd.Categorical(logits=outputs)

    def negative_log_likelihood(self, images, outputs):
        zero = self.zero_if_images(images)  # No integer that a level is cast to is NaN.
        if outputs.shape[0] != 1:
            return super().negative_log_likelihood(images, outputs) + zero
        # TFP would have the logits for each image; this looks up the levels that it has.
        log_probs = tf.nn.log_softmax(tf.cast(outputs[0], tf.float32))  # [M, P, levels]
        num_pixels = log_probs.shape[1]
        table = tf.reshape(tf.transpose(log_probs, [1, 2, 0]), [num_pixels * self.levels, -1])
        first = self.levels * tf.range(num_pixels)
        rows = first + tf.cast(self.values(images), tf.int32)
        return zero - tf.reduce_sum(tf.gather(table, rows), axis=1)

    def means(self, outputs):
        levels = tf.linspace(0.0, 1.0, self.levels)
        return tf.linalg.matvec(tf.nn.softmax(tf.cast(outputs, tf.float32)), levels)

    def get_config(self):
        return {**super().get_config(), "levels": self.levels}
