"""Gradient estimators, one a file; `base.py` states the face they share."""

import keras

from tf_direct_opt.estimators.base import Estimator
from tf_direct_opt.estimators.direct import Direct
from tf_direct_opt.estimators.exact import Exact

__all__ = ["Direct", "Estimator", "Exact", "get", "names"]

_REGISTRY = {
    "direct": Direct,
    "exact": Exact,
}


def names() -> list[str]:
    """The registered estimators."""
    return sorted(_REGISTRY)


def get(identifier: str | dict | Estimator, **config) -> Estimator:
    """The estimator of that name, built with `config`; or the estimator itself.

    Args:
        identifier: a registered name, an `Estimator`, or the serialized form of one.
        **config: arguments of the estimator, with a name only.

    Raises:
        ValueError: unknown name, or `config` where the estimator is built already.
    """
    if isinstance(identifier, str) and identifier in _REGISTRY:
        return _REGISTRY[identifier](**config)
    if isinstance(identifier, dict):
        identifier = keras.saving.deserialize_keras_object(identifier)
    if not isinstance(identifier, Estimator):
        raise ValueError(
            f"Expected `estimator` to be one of {names()} or an Estimator; received {identifier!r}."
        )
    if config:
        raise ValueError(
            f"Expected no further arguments beside an estimator that is built already; received "
            f"{sorted(config)}. Please give them to the estimator itself."
        )
    return identifier
