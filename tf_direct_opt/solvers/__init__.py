"""Argmax oracles, one a file; `base.py` states the contract they share."""

from tf_direct_opt.solvers.assignment import Assignment
from tf_direct_opt.solvers.base import check_exportable, supports_jit
from tf_direct_opt.solvers.categorical import Categorical
from tf_direct_opt.solvers.chain import Chain
from tf_direct_opt.solvers.dag_path import DagPath, grid_edges
from tf_direct_opt.solvers.grid_path import GridPath
from tf_direct_opt.solvers.in_python import OF_THE_PACKAGE, REGISTERED, InPython, register
from tf_direct_opt.solvers.knapsack import Knapsack
from tf_direct_opt.solvers.milp import MILP
from tf_direct_opt.solvers.pairwise_binary import PairwiseBinary
from tf_direct_opt.solvers.pairwise_max_flow import PairwiseBinaryMaxFlow
from tf_direct_opt.solvers.pairwise_milp import PairwiseBinaryMILP
from tf_direct_opt.solvers.shortest_path import ShortestPath
from tf_direct_opt.solvers.spanning_tree import SpanningTree
from tf_direct_opt.solvers.top_k import TopK
from tf_direct_opt.types import Solver

__all__ = [
    "MILP",
    "Assignment",
    "Categorical",
    "Chain",
    "DagPath",
    "GridPath",
    "Knapsack",
    "PairwiseBinary",
    "PairwiseBinaryMILP",
    "PairwiseBinaryMaxFlow",
    "ShortestPath",
    "SpanningTree",
    "TopK",
    "check_exportable",
    "get",
    "grid_edges",
    "name_of",
    "names",
    "register",
    "serialize",
    "supports_jit",
]

_REGISTRY = {
    "assignment": Assignment,
    "categorical": Categorical,
    "chain": Chain,
    "dag_path": DagPath,
    "grid_path": GridPath,
    "knapsack": Knapsack,
    "milp": MILP,
    "pairwise_binary": PairwiseBinary,
    "pairwise_binary_max_flow": PairwiseBinaryMaxFlow,
    "pairwise_binary_milp": PairwiseBinaryMILP,
    "shortest_path": ShortestPath,
    "spanning_tree": SpanningTree,
    "top_k": TopK,
}
OF_THE_PACKAGE.update(_REGISTRY)


def names() -> list[str]:
    """The registered solvers, those of `register` among them."""
    return sorted({**_REGISTRY, **REGISTERED})


def get(identifier: str | dict | Solver, **config) -> Solver:
    """The solver of that name, or the callable itself.

    Args:
        identifier: a registered name, what `serialize` gave, or a callable with the contract of
            `base.py`.
        **config: arguments of a solver given by name.

    Raises:
        ValueError: an unknown name, missing or unknown arguments, or something that cannot be
            called.

    Example:
        >>> get("top_k", k=3).k
        3
    """
    if isinstance(identifier, dict) and set(identifier) == {"name", "config"}:
        return get(identifier["name"], **identifier["config"])
    if isinstance(identifier, str) and identifier in REGISTERED and not config:
        return REGISTERED[identifier]
    if isinstance(identifier, str) and identifier in _REGISTRY:
        try:
            return _REGISTRY[identifier](**config)
        except TypeError as error:
            raise ValueError(
                f"Expected the arguments of the solver {identifier!r}; received {config}: {error}."
            ) from error
    if callable(identifier) and not config:
        return identifier
    raise ValueError(
        f"Expected `solver` to be one of {names()} or a callable "
        f"scores -> code; received {identifier!r}. A solver made with `solvers.register` has to be "
        "registered before a model that names it is loaded."
    )


def name_of(solver: Solver) -> str | None:
    """The name under which `get` makes a solver of this kind; None for a callable of one's own."""
    if isinstance(solver, InPython):
        return solver.name
    return next((name for name, made in _REGISTRY.items() if type(solver) is made), None)


def serialize(solver: Solver) -> str | dict | None:
    """What `get` makes the same solver from, fit for JSON; None for a callable of one's own."""
    name = name_of(solver)
    config = solver.get_config() if name and hasattr(solver, "get_config") else {}
    return {"name": name, "config": config} if config else name
