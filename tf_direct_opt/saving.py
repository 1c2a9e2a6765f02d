"""Solvers in Keras layers and their configs. (The package's own solvers know no Keras.)"""

import keras

from tf_direct_opt import solvers
from tf_direct_opt.types import Solver


class SolverLayer(keras.layers.Layer):
    """A layer with a `solver`, whose export is refused where that is a function in Python."""

    solver: Solver

    def _trackable_children(self, save_type="checkpoint", **kwargs):
        if save_type == "savedmodel":
            solvers.check_exportable(self.solver)
        return super()._trackable_children(save_type, **kwargs)


def get_solver(identifier: str | dict | Solver) -> Solver:
    """`solvers.get`, and what Keras wrote of a callable of one's own."""
    if isinstance(identifier, dict) and "class_name" in identifier:
        identifier = keras.saving.deserialize_keras_object(identifier)
    return solvers.get(identifier)


def serialize_solver(solver: Solver) -> str | dict:
    """What `get_solver` makes the same solver from: for `get_config`."""
    return solvers.serialize(solver) or keras.saving.serialize_keras_object(solver)
