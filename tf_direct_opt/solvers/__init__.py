"""Argmax oracles, one a file; `base.py` states the contract they share."""

from tf_direct_opt.solvers.base import supports_jit
from tf_direct_opt.solvers.categorical import Categorical
from tf_direct_opt.solvers.pairwise_binary import PairwiseBinary
from tf_direct_opt.types import Solver

__all__ = ["Categorical", "PairwiseBinary", "get", "name_of", "supports_jit"]

_REGISTRY = {
    "categorical": Categorical,
}


def get(identifier: str | Solver) -> Solver:
    """The solver of that name, or the callable itself.

    Args:
        identifier: a registered name ("categorical") or a callable with the contract of `base.py`.

    Raises:
        ValueError: an unknown name, or something that cannot be called.
    """
    if isinstance(identifier, str) and identifier in _REGISTRY:
        return _REGISTRY[identifier]()
    if callable(identifier):
        return identifier
    raise ValueError(
        f"Expected `solver` to be one of {sorted(_REGISTRY)} or a callable scores -> code; "
        f"received {identifier!r}."
    )


def name_of(solver: Solver) -> str | None:
    """The name under which `get` makes a solver like this one; None for a callable of one's own."""
    return next((name for name, made in _REGISTRY.items() if type(solver) is made), None)
