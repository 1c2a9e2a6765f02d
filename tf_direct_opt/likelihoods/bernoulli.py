"""Binary pixels."""

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tf_direct_opt.likelihoods.base import Likelihood
from tf_direct_opt.losses import bernoulli_nll, zero_if_means


@keras.saving.register_keras_serializable("tf_direct_opt")
class Bernoulli(Likelihood):
    """Binary pixels with the log-odds that the decoder gives; the default of every model.

    Images: values in [0, 1]. Grey ones are no likelihood, but the mean of one over binary images.

    Raises:
        tf.errors.InvalidArgumentError: images out of range; under XLA the result is NaN.
    """

    codes_at_once = 4096  # [M, P], as losses are a matrix product: 13 MB for 784 pixels.

    def distribution(self, outputs):
        return tfp.distributions.Bernoulli(logits=outputs[..., 0])

    def zero_if_images(self, images):
        return zero_if_means(images)

    def negative_log_likelihood(self, images, outputs):
        return bernoulli_nll(images, tf.squeeze(outputs, axis=-1))

    def means(self, outputs):
        return tf.sigmoid(tf.cast(tf.squeeze(outputs, axis=-1), tf.float32))
