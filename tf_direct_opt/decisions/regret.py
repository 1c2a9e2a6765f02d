"""The metric of decisions: what they cost more than the best ones."""

import math

import keras
import tensorflow as tf

from tf_direct_opt.checks import check_bool
from tf_direct_opt.decisions.base import (
    decide,
    decisions,
    inner,
    mask_of_examples,
    predictions,
    split,
    zero_if_best,
)
from tf_direct_opt.saving import get_solver, serialize_solver


@keras.saving.register_keras_serializable("tf_direct_opt")
class Regret(keras.metrics.Metric):
    """sum(<c, z> - <c, z_best>) / sum |<c, z_best>| over all examples seen: 0 is the optimum.

    Sums are kept and divided at the end, so that batches of other sizes and replicas count by
    their examples. Where the optimum is 0 anything worse is infinitely worse.

    Args:
        solver: turns predicted costs into decisions; None where the model ends at a decision.
        minimize: whether targets and predictions are costs, or values to be maximised.

    Call: y_true [B, 2, *event] from `targets`; y_pred [B, *event], decisions, or predicted costs
    with a `solver`.

    Raises:
        ValueError: bad arguments; `y_true` of another shape; predictions with a mask of time steps;
            costs alone where there is no `solver`.
        tf.errors.InvalidArgumentError: predictions or targets of other entries, or targets of
            another `minimize`. Under XLA the result is NaN.

    Example:
        >>> regret = Regret()
        >>> regret.update_state([[[3.0, 2.0], [0.0, 1.0]]], [[1.0, 0.0]])
        >>> float(regret.result())
        0.5
    """

    def __init__(self, solver=None, minimize=True, name="regret", **kwargs):
        super().__init__(name=name, **kwargs)
        self.solver = None if solver is None else get_solver(solver)
        self.minimize = check_bool(minimize, "minimize")
        self.excess = self.add_variable(shape=(), initializer="zeros", name="excess")
        self.optimum = self.add_variable(shape=(), initializer="zeros", name="optimum")

    def update_state(self, y_true, y_pred, sample_weight=None):
        mask = mask_of_examples(y_pred)
        y_true, y_pred = (tf.cast(y, tf.float32) for y in (y_true, y_pred))
        costs, best = split(y_true, y_pred, self.solver, self.minimize)
        if best is None:
            raise ValueError(
                "Expected y_true with the best decisions, as `decisions.targets` makes it; "
                "received costs alone. Make targets, or give `solver` where predictions are costs."
            )
        if mask is not None:  # What costs nothing counts for nothing.
            ones = [1] * (costs.shape.rank - 1)
            costs *= tf.reshape(tf.cast(mask, tf.float32), [-1, *ones])
        sign = 1.0 if self.minimize else -1.0
        if self.solver is None:
            decision = decisions(y_pred)
        else:
            decision = decide(self.solver, -sign * predictions(y_pred))
        optimum = inner(costs, best)
        weight = tf.ones_like(optimum)
        if sample_weight is not None:
            given = tf.cast(sample_weight, tf.float32)
            weight *= given if given.shape.rank == 0 else tf.reshape(given, tf.shape(weight))
        excess = sign * (inner(costs, decision) - optimum)
        excess += zero_if_best(costs, best, decision, self.minimize)
        self.excess.assign_add(tf.reduce_sum(weight * excess))
        self.optimum.assign_add(tf.reduce_sum(weight * tf.abs(optimum)))

    def result(self):
        excess, optimum = map(tf.convert_to_tensor, (self.excess, self.optimum))
        nothing_to_divide_by = tf.where(excess > 0.0, tf.cast(math.inf, excess.dtype), excess)
        return tf.where(optimum == 0.0, nothing_to_divide_by, excess / optimum)

    def get_config(self):
        solver = None if self.solver is None else serialize_solver(self.solver)
        return {**super().get_config(), "solver": solver, "minimize": self.minimize}
