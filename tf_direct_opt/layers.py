"""The perturbed argmax as one more layer of any Keras model."""

import keras
import tensorflow as tf

from tf_direct_opt import schedules, solvers
from tf_direct_opt.direct import check_difference, direct_argmax_with_probe
from tf_direct_opt.estimators.base import check_logits_shape
from tf_direct_opt.perturbation import perturbed_argmax, sample_gumbel
from tf_direct_opt.seeds import SeedStream


@keras.saving.register_keras_serializable("tf_direct_opt")
class PerturbedArgmax(keras.layers.Layer):
    """Samples a code by a perturbed argmax; sends back the epsilon-difference.

    In training z* = argmax{h + gamma}; at inference the plain argmax. With the categorical solver
    this is Gumbel-Max, a draw from softmax(h); with another one it is perturb-and-MAP.
    Backward, the gradient that reaches the layer is read as a linearised loss table f~ and
    (z* - z*(eps)) / eps, with z*(eps) = argmax{h + gamma - eps f~}, is sent on.

    epsilon is a step against the loss of one example, but the gradient that arrives carries the
    reduction over the batch, the number of replicas and a mixed-precision loss scale. The layer
    measures that factor: it adds a loss of zero (`add_loss`) and looks at what comes back through
    it. Under `fit` nothing has to be done; a custom loop adds `sum(model.losses)` to its loss,
    or gives `loss_scale`.

    Args:
        epsilon: number or schedule, in 1/nats; a schedule follows the number of training calls.
        solver: a name ("categorical", "assignment"), a solver (`solvers.TopK(3)`), or a callable
            scores -> code, registered with `keras.saving.register_keras_serializable` where the
            model is to be saved.
        seed: integer seed of the noise; None draws one.
        difference: "toward_better", "away_from_worse" or "central".
        loss_scale: d(training loss) / d(loss of one example); None measures it.

    Input: logits [B, K] or [B, N, K], or [B, *event] as the solver has it.
    Output: code of the same shape, of the layer's compute dtype.

    Raises:
        ValueError: bad arguments, or logits of another rank.
        tf.errors.InvalidArgumentError: non-finite logits; under XLA the code becomes NaN.

    Example:
        >>> layer = PerturbedArgmax(epsilon=0.5, seed=0)
        >>> layer(tf.constant([[0.0, 3.0, 1.0]])).numpy()
        array([[0., 1., 0.]], dtype=float32)
    """

    def __init__(
        self,
        epsilon=1.0,
        solver="categorical",
        seed=None,
        difference="toward_better",
        loss_scale=None,
        **kwargs,
    ):
        kwargs.setdefault("autocast", False)
        super().__init__(**kwargs)
        check_difference(difference)
        if loss_scale is not None and not loss_scale > 0:
            raise ValueError(f"Expected a positive `loss_scale` or None; received {loss_scale!r}.")
        if isinstance(solver, dict) and "class_name" in solver:
            solver = keras.saving.deserialize_keras_object(solver)
        self.epsilon = schedules.get(epsilon, "epsilon")
        self.solver = solvers.get(solver)
        self.seeds = SeedStream(seed, name="seeds")
        self.difference = difference
        self.loss_scale = loss_scale
        self.supports_jit = solvers.supports_jit(self.solver)

    def build(self, logits_shape):
        if isinstance(self.solver, solvers.Categorical):
            check_logits_shape(logits_shape)
        self.built = True

    def call(self, logits, training=False):
        if not training:
            _, code = perturbed_argmax(logits, tf.zeros_like(logits), self.solver)
            return tf.cast(code, self.compute_dtype)
        epsilon = schedules.value(self.epsilon, self.seeds.num_drawn)
        noise = sample_gumbel(tf.shape(logits), self.seeds.next())
        code, probe = direct_argmax_with_probe(
            logits, noise, epsilon, self.solver, self.difference, self.loss_scale
        )
        if self.loss_scale is None:
            self.add_loss(tf.reduce_mean(probe))
        return tf.cast(code, self.compute_dtype)

    def compute_output_shape(self, logits_shape):
        return logits_shape

    def get_config(self):
        # The package's own solvers know no Keras; they are written as a name and arguments.
        solver = solvers.serialize(self.solver)
        if solver is None:
            solver = keras.saving.serialize_keras_object(self.solver)
        return {
            **super().get_config(),
            "epsilon": schedules.serialize(self.epsilon),
            "solver": solver,
            "seed": self.seeds.seed,
            "difference": self.difference,
            "loss_scale": self.loss_scale,
        }
