"""Likelihoods p(x | z), one a file: which distribution of pixels the outputs of a decoder describe.

A likelihood turns the decoder's outputs [S, M, P, C], C numbers a pixel, into a distribution of
TensorFlow Probability over pixels, and an image into its negative log-likelihood, nats. Of a
colour image every channel is a pixel of its own: P = height * width * channels.
"""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tf_direct_opt.likelihoods.base import Likelihood
from tf_direct_opt.likelihoods.bernoulli import Bernoulli
from tf_direct_opt.likelihoods.gaussian import Gaussian
from tf_direct_opt.likelihoods.levels import Categorical, DiscretisedLogistic
from tf_direct_opt.likelihoods.of_distribution import OfDistribution

__all__ = [
    "Bernoulli",
    "Categorical",
    "DiscretisedLogistic",
    "Gaussian",
    "Likelihood",
    "OfDistribution",
    "get",
    "names",
]

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
