"""Direct optimisation through argmax: discrete latent variables in Keras, without relaxation.

A name is imported when it is asked for: `tf_direct_opt.files` and `tf_direct_opt.runs` are there
at once, before TensorFlow. Where Keras is imported already, so is everything, and a saved model
finds its classes.
"""

import importlib
import sys
import typing

if typing.TYPE_CHECKING:
    from tf_direct_opt import (
        binary,
        callbacks,
        codebook,
        decisions,
        estimators,
        files,
        labels,
        layers,
        likelihoods,
        losses,
        models,
        optimizers,
        pictures,
        posteriors,
        runs,
        schedules,
        solvers,
        tables,
    )
    from tf_direct_opt.direct import direct_argmax, direct_loss, epsilon_difference
    from tf_direct_opt.perturbation import perturbed_argmax, sample_gumbel

__version__ = "0.1.0"

__all__ = [
    "binary",
    "callbacks",
    "codebook",
    "decisions",
    "direct_argmax",
    "direct_loss",
    "epsilon_difference",
    "estimators",
    "files",
    "labels",
    "layers",
    "likelihoods",
    "losses",
    "models",
    "optimizers",
    "perturbed_argmax",
    "pictures",
    "posteriors",
    "runs",
    "sample_gumbel",
    "schedules",
    "solvers",
    "tables",
]

_HOMES = {
    "direct_argmax": "direct",
    "direct_loss": "direct",
    "epsilon_difference": "direct",
    "perturbed_argmax": "perturbation",
    "sample_gumbel": "perturbation",
}


def __getattr__(name):
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    try:
        return importlib.import_module(f"{__name__}.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"{__name__}.{name}":
            raise
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None


def __dir__():
    return sorted({*globals(), *__all__})


if "keras" in sys.modules:
    for _name in __all__:
        __getattr__(_name)
