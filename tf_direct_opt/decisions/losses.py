"""Losses for networks whose output a solver turns into a decision."""

import keras
import tensorflow as tf

from tf_direct_opt import schedules
from tf_direct_opt.checks import check_bool, check_count
from tf_direct_opt.decisions.base import (
    decisions,
    inner,
    mask_of_examples,
    predictions,
    split,
    zero_if_best,
)
from tf_direct_opt.perturbation import noise_of, solve
from tf_direct_opt.saving import get_solver, serialize_solver
from tf_direct_opt.seeds import SeedStream


class _LossOfDecisions(keras.losses.Loss):
    """A loss of one number an example, which Keras would multiply by a mask of any shape."""

    def __call__(self, y_true, y_pred, sample_weight=None):
        mask_of_examples(y_pred)  # Keras weighs by it.
        return super().__call__(y_true, y_pred, sample_weight)


@keras.saving.register_keras_serializable("tf_direct_opt")
class DecisionLoss(_LossOfDecisions):
    """<c, z>, the true cost of a decision, one for each example.

    It is linear in the decision, so that behind `PerturbedArgmax` the direct gradient compares the
    decisions under their true costs: z(eps) = argmin{c^ - noise + eps c}, no table, no relaxation.

    Args:
        minimize: whether `y_true` holds costs, or values to be maximised.

    Call: y_true [B, *event], the costs, or [B, 2, *event] from `targets`; y_pred [B, *event],
    decisions; other entries are refused, as their "cost" has no least value.

    Raises:
        ValueError: bad arguments; `y_true` of another shape; predictions with a mask of time steps.
        tf.errors.InvalidArgumentError: targets of other entries; decisions out of range. Under XLA
            the loss is NaN.

    Example:
        >>> float(DecisionLoss()(tf.constant([[3.0, 1.0]]), tf.constant([[1.0, 0.0]])))
        3.0
    """

    def __init__(self, minimize=True, name="decision_loss", **kwargs):
        super().__init__(name=name, **kwargs)
        self.minimize = check_bool(minimize, "minimize")

    def call(self, y_true, y_pred):
        costs, _ = split(y_true, y_pred)
        return inner(costs if self.minimize else -costs, decisions(y_pred))

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
        noise_scale: factor on the noise, at least 0; a schedule goes by the calls of the loss, to
            which those of a validation belong.
        num_samples: draws an example.
        minimize: whether predictions are costs, or values to be maximised.
        num_ones: as for `PerturbedArgmax`.
        seed: integer seed of the noise; None draws one. Its state is not saved with a model.

    Call: y_true [B, 2, *event] from `targets`; y_pred [B, *event], predicted costs.

    Raises:
        ValueError: bad arguments; `y_true` of another shape; predictions with a mask of time steps.
        tf.errors.InvalidArgumentError: predictions that are decisions; targets of other entries, or
            of another `minimize`; a schedule out of range. Under XLA the loss is NaN.

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
        costs, best = split(y_true, y_pred, self.solver, self.minimize)
        h = predictions(y_pred) * (-1.0 if self.minimize else 1.0)
        draws = self.num_samples
        rows = tf.tile(h, [draws] + [1] * (h.shape.rank - 1))
        scale = schedules.value(self.noise_scale, self.seeds.num_drawn, allow_zero=True)
        scores = rows + scale * self._draw(tf.shape(rows), self.seeds.next())
        code = tf.stop_gradient(solve(self.solver, scores))
        highest = tf.reshape(inner(scores, code), [draws, -1])
        zero = zero_if_best(costs, best, code[: tf.shape(best)[0]], self.minimize)
        return tf.reduce_mean(highest, axis=0) - inner(h, best) + zero

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

    Raises:
        ValueError: bad arguments; `y_true` of another shape; predictions with a mask of time steps.
        tf.errors.InvalidArgumentError: predictions that are decisions; targets of other entries, or
            of another `minimize`. Under XLA the loss is NaN.

    References:
        Elmachtoub, Grigas, "Smart Predict, then Optimize", Management Science, 2022.
    """

    def __init__(self, solver, minimize=True, name="spo_plus", **kwargs):
        super().__init__(name=name, **kwargs)
        self.solver, self.minimize = get_solver(solver), check_bool(minimize, "minimize")

    def call(self, y_true, y_pred):
        costs, best = split(y_true, y_pred, self.solver, self.minimize)
        predicted = predictions(y_pred)
        if not self.minimize:
            costs, predicted = -costs, -predicted
        scores = costs - 2.0 * predicted
        code = tf.stop_gradient(solve(self.solver, tf.stop_gradient(scores)))
        zero = zero_if_best(costs, best, code, minimize=True)
        return inner(scores, code) + inner(2.0 * predicted - costs, best) + zero

    def get_config(self):
        return {
            **super().get_config(),
            "solver": serialize_solver(self.solver),
            "minimize": self.minimize,
        }
