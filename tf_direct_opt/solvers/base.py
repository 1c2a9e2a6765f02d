"""The contract of an argmax solver.

A solver is any callable

    code = solver(scores)        # scores: float32 [B, *event] -> code: float32 [B, *event]

that returns, for each example, the 0/1 sufficient statistics of the configuration with the
highest score, the lowest one where several tie. It draws no noise and defines no gradient. No
base class is needed; a solver in Python rather than TensorFlow says so with an attribute
`supports_jit = False`, which keeps XLA away from the layers that use it.
"""

from tf_direct_opt.types import Solver


def supports_jit(solver: Solver) -> bool:
    """Whether XLA can compile the solver; a callable that does not say is taken at its word."""
    return getattr(solver, "supports_jit", True)
