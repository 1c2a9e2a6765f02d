"""Losses and a metric for networks whose output a solver turns into a decision.

A network predicts the costs c^ of a problem, the solver decides z(c^) = argmin <c^, z>, and what
counts is the true cost <c, z(c^)> of that decision:

| trained by | model ends at | loss |
|---|---|---|
| the direct gradient of the cost of the decision | `PerturbedArgmax`, a decision | `DecisionLoss` |
| the Fenchel-Young loss of the best decision | predicted costs | `PerturbedFenchelYoung` |
| a convex bound of the regret | predicted costs | `SPOPlus` |

All of them, and the metric `Regret`, take the same targets, made once by `targets`: the true costs
and the best decision under them. They give one number an example, which a mask of time steps cannot
weigh, and refuse predictions that carry one (ValueError). The problem is one of least cost;
`minimize=False` makes it one of highest value, with values in the place of costs throughout.
"""

import math

import keras
import numpy as np
import tensorflow as tf

from tf_direct_opt import schedules
from tf_direct_opt.layers import noise_of
from tf_direct_opt.perturbation import perturbed_argmax, solve, zero_if
from tf_direct_opt.saving import get_solver, serialize_solver
from tf_direct_opt.seeds import SeedStream
from tf_direct_opt.solvers.base import check_bool, check_count, exact
from tf_direct_opt.types import Solver

_NO_TARGETS = (
    "Expected y_true as `decisions.targets` makes it, costs and then 0/1 decisions; received "
    "other entries for decisions"
)
_NO_DECISION = (
    "Expected decisions, from 0 to 1, from a model without a `solver` in its Regret; received "
    "other entries. Give Regret the solver where predictions are costs"
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
        best[part] = _decide(solver, tf.constant(sign * costs[part]))
    return np.stack([costs, best], axis=1)


class _LossOfDecisions(keras.losses.Loss):
    """A loss of one number an example, which Keras would multiply by a mask of any shape."""

    def __call__(self, y_true, y_pred, sample_weight=None):
        _mask_of_examples(y_pred)  # Keras weighs by it.
        return super().__call__(y_true, y_pred, sample_weight)


@keras.saving.register_keras_serializable("tf_direct_opt")
class DecisionLoss(_LossOfDecisions):
    """<c, z>, the true cost of a decision, one for each example.

    It is linear in the decision, so that behind `PerturbedArgmax` the direct gradient compares the
    decisions under their true costs: z(eps) = argmin{c^ - noise + eps c}, no table, no relaxation.

    Args:
        minimize: whether `y_true` holds costs, or values to be maximised.

    Call: y_true [B, *event], the costs, or [B, 2, *event] from `targets`; y_pred [B, *event].

    Example:
        >>> float(DecisionLoss()(tf.constant([[3.0, 1.0]]), tf.constant([[1.0, 0.0]])))
        3.0
    """

    def __init__(self, minimize=True, name="decision_loss", **kwargs):
        super().__init__(name=name, **kwargs)
        self.minimize = check_bool(minimize, "minimize")

    def call(self, y_true, y_pred):
        costs, _ = _split(y_true, y_pred)
        return _inner(costs if self.minimize else -costs, y_pred)

    def get_config(self):
        return {**super().get_config(), "minimize": self.minimize}


@keras.saving.register_keras_serializable("tf_direct_opt")
class PerturbedFenchelYoung(_LossOfDecisions):
    """E[max_z <h + scale gamma, z>] - <h, z_best> with h = -c^: convex, least where E[z] = z_best.

    The gradient towards h is E[z(h + scale gamma)] - z_best, sampled by `num_samples` draws. The
    true costs themselves are not used, only the best decision.

    Args:
        solver: a name, a solver or a callable.
        noise: "gumbel", "normal", "sum_of_gamma" or None (the structured perceptron).
        noise_scale: factor on the noise, at least 0.
        num_samples: draws an example.
        minimize: whether predictions are costs, or values to be maximised.
        num_ones: as for `PerturbedArgmax`.
        seed: integer seed of the noise; None draws one. Its state is not saved with a model.

    Call: y_true [B, 2, *event] from `targets`; y_pred [B, *event], predicted costs.

    References:
        Berthet et al., "Learning with Differentiable Perturbed Optimizers", NeurIPS 2020; Blondel,
        Martins, Niculae, "Learning with Fenchel-Young losses", JMLR 2020.
    """

    def __init__(
        self,
        solver,
        noise="gumbel",
        noise_scale=1.0,
        num_samples=1,
        minimize=True,
        num_ones=None,
        seed=None,
        name="perturbed_fenchel_young",
        **kwargs,
    ):
        super().__init__(name=name, **kwargs)
        self.solver = get_solver(solver)
        self.noise, self.num_ones = noise, num_ones
        self.noise_scale = schedules.get(noise_scale, "noise_scale", allow_zero=True)
        self.num_samples = check_count(num_samples, "num_samples", 1)
        self.minimize = check_bool(minimize, "minimize")
        self.seeds = SeedStream(seed, name="seeds")
        self._draw = noise_of(noise, num_ones, self.solver)

    def call(self, y_true, y_pred):
        costs, best = _split(y_true, y_pred, self.solver, self.minimize)
        h = tf.cast(-y_pred if self.minimize else y_pred, tf.float32)
        draws = self.num_samples
        rows = tf.tile(h, [draws] + [1] * (h.shape.rank - 1))
        scale = schedules.value(self.noise_scale, self.seeds.num_drawn, allow_zero=True)
        scores = rows + scale * self._draw(tf.shape(rows), self.seeds.next())
        code = tf.stop_gradient(solve(self.solver, scores))
        highest = tf.reshape(_inner(scores, code), [draws, -1])
        zero = _zero_if_best(costs, best, code[: tf.shape(best)[0]], self.minimize)
        return tf.reduce_mean(highest, axis=0) - _inner(h, best) + zero

    def get_config(self):
        return {
            **super().get_config(),
            "solver": serialize_solver(self.solver),
            "noise": self.noise,
            "noise_scale": schedules.serialize(self.noise_scale),
            "num_samples": self.num_samples,
            "minimize": self.minimize,
            "num_ones": self.num_ones,
            "seed": self.seeds.seed,
        }


@keras.saving.register_keras_serializable("tf_direct_opt")
class SPOPlus(_LossOfDecisions):
    """max_z <c - 2 c^, z> + 2 <c^, z_best> - <c, z_best>: a convex bound of the regret.

    A subgradient towards c^ is 2 (z_best - z(2 c^ - c)).

    Args:
        solver: a name, a solver or a callable.
        minimize: whether predictions are costs, or values to be maximised.

    Call: y_true [B, 2, *event] from `targets`; y_pred [B, *event], predicted costs.

    References:
        Elmachtoub, Grigas, "Smart Predict, then Optimize", Management Science, 2022.
    """

    def __init__(self, solver, minimize=True, name="spo_plus", **kwargs):
        super().__init__(name=name, **kwargs)
        self.solver, self.minimize = get_solver(solver), check_bool(minimize, "minimize")

    def call(self, y_true, y_pred):
        costs, best = _split(y_true, y_pred, self.solver, self.minimize)
        predicted = tf.cast(y_pred, tf.float32)
        if not self.minimize:
            costs, predicted = -costs, -predicted
        scores = costs - 2.0 * predicted
        code = tf.stop_gradient(solve(self.solver, tf.stop_gradient(scores)))
        zero = _zero_if_best(costs, best, code, minimize=True)
        return _inner(scores, code) + _inner(2.0 * predicted - costs, best) + zero

    def get_config(self):
        return {
            **super().get_config(),
            "solver": serialize_solver(self.solver),
            "minimize": self.minimize,
        }


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
        mask = _mask_of_examples(y_pred)
        y_true, y_pred = (tf.cast(y, tf.float32) for y in (y_true, y_pred))
        costs, best = _split(y_true, y_pred, self.solver, self.minimize)
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
            in_range = tf.reduce_all((y_pred >= -1e-3) & (y_pred <= 1.001))
            decision = y_pred + zero_if(in_range, _NO_DECISION)
        else:
            decision = _decide(self.solver, -sign * y_pred)
        optimum = _inner(costs, best)
        weight = tf.ones_like(optimum)
        if sample_weight is not None:
            weight = tf.reshape(tf.cast(sample_weight, tf.float32), tf.shape(weight))
        excess = sign * (_inner(costs, decision) - optimum)
        excess += _zero_if_best(costs, best, decision, self.minimize)
        self.excess.assign_add(tf.reduce_sum(weight * excess))
        self.optimum.assign_add(tf.reduce_sum(weight * tf.abs(optimum)))

    def result(self):
        excess, optimum = map(tf.convert_to_tensor, (self.excess, self.optimum))
        nothing_to_divide_by = tf.where(excess > 0.0, math.inf, excess)
        return tf.where(optimum == 0.0, nothing_to_divide_by, excess / optimum)

    def get_config(self):
        solver = None if self.solver is None else serialize_solver(self.solver)
        return {**super().get_config(), "solver": solver, "minimize": self.minimize}


def _mask_of_examples(y_pred):
    """The Keras mask [B] of the predictions, or None; ValueError for one of another shape."""
    mask = getattr(y_pred, "_keras_mask", None)
    if mask is not None and tf.TensorShape(mask.shape).rank != 1:
        raise ValueError(
            "Expected predictions without a mask of time steps, as there is one loss an example; "
            f"received one of shape {tf.TensorShape(mask.shape)}. Please leave out "
            "keras.layers.Masking and mask_zero, and set the costs of masked steps to 0 instead."
        )
    return mask


def _split(y_true, y_pred, solver=None, minimize=True):
    """`(costs, best decision)` of targets; solves where there are only costs."""
    y_true = tf.cast(y_true, tf.float32)
    event = y_pred.shape[1:]
    if y_true.shape[1:].is_compatible_with([2, *event]):
        best = y_true[:, 1]
        binary = tf.reduce_all((best == 0.0) | (best == 1.0))
        return y_true[:, 0], best + zero_if(binary, _NO_TARGETS)
    if not y_true.shape[1:].is_compatible_with(event):
        raise ValueError(
            f"Expected y_true of shape [batch, 2, *{tuple(event)}] as `decisions.targets` makes "
            f"it, or costs of the shape of y_pred; received shape {y_true.shape}."
        )
    if solver is None:
        return y_true, None
    return y_true, _decide(solver, -y_true if minimize else y_true)


def _zero_if_best(costs, best, decision, minimize):
    """0, as `zero_if` no decision of the batch is better, in sum, than what is said to be best."""
    excess = tf.reduce_sum(_inner(costs, decision) - _inner(costs, best))
    rounding = 1e-4 * tf.reduce_sum(tf.abs(costs))
    return zero_if((excess if minimize else -excess) >= -rounding, _BETTER_THAN_BEST)


def _decide(solver, scores):
    """The best decision under the scores; NaN under XLA where these are not finite."""
    return perturbed_argmax(scores, tf.zeros_like(scores), exact(solver))[1]


def _inner(left, right):
    """<left, right> of each example, [B]."""
    product = tf.cast(left, tf.float32) * tf.cast(right, tf.float32)
    return tf.reduce_sum(product, axis=list(range(1, product.shape.rank)))
