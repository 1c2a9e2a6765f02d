"""The face that every gradient estimator shares."""

import keras
import tensorflow as tf

from tf_direct_opt.loss_fn import batch_size, checked, checked_per_example
from tf_direct_opt.perturbation import check_finite, nan_unless_finite
from tf_direct_opt.posteriors import Categorical, Posterior
from tf_direct_opt.seeds import SeedStream
from tf_direct_opt.types import LossFn


class Estimator(keras.layers.Layer):
    """A layer from logits to a per-example loss whose gradient is the estimator's.

        loss = estimator(logits, loss_fn=loss_fn, step=step, training=True)      # [B], nats

    Towards `logits`, the parameters of a posterior, the gradient is the estimator's; towards what
    `loss_fn` is made of, the decoder, it is that of the loss at the code used. A subclass
    implements `estimate` and, where it has state worth watching, owns `keras.metrics` as
    attributes: a model that contains the layer reports them. One that is not for independent
    categorical variables alone also sets `posterior`, what makes a posterior from parameters.

    Args:
        seed: integer seed of the noise; None draws one.

    Raises:
        ValueError: `seed` out of range; logits of another shape; no `loss_fn`, or losses of another
            shape or dtype.
        tf.errors.InvalidArgumentError: logits or losses that are not finite; XLA drops the checks.
    """

    differentiates_loss = False
    """Whether the gradient towards the logits goes through that of `loss_fn` towards the codes."""

    def __init__(self, seed: int | None = None, **kwargs):
        # Perturbation and argmax are done in float32 under every dtype policy.
        kwargs.setdefault("autocast", False)
        super().__init__(**kwargs)
        self.seeds = SeedStream(seed, name="seeds")
        self.posterior = Categorical

    def build(self, logits_shape):
        check_logits_shape(logits_shape)
        self.built = True

    def call(
        self,
        logits: tf.Tensor,  # [B, K] or [B, N, K]; [B, *parameter_shape] of another posterior
        loss_fn: LossFn | None = None,
        step=None,
        training: bool = False,
        posterior: Posterior | None = None,
    ) -> tf.Tensor:
        """Per-example loss.

        Args:
            logits: unnormalised log-probabilities, nats, or other parameters of the posterior.
            loss_fn: codes [S, M, N, K] -> losses [B, M], nats; see `types.LossFn`.
            step: position in the layer's schedules, the optimizer's iterations in a model; None
                takes the number of training calls so far.
            training: False gives the loss at the most probable code and draws nothing.
            posterior: the one made of these parameters, where the caller has it already: what it
                has computed is not computed again.

        Returns:
            [B] float32.
        """
        if posterior is None:
            logits = tf.convert_to_tensor(logits)
            posterior = self.posterior(
                tf.cast(logits, tf.float32) if logits.dtype.is_integer else logits
            )
        loss_fn = checked(loss_fn, batch_size(logits), self.differentiates_loss and training)
        if not training:
            loss = loss_fn(posterior.mode()[:, tf.newaxis])[:, 0]
            return loss + _zero_without_gradient(posterior.parameters)
        if step is None:
            step = self.seeds.num_drawn // self.draws_a_call(posterior)
        loss = self.estimate(posterior, loss_fn, step)
        loss = checked_per_example(loss, batch_size(logits), f"`estimate` of {type(self).__name__}")
        # Not every estimator has a solver, which would look at them, and a draw has no NaN.
        parameters = check_finite(tf.stop_gradient(posterior.parameters), "logits")
        return nan_unless_finite(loss, parameters)

    def draws_a_call(self, posterior: Posterior) -> int:
        """How many seeds a training call draws: what the number of calls is counted by."""
        return 1

    def add_float32_weight(self, name: str, initializer, shape=(), **kwargs):
        """A weight of float32 under every dtype policy, also in the scope of a model that casts."""
        return self.add_weight(
            shape=shape,
            initializer=initializer,
            dtype="float32",
            autocast=False,
            name=name,
            **kwargs,
        )

    def estimate(
        self,
        posterior: Posterior,
        loss_fn: LossFn,
        step: tf.Tensor,  # []
    ) -> tf.Tensor:
        """Per-example loss [B] with the estimator's gradient towards `posterior.parameters`."""
        raise NotImplementedError

    def compute_output_shape(self, logits_shape):
        return logits_shape[:1]

    def get_config(self):
        return {**super().get_config(), "seed": self.seeds.seed}


@tf.custom_gradient
def _zero_without_gradient(logits):
    """0, which refuses to be differentiated."""
    del logits

    def refuse(_):
        raise ValueError(
            "Expected training=True where the loss is differentiated; received training=False, "
            "the loss at the most probable code, which has no gradient towards the logits. Please "
            "call estimator(logits, loss_fn=loss_fn, training=True), or give it "
            "tf.stop_gradient(logits)."
        )

    return tf.constant(0.0), refuse


def batch_mean(
    values: tf.Tensor,  # [B]
) -> tf.Tensor:
    """The mean, 0 for a batch without examples: the last one of a replica may have none."""
    count = tf.cast(tf.shape(values)[0], values.dtype)
    return tf.math.divide_no_nan(tf.reduce_sum(values), count)


def check_logits_shape(shape) -> None:
    """Raises ValueError unless the shape is [B, K] or [B, N, K] with K >= 2 known."""
    if len(shape) not in (2, 3):
        raise ValueError(
            f"Expected logits of shape [B, K] or [B, N, K]; received rank {len(shape)}, shape "
            f"{tuple(shape)}. Please reshape the encoder's output."
        )
    if shape[-1] is None or shape[-1] < 2:
        raise ValueError(
            "Expected at least 2 categories, known when the layer is built; received logits of "
            f"shape {tuple(shape)}."
        )
    if len(shape) == 3 and shape[1] is None:
        raise ValueError(
            "Expected the number of variables to be known when the layer is built; received "
            f"logits of shape {tuple(shape)}."
        )


def check_binary(shape) -> None:
    """Raises ValueError unless the logits of that shape have two categories."""
    if shape[-1] != 2:
        raise ValueError(
            f"Expected binary variables, 2 categories; received {shape[-1]}, logits of shape "
            f"{tuple(shape)}. Please use the estimator 'direct' for more."
        )
