"""Direct optimisation through argmax: discrete latent variables in Keras, without relaxation."""

from tf_direct_opt import (
    callbacks,
    estimators,
    gibbs,
    labels,
    layers,
    losses,
    models,
    schedules,
    solvers,
    tables,
)
from tf_direct_opt.direct import direct_argmax, direct_loss, epsilon_difference
from tf_direct_opt.perturbation import perturbed_argmax, sample_gumbel

__version__ = "0.1.0"

__all__ = [
    "callbacks",
    "direct_argmax",
    "direct_loss",
    "epsilon_difference",
    "estimators",
    "gibbs",
    "labels",
    "layers",
    "losses",
    "models",
    "perturbed_argmax",
    "sample_gumbel",
    "schedules",
    "solvers",
    "tables",
]
