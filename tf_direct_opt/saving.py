"""Solvers in the configs of Keras layers. (The package's own solvers know no Keras.)"""

import keras

from tf_direct_opt import solvers
from tf_direct_opt.types import Solver


def get_solver(identifier: str | dict | Solver) -> Solver:
    """`solvers.get`, and what Keras wrote of a callable of one's own."""
    if isinstance(identifier, dict) and "class_name" in identifier:
        identifier = keras.saving.deserialize_keras_object(identifier)
    return solvers.get(identifier)


def serialize_solver(solver: Solver) -> str | dict:
    """What `get_solver` makes the same solver from: for `get_config`."""
    return solvers.serialize(solver) or keras.saving.serialize_keras_object(solver)
