"""The perturbed argmax as one more layer of any Keras model."""

import numbers
import re

import keras
import numpy as np
import tensorflow as tf
from keras import tree

from tf_direct_opt import loss_scales, schedules, solvers
from tf_direct_opt.checks import check_bool, check_count
from tf_direct_opt.direct import (
    check_difference,
    direct_argmax_with_probe,
)
from tf_direct_opt.perturbation import noise_of, perturbed_argmax
from tf_direct_opt.saving import SolverLayer, get_solver, serialize_solver
from tf_direct_opt.seeds import SeedStream
from tf_direct_opt.solvers.base import exact


@keras.saving.register_keras_serializable("tf_direct_opt")
class PerturbedArgmax(SolverLayer):
    """Samples a code by a perturbed argmax; sends back the epsilon-difference.

    In training z* = argmax{h + scale gamma}; at inference the plain argmax. With Gumbel noise of
    scale 1 and the categorical solver this is Gumbel-Max, a draw from softmax(h); with another
    solver it is perturb-and-MAP. Backward, the gradient that reaches the layer is read as a
    linearised loss table f~ and (z* - z*(eps)) / eps, z*(eps) = argmax{h + scale gamma - eps f~},
    is sent on: exact for a loss that is linear in the code, such as the cost of a decision.

    The step can be chosen in two ways:

    * `loss_scale="relative"`: f~ is the gradient in units of the scores, one of each example, and
      `epsilon` is without unit. Whatever factor is on the loss - its reduction, weights,
      positions folded into the batch, mixed precision - passes through. Take it where the layer
      stands in a model of one's own, with `epsilon` from 0.1 to 3 and more than two categories.
    * else `epsilon` is in 1/nats against the loss of one example, whose factor in the training
      loss has to be known. With `loss_scale=None` it is measured, for a loss that is a mean over
      the batch: the layer adds a loss of zero (`add_loss`) and looks at what comes back through
      it. Under `fit` nothing has to be done; a custom loop adds `sum(model.losses)`.

    Args:
        epsilon: number or schedule; a schedule follows the number of training calls.
        solver: a name ("categorical", "assignment"), a solver (`solvers.TopK(3)`), or a callable
            scores -> code, registered with `keras.saving.register_keras_serializable` where the
            model is to be saved.
        seed: integer seed of the noise; None draws one.
        difference: "toward_better", "away_from_worse" or "central".
        loss_scale: "relative", d(training loss) / d(loss of one example), or None, which measures
            it.
        noise: "gumbel", "normal", "sum_of_gamma" (a Gumbel for a configuration with a known
            number of ones) or None, with which "toward_better" is blackbox interpolation.
        noise_scale: factor on the noise, at least 0; number or schedule.
        learn_noise_scale: trains the factor, softplus of a weight that starts at `noise_scale`.
        num_samples: draws an example; the code is their mean, which is what a linear loss needs.
        minimize: the inputs are costs, and the code is that of least cost.
        num_ones: ones in a configuration, for "sum_of_gamma"; None takes that of `TopK`.

    Input: scores [B, ..., K], or [B, *event] as the solver has it, of any float or integer dtype.
    Output: code of the same shape, of the layer's compute dtype.

    Raises:
        ValueError: bad arguments; logits of another rank; a loss whose factor is known not to be
            measured; export of a solver in Python.
        tf.errors.InvalidArgumentError: non-finite logits; under XLA the code becomes NaN.

    Example:
        >>> layer = PerturbedArgmax(epsilon=0.5, seed=0)
        >>> layer(tf.constant([[0.0, 3.0, 1.0]])).numpy()
        array([[0., 1., 0.]], dtype=float32)

    References:
        Lorberbom et al., NeurIPS 2019; Vlastelica et al., "Differentiation of Blackbox
        Combinatorial Solvers", ICLR 2020; Berthet et al., "Learning with Differentiable
        Perturbed Optimizers", NeurIPS 2020.
    """

    def __init__(
        self,
        epsilon=1.0,
        solver="categorical",
        seed=None,
        difference="toward_better",
        loss_scale=None,
        noise="gumbel",
        noise_scale=1.0,
        learn_noise_scale=False,
        num_samples=1,
        minimize=False,
        num_ones=None,
        **kwargs,
    ):
        kwargs.setdefault("autocast", False)
        super().__init__(**kwargs)
        check_difference(difference)
        if tf.is_tensor(loss_scale) or isinstance(loss_scale, np.ndarray):
            raise ValueError(
                "Expected `loss_scale` of a layer to be a number, 'relative' or None; received "
                f"{loss_scale!r}. Please give float(...) of it."
            )
        loss_scales.check(loss_scale)
        self.epsilon = schedules.get(epsilon, "epsilon")
        self.solver = get_solver(solver)
        self.seeds = SeedStream(seed, name="seeds")
        self.difference = difference
        self.loss_scale = loss_scale
        self.noise = noise
        self.noise_scale = schedules.get(noise_scale, "noise_scale", allow_zero=True)
        self.learn_noise_scale = check_bool(learn_noise_scale, "learn_noise_scale")
        self.num_samples = check_count(num_samples, "num_samples", 1)
        self.minimize = check_bool(minimize, "minimize")
        self.num_ones = num_ones
        self._draw = noise_of(noise, num_ones, self.solver)
        if learn_noise_scale and not (isinstance(noise_scale, numbers.Real) and noise_scale > 0):
            raise ValueError(
                "Expected `noise_scale` to be a positive number, where the learnt scale starts; "
                f"received {noise_scale!r}."
            )
        if learn_noise_scale and noise is None:
            raise ValueError(
                "Expected noise, whose scale is learnt; received `noise` None with "
                "`learn_noise_scale`. Please leave one of them out."
            )
        self.supports_jit = solvers.supports_jit(self.solver) and noise != "sum_of_gamma"
        self.supports_masking = True

    def build(self, logits_shape):
        if isinstance(self.solver, solvers.Categorical):
            _check_shape(logits_shape)
        if self.learn_noise_scale:
            self.raw_noise_scale = self.add_weight(
                shape=(),
                initializer=keras.initializers.Constant(
                    self.noise_scale + np.log(-np.expm1(-self.noise_scale))
                ),
                name="raw_noise_scale",
            )
        self.built = True

    def call(self, logits, training=False):
        scores = tf.cast(logits, tf.float32)
        scores = -scores if self.minimize else scores
        if not training:
            _, code = perturbed_argmax(scores, tf.zeros_like(scores), exact(self.solver))
            return tf.cast(code, self.compute_dtype)
        loss_scale, draws = self.loss_scale, self.num_samples
        if loss_scale is None:
            _refuse_what_is_not_measured(self._get_call_context().entry_layer)
        elif loss_scale != loss_scales.RELATIVE:
            entry = self._get_call_context().entry_layer
            refuse_number_under_loss_scaling([self], getattr(entry, "optimizer", None))
            loss_scale = loss_scale / draws
        # All draws of all examples are one batch, of whose rows the loss is a mean.
        rows = tf.tile(scores, [draws, *[1] * (scores.shape.rank - 1)]) if draws > 1 else scores
        step = self.seeds.num_drawn
        noise = self._noise_scale(step) * self._draw(tf.shape(rows), self.seeds.next())
        epsilon = schedules.value(self.epsilon, step)
        code, probe = direct_argmax_with_probe(
            rows, noise, epsilon, self.solver, self.difference, loss_scale
        )
        if loss_scale is None:
            self.add_loss(tf.cast(probe, keras.config.floatx()))
        if draws > 1:
            shape = tf.concat([[draws], tf.shape(scores)], 0)
            code = tf.ensure_shape(tf.reduce_mean(tf.reshape(code, shape), axis=0), scores.shape)
        return tf.cast(code, self.compute_dtype)

    def compute_output_shape(self, logits_shape):
        return logits_shape

    def get_config(self):
        return {
            **super().get_config(),
            "epsilon": schedules.serialize(self.epsilon),
            "solver": serialize_solver(self.solver),
            "seed": self.seeds.seed,
            "difference": self.difference,
            "loss_scale": self.loss_scale,
            "noise": self.noise,
            "noise_scale": schedules.serialize(self.noise_scale),
            "learn_noise_scale": self.learn_noise_scale,
            "num_samples": self.num_samples,
            "minimize": self.minimize,
            "num_ones": self.num_ones,
        }

    def _noise_scale(self, step):
        if self.learn_noise_scale:
            return tf.nn.softplus(tf.cast(self.raw_noise_scale.value, tf.float32))
        return schedules.value(self.noise_scale, step, allow_zero=True)


_MEANS = ("sum_over_batch_size", "mean")  # Over all examples, whatever their weights.


def _check_shape(shape):
    """ValueError unless it is [B, ..., K] with K >= 2 known."""
    if len(shape) < 2 or shape[-1] is None or shape[-1] < 2:
        raise ValueError(
            "Expected logits of shape [B, ..., K] with at least 2 categories, known when the layer "
            f"is built; received shape {tuple(shape)}. Reshape them."
        )


def refuse_number_under_loss_scaling(layers, optimizer) -> None:
    """ValueError where the factor on the loss changes, and one of the layers has a number for it.

    Raises:
        ValueError: such a layer under a `keras.optimizers.LossScaleOptimizer`, which `compile`
            puts around every optimizer under mixed_float16.
    """
    if not isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return
    for layer in layers:
        if isinstance(layer, PerturbedArgmax) and isinstance(layer.loss_scale, numbers.Real):
            raise ValueError(
                "Expected no number for the `loss_scale` of PerturbedArgmax under a "
                f"LossScaleOptimizer, whose scale is a factor on the loss and changes; received "
                f'{layer.loss_scale}. Please give "relative", or None where it can be measured.'
            )


def _refuse_what_is_not_measured(model):
    """ValueError where the compiled loss is no mean over the batch of one example's loss."""
    advice = 'Give `loss_scale`: "relative", which needs no factor, or the factor itself.'
    # What is around the whole model, before its name in the scope, is a training loop.
    scope = tf.get_current_name_scope()
    _, _, within = scope.partition(model.name) if model is not None else ("", "", scope)
    graph = type(tf.compat.v1.get_default_graph()).__name__  # A layer may be called "cond", too.
    if graph.startswith(("While", "Cond")) and re.search(r"/(while|cond)(_\d+)?/", f"{within}/"):
        raise ValueError(
            "Expected PerturbedArgmax outside of a layer's own loop or condition, whose losses "
            "Keras does not collect; received a tf.cond, or a loop such as that of an RNN around "
            f"its cell. {advice}"
        )
    compiled = getattr(model, "_compile_loss", None)
    weights = getattr(compiled, "_user_loss_weights", None)
    sums = [
        loss
        for loss in tree.flatten(getattr(model, "loss", None))
        if isinstance(loss, keras.losses.Loss) and loss.reduction not in _MEANS
    ]
    if sums or weights is not None:
        received = (
            f"`loss_weights` {weights}"
            if weights is not None
            else (f"{type(sums[0]).__name__} with reduction {sums[0].reduction!r}")
        )
        raise ValueError(
            "Expected a training loss that is the mean over the batch, for `epsilon` in 1/nats of "
            f'one example; received {received}. Give PerturbedArgmax `loss_scale`: "relative", '
            "which needs no factor, or the factor itself."
        )
