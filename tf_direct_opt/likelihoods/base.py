"""The contract of a likelihood, and what those with one scale for all pixels share."""

import math

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tf_direct_opt.checks import check_bool
from tf_direct_opt.schedules import check_positive


class Likelihood(keras.layers.Layer):
    """A family of distributions over pixels; a layer, as it may have weights of its own.

    A subclass gives `distribution`, and where it knows better also the rest.

    Attributes:
        outputs_per_pixel: C, the numbers that it takes of a decoder for a pixel; None: any.
        codes_at_once: codes that are decoded together where very many of them are.

    Raises:
        ValueError, tf.errors.InvalidArgumentError: as `negative_log_likelihood`.
    """

    outputs_per_pixel: int | None = 1
    codes_at_once = 64  # Of [B, M, P], what most likelihoods compute.

    def __init__(self, **kwargs):
        # Densities are those of float32 under every dtype policy.
        kwargs.setdefault("autocast", False)
        super().__init__(**kwargs)

    def build(self, input_shape=None):
        self.built = True

    def distribution(
        self,
        outputs: tf.Tensor,  # [S, M, P, C] float32
    ) -> tfp.distributions.Distribution:
        """Independent pixels, a batch [S, M, P]; or whole images, a batch [S, M] over [P]."""
        raise NotImplementedError

    def values(
        self,
        images: tf.Tensor,  # [B, P]
    ) -> tf.Tensor:
        """What the distribution is over, made of the images as users give them: [B, P]."""
        return tf.cast(images, tf.float32)

    def zero_if_images(
        self,
        images: tf.Tensor,  # [B, P]
    ) -> tf.Tensor:
        """0, which raises, and is NaN under XLA, where no image can have such values: []."""
        del images
        return tf.constant(0.0)

    def negative_log_likelihood(
        self,
        images: tf.Tensor,  # [B, P]
        outputs: tf.Tensor,  # [S, M, P, C], S = 1 or B
    ) -> tf.Tensor:
        """-log p(x | z) of every image and code, nats, summed over pixels: float32 [B, M].

        Raises:
            ValueError: a distribution over something else than these pixels.
            tf.errors.InvalidArgumentError: images out of range, in eager and graph mode. XLA drops
                assertions, so there the result is NaN.
        """
        outputs = tf.cast(outputs, tf.float32)
        distribution = self.distribution(outputs)
        batch, event = distribution.batch_shape, distribution.event_shape
        whole = batch.concatenate(event)
        if (event.rank or 0) > 1 or not whole.is_compatible_with(outputs.shape[:3]):
            raise ValueError(
                f"Expected `likelihood` to be a distribution over {outputs.shape[2]} pixels, a "
                f"batch {outputs.shape[:3]} of them or {outputs.shape[:2]} of images; received a "
                f"batch {batch} of events {event}. Please see likelihoods.OfDistribution."
            )
        values = self.values(images)[:, tf.newaxis]
        if distribution.dtype.is_floating:
            values = tf.cast(values, distribution.dtype)
        log_prob = distribution.log_prob(values)
        if event.rank == 0:
            log_prob = tf.reduce_sum(log_prob, axis=-1)
        return -tf.cast(log_prob, tf.float32)

    def means(
        self,
        outputs: tf.Tensor,  # [S, M, P, C]
    ) -> tf.Tensor:
        """The expected images, as users give them, float32: [S, M, P]."""
        return tf.cast(self.distribution(tf.cast(outputs, tf.float32)).mean(), tf.float32)


class WithScale(Likelihood):
    """One scale for all pixels: of a location that the decoder gives.

    Raises:
        ValueError: `scale` that is not positive; `learned` that is not True or False.
    """

    def __init__(self, scale=0.1, learned=True, **kwargs):
        super().__init__(**kwargs)
        self.initial_scale = check_positive(scale, "scale")
        self.learned = check_bool(learned, "learned")

    def build(self, input_shape=None):
        if self.learned and not self.built:
            self.log_scale = self.add_weight(
                shape=(),
                initializer=keras.initializers.Constant(math.log(self.initial_scale)),
                dtype="float32",
                autocast=False,
                name="log_scale",
            )
        self.built = True

    @property
    def scale(self) -> tf.Tensor:
        """The scale as it is now, in the units of the images: float32 []."""
        if not self.learned:
            return tf.constant(self.initial_scale)
        self.build()
        return tf.exp(tf.convert_to_tensor(self.log_scale))

    def get_config(self):
        return {**super().get_config(), "scale": self.initial_scale, "learned": self.learned}
