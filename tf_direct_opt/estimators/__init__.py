"""Gradient estimators, one a file; `base.py` states the face they share."""

import inspect

import keras

from tf_direct_opt.checks import LAYER_ARGUMENTS
from tf_direct_opt.estimators.adaptive_imle import AdaptiveIMLE
from tf_direct_opt.estimators.arms import ARMS
from tf_direct_opt.estimators.base import Estimator
from tf_direct_opt.estimators.candidates import Candidates
from tf_direct_opt.estimators.direct import Direct
from tf_direct_opt.estimators.disarm import DisARM
from tf_direct_opt.estimators.double_cv import DoubleCV
from tf_direct_opt.estimators.exact import Exact
from tf_direct_opt.estimators.flips import Flips
from tf_direct_opt.estimators.gst import GST
from tf_direct_opt.estimators.gumbel_rao import GumbelRao
from tf_direct_opt.estimators.gumbel_softmax import GumbelSoftmax
from tf_direct_opt.estimators.imle import IMLE
from tf_direct_opt.estimators.local_expectation import LocalExpectation
from tf_direct_opt.estimators.rebar import REBAR
from tf_direct_opt.estimators.reinmax import ReinMax
from tf_direct_opt.estimators.relax import RELAX
from tf_direct_opt.estimators.score_function import ScoreFunction
from tf_direct_opt.estimators.straight_through import StraightThrough

__all__ = [
    "ARMS",
    "GST",
    "IMLE",
    "REBAR",
    "RELAX",
    "AdaptiveIMLE",
    "Candidates",
    "Direct",
    "DisARM",
    "DoubleCV",
    "Estimator",
    "Exact",
    "Flips",
    "GumbelRao",
    "GumbelSoftmax",
    "LocalExpectation",
    "ReinMax",
    "ScoreFunction",
    "StraightThrough",
    "arguments",
    "get",
    "names",
]

_REGISTRY = {
    "adaptive_imle": AdaptiveIMLE,
    "arms": ARMS,
    "candidates": Candidates,
    "direct": Direct,
    "disarm": DisARM,
    "double_cv": DoubleCV,
    "exact": Exact,
    "flips": Flips,
    "gst": GST,
    "gumbel_rao": GumbelRao,
    "gumbel_softmax": GumbelSoftmax,
    "imle": IMLE,
    "local_expectation": LocalExpectation,
    "rebar": REBAR,
    "reinmax": ReinMax,
    "relax": RELAX,
    "score_function": ScoreFunction,
    "straight_through": StraightThrough,
}


def names() -> list[str]:
    """The registered estimators."""
    return sorted(_REGISTRY)


def arguments(name: str) -> set[str]:
    """What the registered estimator of that name can be given; nothing for an unknown name."""
    if name not in _REGISTRY:
        return set()
    return set(inspect.signature(_REGISTRY[name]).parameters) - {"kwargs"}


def get(identifier: str | dict | Estimator, **config) -> Estimator:
    """The estimator of that name, built with `config`; or the estimator itself.

    Args:
        identifier: a registered name, an `Estimator`, or the serialized form of one.
        **config: arguments of the estimator, with a name only.

    Raises:
        ValueError: unknown name, or `config` where the estimator is built already.
    """
    if isinstance(identifier, str) and identifier in _REGISTRY:
        if unknown := sorted(config.keys() - arguments(identifier) - LAYER_ARGUMENTS):
            raise ValueError(
                f"Expected the arguments of the estimator {identifier!r}, "
                f"{sorted(arguments(identifier))}; received also {unknown}. Please leave them out."
            )
        try:
            inspect.signature(_REGISTRY[identifier]).bind(**config)
        except TypeError as error:
            raise ValueError(
                f"Expected the arguments of the estimator {identifier!r}; received {config}: "
                f"{error}."
            ) from error
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
