"""Targets of decisions: true costs, and the best decision under them."""

import numpy as np
import tensorflow as tf

from tf_direct_opt.checks import check_bool, check_count
from tf_direct_opt.perturbation import perturbed_argmax, zero_if
from tf_direct_opt.saving import get_solver
from tf_direct_opt.solvers.base import exact
from tf_direct_opt.types import Solver

_NO_TARGETS = (
    "Expected y_true as `decisions.targets` makes it, costs and then 0/1 decisions; received "
    "other entries for decisions"
)
_NO_DECISION = (
    "Expected decisions, from 0 to 1, where no `solver` makes them; received other entries. End "
    "the model with a PerturbedArgmax, or give what takes predicted costs its `solver`"
)
_DECISION = (
    "Expected predicted costs where a `solver` makes decisions of them; received decisions, all "
    "0 or 1. Leave out the `solver`, or the layer that decides"
)
_BETTER_THAN_BEST = (
    "Expected no decision that is better than the best of y_true; received some. Give `targets` "
    "and what takes them the same `minimize`"
)


def targets(
    costs: np.ndarray,  # [n, *event]
    solver: str | dict | Solver,
    minimize: bool = True,
    batch_size: int = 1000,
) -> np.ndarray:
    """What the losses and `Regret` take for `y_true`: [n, 2, *event], costs and best decisions.

    Args:
        costs: the true ones of n problems, or values with minimize=False.
        solver: a name, a solver or a callable.
        minimize: whether `costs` are costs, or values to be maximised.
        batch_size: problems that are solved at a time.

    Raises:
        ValueError: bad arguments; costs of another shape than the solver's.
        tf.errors.InvalidArgumentError: costs that are not finite.

    Example:
        >>> targets(np.array([[3.0, 1.0, 2.0]]), solvers.Categorical())
        array([[[3., 1., 2.], [0., 1., 0.]]], dtype=float32)
    """
    costs, solver = np.asarray(costs, np.float32), get_solver(solver)
    check_count(batch_size, "batch_size", 1)
    sign = -1.0 if check_bool(minimize, "minimize") else 1.0
    best = np.zeros_like(costs)
    for start in range(0, len(costs), batch_size):
        part = slice(start, start + batch_size)
        best[part] = decide(solver, tf.constant(sign * costs[part]))
    return np.stack([costs, best], axis=1)


def mask_of_examples(y_pred):
    """The Keras mask [B] of the predictions, or None; ValueError for one of another shape."""
    mask = getattr(y_pred, "_keras_mask", None)
    if mask is not None and tf.TensorShape(mask.shape).rank != 1:
        raise ValueError(
            "Expected predictions without a mask of time steps, as there is one loss an example; "
            f"received one of shape {tf.TensorShape(mask.shape)}. Please leave out "
            "keras.layers.Masking and mask_zero, and set the costs of masked steps to 0 instead."
        )
    return mask


def split(
    y_true,  # [B, 2, *event] or [B, *event]
    y_pred,  # [B, *event]
    solver=None,
    minimize=True,
):
    """`(costs, best decision)` of targets; solves where there are only costs."""
    y_true = tf.cast(y_true, tf.float32)
    event = y_pred.shape[1:]
    if y_true.shape[1:].is_compatible_with([2, *event]):
        best = y_true[:, 1]
        binary = tf.reduce_all((best == 0.0) | (best == 1.0))
        zero = zero_if(binary, _NO_TARGETS)  # Under XLA it is NaN, whichever of them is looked at.
        return y_true[:, 0] + zero, best + zero
    if not y_true.shape[1:].is_compatible_with(event):
        raise ValueError(
            f"Expected y_true of shape [batch, 2, *{tuple(event)}] as `decisions.targets` makes "
            f"it, or costs of the shape of y_pred; received shape {y_true.shape}."
        )
    if solver is None:
        return y_true, None
    return y_true, decide(solver, -y_true if minimize else y_true)


def decisions(
    y_pred,  # [B, *event]
):
    """float32 decisions, refused unless they lie in [0, 1]."""
    y_pred = tf.cast(y_pred, tf.float32)
    in_range = tf.reduce_all((y_pred >= -1e-3) & (y_pred <= 1.001))
    return y_pred + zero_if(in_range, _NO_DECISION)


def predictions(
    y_pred,  # [B, *event]
):
    """float32 predicted costs, refused where they are decisions."""
    y_pred = tf.cast(y_pred, tf.float32)
    binary = tf.reduce_all((y_pred == 0.0) | (y_pred == 1.0))
    # A network that has learnt nothing may predict 0 alone.
    return y_pred + zero_if(~(binary & tf.reduce_any(y_pred == 1.0)), _DECISION)


def zero_if_best(
    costs,  # [B, *event]
    best,  # [B, *event]
    decision,  # [B, *event]
    minimize,
):
    """0, as `zero_if` no decision of the batch is better, in sum, than what is said to be best."""
    excess = tf.reduce_sum(inner(costs, decision) - inner(costs, best))
    rounding = 1e-4 * tf.reduce_sum(tf.abs(costs))
    return zero_if((excess if minimize else -excess) >= -rounding, _BETTER_THAN_BEST)


def decide(
    solver,
    scores,  # [B, *event]
):
    """The best decision under the scores; NaN under XLA where these are not finite."""
    return perturbed_argmax(scores, tf.zeros_like(scores), exact(solver))[1]


def inner(
    left,  # [B, *event]
    right,  # [B, *event]
):
    """<left, right> of each example, [B]."""
    product = tf.cast(left, tf.float32) * tf.cast(right, tf.float32)
    return tf.reduce_sum(product, axis=list(range(1, product.shape.rank)))
