"""Likelihoods p(x | z): which distribution of pixels the outputs of a decoder describe.

A likelihood turns the decoder's outputs [S, M, P, C], C numbers a pixel, into a distribution of
TensorFlow Probability over pixels, and an image into its negative log-likelihood, nats. Of a
colour image every channel is a pixel of its own: P = height * width * channels.
"""

import math
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tf_direct_opt.losses import bernoulli_nll
from tf_direct_opt.perturbation import zero_if
from tf_direct_opt.schedules import check_positive
from tf_direct_opt.solvers.base import check_count

tfd = tfp.distributions


class Likelihood(keras.layers.Layer):
    """A family of distributions over pixels; a layer, as it may have weights of its own.

    A subclass gives `distribution`, and where it knows better also the rest.

    Attributes:
        outputs_per_pixel: C, the numbers that it takes of a decoder for a pixel; None: any.
        codes_at_once: codes that are decoded together where very many of them are.
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
        log_prob = distribution.log_prob(self.values(images)[:, tf.newaxis])
        if event.rank == 0:
            log_prob = tf.reduce_sum(log_prob, axis=-1)
        return -tf.cast(log_prob, tf.float32)

    def means(
        self,
        outputs: tf.Tensor,  # [S, M, P, C]
    ) -> tf.Tensor:
        """The expected images, as users give them, float32: [S, M, P]."""
        return tf.cast(self.distribution(tf.cast(outputs, tf.float32)).mean(), tf.float32)


@keras.saving.register_keras_serializable("tf_direct_opt")
class Bernoulli(Likelihood):
    """Binary pixels with the log-odds that the decoder gives; the default of every model.

    Images: values in [0, 1]. Grey ones are no likelihood, but the mean of one over binary images.
    """

    codes_at_once = 4096  # [M, P], as losses are a matrix product: 13 MB for 784 pixels.

    def distribution(self, outputs):
        return tfd.Bernoulli(logits=outputs[..., 0])

    def negative_log_likelihood(self, images, outputs):
        return bernoulli_nll(images, tf.squeeze(outputs, axis=-1))

    def means(self, outputs):
        return tf.sigmoid(tf.cast(tf.squeeze(outputs, axis=-1), tf.float32))


class _WithScale(Likelihood):
    """One scale for all pixels: of a location that the decoder gives."""

    def __init__(self, scale=0.1, learned=True, **kwargs):
        super().__init__(**kwargs)
        if not isinstance(learned, bool):
            raise ValueError(f"Expected `learned` to be True or False; received {learned!r}.")
        self.initial_scale = check_positive(scale, "scale")
        self.learned = learned

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


@keras.saving.register_keras_serializable("tf_direct_opt")
class Gaussian(_WithScale):
    """N(decoder(z), scale^2) for every pixel.

    A density: its nats change with the units of the images, may be negative, and have no lower
    bound where a decoder can repeat images exactly. Images: any finite numbers; pictures show [0,
    1].

    Args:
        scale: standard deviation, the first one or the only one.
        learned: whether it is learned, as the decoder is.

    References:
        Rybkin, Daniilidis, Levine, "Simple and effective VAE training with calibrated decoders",
        ICML 2021, on learning one scale.
    """

    def distribution(self, outputs):
        return tfd.Normal(outputs[..., 0], self.scale)


class _OfLevels(Likelihood):
    """Pixels of `levels` equidistant values: images have k / (levels - 1), k = 0 .. levels - 1."""

    levels: int

    def values(self, images):
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
        return whole + zero_if(fits, message)


@keras.saving.register_keras_serializable("tf_direct_opt")
class DiscretisedLogistic(_WithScale, _OfLevels):
    """A logistic variable around decoder(z), rounded to the levels of 8-bit pixels.

        P(k) = F((k + 1/2) / (levels - 1)) - F((k - 1/2) / (levels - 1)),
        F(t) = sigmoid((t - decoder(z)) / scale)

    with the tails beyond the first and the last level added to those two. Images: see `levels`.

    Args:
        scale: of the logistic, in the units of the images; the first one or the only one.
        learned: whether it is learned, as the decoder is.
        levels: values of a pixel, k / (levels - 1); 256 of bytes divided by 255.

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
    """

    def __init__(self, levels=256, **kwargs):
        super().__init__(**kwargs)
        self.levels = self.outputs_per_pixel = check_count(levels, "levels", 2)

    def distribution(self, outputs):
        return tfd.Categorical(logits=outputs)

    def negative_log_likelihood(self, images, outputs):
        if outputs.shape[0] != 1:
            return super().negative_log_likelihood(images, outputs)
        # TFP would have the logits for each image; this looks up the levels that it has.
        log_probs = tf.nn.log_softmax(tf.cast(outputs[0], tf.float32))  # [M, P, levels]
        num_pixels = log_probs.shape[1]
        table = tf.reshape(tf.transpose(log_probs, [1, 2, 0]), [num_pixels * self.levels, -1])
        first = self.levels * tf.range(num_pixels)
        rows = first + tf.cast(self.values(images), tf.int32)
        return -tf.reduce_sum(tf.gather(table, rows), axis=1)

    def means(self, outputs):
        levels = tf.linspace(0.0, 1.0, self.levels)
        return tf.linalg.matvec(tf.nn.softmax(tf.cast(outputs, tf.float32)), levels)

    def get_config(self):
        return {**super().get_config(), "levels": self.levels}


@keras.saving.register_keras_serializable("tf_direct_opt")
class OfDistribution(Likelihood):
    """A distribution of one's own: what models make of a function that is given as `likelihood`.

    Args:
        function: decoder outputs, float32 [S, M, P, C], -> a `tfp.distributions.Distribution`,
            over pixels with a batch [S, M, P], or over whole images [P] with a batch [S, M]; its
            `log_prob` is asked for images, float32 [B, 1, P], its `mean` for pictures. C is the
            number of outputs that the decoder has for a pixel, 1 without one of one's own. To be
            saved, it has to be registered with `keras.saving.register_keras_serializable`.

    Example:
        >>> from tf_direct_opt import likelihoods
        >>> def with_scales(outputs):
        ...     return tfp.distributions.Normal(outputs[..., 0], tf.nn.softplus(outputs[..., 1]))
        >>> likelihood = likelihoods.OfDistribution(with_scales)
        >>> likelihood.negative_log_likelihood(tf.zeros([5, 3]), tf.zeros([1, 4, 3, 2])).shape
        TensorShape([5, 4])
    """

    outputs_per_pixel = None

    def __init__(self, function: Callable[[tf.Tensor], tfp.distributions.Distribution], **kwargs):
        super().__init__(**kwargs)
        if isinstance(function, dict):
            function = keras.saving.deserialize_keras_object(function)
        if not callable(function):
            raise ValueError(
                "Expected `function`, from outputs of a decoder to a tfp Distribution; received "
                f"{function!r}."
            )
        self.function = function

    def distribution(self, outputs):
        distribution = self.function(outputs)
        if not isinstance(distribution, tfd.Distribution):
            raise ValueError(
                "Expected `likelihood` to return a tfp.distributions.Distribution; received "
                f"{type(distribution).__name__}. Please see likelihoods.OfDistribution."
            )
        return distribution

    def get_config(self):
        return {
            **super().get_config(),
            "function": keras.saving.serialize_keras_object(self.function),
        }


_REGISTRY: dict[str, type[Likelihood]] = {
    "bernoulli": Bernoulli,
    "categorical": Categorical,
    "discretised_logistic": DiscretisedLogistic,
    "gaussian": Gaussian,
}


def names() -> list[str]:
    """The registered likelihoods."""
    return sorted(_REGISTRY)


def get(identifier: str | dict | Likelihood | Callable[[tf.Tensor], Any]) -> Likelihood:
    """The likelihood of that name, with its defaults; or the likelihood itself.

    Args:
        identifier: a registered name, a `Likelihood`, the serialized form of one, or a function
            for `OfDistribution`.

    Raises:
        ValueError: anything else.

    Example:
        >>> from tf_direct_opt import likelihoods
        >>> likelihoods.get("categorical").outputs_per_pixel
        256
    """
    if isinstance(identifier, str) and identifier in _REGISTRY:
        return _REGISTRY[identifier]()
    if isinstance(identifier, dict) and "class_name" in identifier:
        identifier = keras.saving.deserialize_keras_object(identifier)
    if isinstance(identifier, Likelihood):
        return identifier
    if callable(identifier) and not isinstance(identifier, type):
        return OfDistribution(identifier)
    raise ValueError(
        f"Expected `likelihood` to be one of {names()}, a likelihoods.Likelihood or a function "
        f"from a decoder's outputs to a tfp Distribution; received {identifier!r}."
    )
