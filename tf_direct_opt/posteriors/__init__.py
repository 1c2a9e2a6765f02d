"""Distributions over configurations, one a file; `base.py` states what they can be asked."""

import inspect

import numpy as np

from tf_direct_opt import solvers
from tf_direct_opt.posteriors.base import REGISTRY, Family, Posterior
from tf_direct_opt.posteriors.categorical import Categorical
from tf_direct_opt.posteriors.chain import Chain
from tf_direct_opt.posteriors.class_gaussian import ClassGaussian
from tf_direct_opt.posteriors.k_subset import KSubset
from tf_direct_opt.posteriors.pairwise_binary import PairwiseBinary

__all__ = [
    "Categorical",
    "Chain",
    "ClassGaussian",
    "Family",
    "KSubset",
    "PairwiseBinary",
    "Posterior",
    "get",
    "names",
    "register",
]

REGISTRY |= {
    "categorical": Categorical,
    "chain": Chain,
    "class_gaussian": ClassGaussian,
    "k_subset": KSubset,
    "pairwise_binary": PairwiseBinary,
}


def names() -> list[str]:
    """The registered posteriors."""
    return sorted(REGISTRY)


def register(name: str, kind: type) -> None:
    """Makes a posterior of one's own known by a name, by which a model that has it is saved.

    Raises:
        ValueError: no name, no class of a posterior, or a name that is taken by another one.
    """
    if not (isinstance(name, str) and name and hasattr(kind, "parameter_shape")):
        raise ValueError(
            f"Expected a name and a class with `parameter_shape`; received {name!r} and {kind!r}. "
            "Please derive it from posteriors.Posterior."
        )
    if REGISTRY.setdefault(name, kind) is not kind:
        raise ValueError(
            f"Expected a name that is not taken; received {name!r}, which is "
            f"{REGISTRY[name].__name__}. Please give another one."
        )


def get(identifier: str | dict | Family, **config) -> Family:
    """The family of that name: what makes a posterior from parameters.

    Args:
        identifier: a registered name, what `Family.get_config` gave, or a `Family`.
        **config: arguments of the posterior after its parameters, with a name only.

    Raises:
        ValueError: unknown name, or arguments that the posterior does not take.

    Example:
        >>> family = posteriors.get("pairwise_binary", num_variables=3)
        >>> family.parameter_shape
        (6,)
        >>> family(tf.zeros([1, 6])).mode().shape
        TensorShape([1, 3, 2])
    """
    if isinstance(identifier, Family) and not config:
        return identifier
    if isinstance(identifier, dict) and set(identifier) == {"name", "config"} and not config:
        return get(identifier["name"], **identifier["config"])
    if not isinstance(identifier, str) or identifier not in REGISTRY:
        raise ValueError(
            f"Expected `posterior` to be one of {names()} or a posteriors.Family; received "
            f"{identifier!r}."
        )
    kind = REGISTRY[identifier]
    config = {k: int(v) if isinstance(v, np.integer) else v for k, v in config.items()}
    if config.get("solver") is not None:
        config["solver"] = solvers.get(config["solver"])
    family = Family(identifier, kind, config)
    try:
        inspect.signature(kind).bind(None, **config)
        family.parameter_shape  # noqa: B018 - sizes that do not fit each other are a ValueError.
    except TypeError as error:
        raise ValueError(
            f"Expected the arguments of the posterior {identifier!r}; received {config}: {error}."
        ) from error
    return family
