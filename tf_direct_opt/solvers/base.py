"""The contract of an argmax solver.

A solver is any callable

    code = solver(scores)        # scores: float32 [B, *event] -> code: float32 [B, *event]

that returns, for each example, the 0/1 sufficient statistics of the configuration with the
highest score, the lowest one where several tie. It draws no noise and defines no gradient. No
base class is needed; a solver in Python rather than TensorFlow says so with an attribute
`supports_jit = False`, which keeps XLA away from the layers that use it.

The solvers of this package refuse scores of a wrong shape (ValueError) and scores that are not
finite (tf.errors.InvalidArgumentError; XLA drops that check, and the layers then give NaN). Those
with arguments have `get_config`, from which `solvers.get` makes them again.
"""

import tensorflow as tf

from tf_direct_opt.perturbation import check_finite
from tf_direct_opt.types import Solver


def supports_jit(solver: Solver) -> bool:
    """Whether XLA can compile the solver; a callable that does not say is taken at its word."""
    return getattr(solver, "supports_jit", True)


def check_scores(
    scores: tf.Tensor,  # [B, *event]
    event_shape: tuple[int | None, ...],
    name: str,
    finite: bool = True,
) -> tf.Tensor:
    """The scores themselves, as a tensor, if they are finite and of shape [B, *event_shape].

    Args:
        scores: what the solver received.
        event_shape: sizes expected after the batch; None for one that is free.
        name: of the solver, for the message.
        finite: whether to look at the values as well.

    Raises:
        ValueError: another shape.
        tf.errors.InvalidArgumentError: an infinite or NaN score, in eager and graph mode.
    """
    scores = tf.convert_to_tensor(scores)
    if not scores.shape[1:].is_compatible_with(event_shape) or scores.shape.rank == 0:
        expected = ", ".join("*" if size is None else str(size) for size in event_shape)
        raise ValueError(
            f"Expected scores of shape [batch, {expected}] for {name}; received shape "
            f"{scores.shape}. Reshape them, or make the solver for another size."
        )
    return check_finite(scores, f"scores for {name}") if finite else scores
