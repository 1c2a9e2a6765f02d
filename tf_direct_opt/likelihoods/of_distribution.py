"""A distribution of one's own."""

from collections.abc import Callable

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tf_direct_opt.likelihoods.base import Likelihood


@keras.saving.register_keras_serializable("tf_direct_opt")
class OfDistribution(Likelihood):
    """A distribution of one's own: what models make of a function that is given as `likelihood`.

    Args:
        function: decoder outputs, float32 [S, M, P, C], -> a `tfp.distributions.Distribution`,
            over pixels with a batch [S, M, P], or over whole images [P] with a batch [S, M]; its
            `log_prob` is asked for images, float32 [B, 1, P], its `mean` for pictures. C is the
            number of outputs that the decoder has for a pixel, 1 without one of one's own. To be
            saved, it has to be registered with `keras.saving.register_keras_serializable`. A
            variable in it is not trained: weights belong in a `Likelihood` of one's own.

    Images outside of the distribution's support raise, in eager and graph mode, as its own
    `validate_args` has it; XLA drops that check, and then nothing is said.

    Raises:
        ValueError: `function` that cannot be called, that returns no tfp Distribution, or one over
            something else than these pixels.

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
        if not isinstance(distribution, tfp.distributions.Distribution):
            raise ValueError(
                "Expected `likelihood` to return a tfp.distributions.Distribution; received "
                f"{type(distribution).__name__}. Please see likelihoods.OfDistribution."
            )
        # What lies outside of its support would have a density all the same.
        return _validating(distribution)

    def get_config(self):
        return {
            **super().get_config(),
            "function": keras.saving.serialize_keras_object(self.function),
        }


def _validating(distribution):
    """The same distribution, which looks at its arguments, as do those that it is made of."""

    def is_distribution(part):
        return isinstance(part, tfp.distributions.Distribution)

    parts = {  # Those of a mixture are a list.
        name: tf.nest.map_structure(lambda p: _validating(p) if is_distribution(p) else p, part)
        for name, part in distribution.parameters.items()
        if any(map(is_distribution, tf.nest.flatten(part)))
    }
    if "validate_args" not in distribution.parameters:  # One's own may have no checks.
        return distribution.copy(**parts)
    return distribution.copy(validate_args=True, **parts)
