"""Adaptive I-MLE: a step that is chosen by how many entries of the gradient are to be non-zero."""

import math

import keras
import tensorflow as tf

from tf_direct_opt import direct, loss_scales, schedules, tables
from tf_direct_opt.checks import check_count
from tf_direct_opt.estimators.base import Estimator, batch_mean
from tf_direct_opt.estimators.imle import repeated
from tf_direct_opt.metrics import Means
from tf_direct_opt.perturbation import perturbed_argmax, sample_gumbel
from tf_direct_opt.solvers import Categorical


@keras.saving.register_keras_serializable("tf_direct_opt")
class AdaptiveIMLE(Estimator):
    """I-MLE with epsilon = step * |h + gamma| / |df/dz|, norms over the batch.

    Every factor on the loss cancels in epsilon. The step itself, a weight without gradient, grows
    by a factor 1 + rate a call while fewer than `target` entries of an example's gradient differ
    from zero, on a running average, and shrinks else: too small an epsilon gives no gradient at
    all, too large a one a biased one. (The paper adds to the step and takes |h|; scores have no
    zero norm, and without their mean over a variable, which no argmax sees, no arbitrary one.)
    Bias: that of `imle`. Variance: O(1 / epsilon), divided by S. Decoder evaluations: S an example
    and as many backward passes more.

    Args:
        target: non-zero entries of an example's gradient; a changed variable has two, and so it is
            below 2 N.
        initial_step: the first step, positive.
        rate: how fast the step is adapted, at least 0.
        difference: "toward_better", "away_from_worse" or "central".
        num_samples: S, draws that are averaged.
        seed: integer seed of the noise; None draws one.

    Raises:
        ValueError: arguments out of range; `target` of 2 N or more; a `loss_fn` that is not
            differentiable towards the codes.
        ValueError, tf.errors.InvalidArgumentError: as `Estimator`.

    Reports:
        `epsilon`, `flip_rate`, the share of draws with a gradient, and `nonzeros`.

    References:
        Minervini, Franceschi, Niepert, "Adaptive Perturbation-Based Gradient Estimation for
        Discrete Latent Variable Models", AAAI 2023, arXiv:2209.04862.
    """

    DECAY = 0.9
    """Of the running average of non-zero entries."""

    GREATEST_STEP = 1e3
    """A step of 1 is as long as the scores."""

    def __init__(
        self,
        target=1.0,
        initial_step=0.1,
        rate=0.01,
        difference="central",
        num_samples=1,
        seed=None,
        **kwargs,
    ):
        super().__init__(seed=seed, **kwargs)
        direct.check_difference(difference)
        self.target = schedules.check_positive(target, "target")
        self.initial_step = schedules.check_positive(initial_step, "initial_step")
        self.rate = schedules.check_positive(rate, "rate", allow_zero=True)
        self.difference = difference
        self.num_samples = check_count(num_samples, "num_samples", 1)
        self.solver = Categorical()
        self.report = Means(["epsilon", "flip_rate", "nonzeros"])

    def build(self, logits_shape):
        super().build(logits_shape)
        most = 2 * math.prod(logits_shape[1:-1])
        if self.target >= most:
            raise ValueError(
                f"Expected `target` below {most}, the entries of a gradient when all variables "
                f"change; received {self.target:g}. Please take fewer."
            )
        for name, value in (("relative_step", self.initial_step), ("nonzeros", self.target)):
            weight = self.add_float32_weight(
                name, keras.initializers.Constant(value), trainable=False, aggregation="mean"
            )
            setattr(self, name, weight)

    def estimate(self, posterior, loss_fn, step):
        del step
        count = self.num_samples
        logits = tf.repeat(posterior.logits, count, axis=0)
        noise = sample_gumbel(tf.shape(logits), self.seeds.next())
        scores, code = perturbed_argmax(logits, noise, self.solver)
        losses, table = tables.linearised(repeated(loss_fn, count), code)
        slopes = tf.maximum(tf.norm(centred(table)), 1e-30)
        length = tf.norm(centred(loss_scales.within_reach(scores)))
        # Positive where there is no example, either.
        epsilon = tf.maximum(self.relative_step.value * length / slopes, 1e-30)
        losses, slope = direct.loss_with_difference(
            losses, logits, scores, code, table, epsilon, self.solver, self.difference
        )
        self.adapt(slope, epsilon)
        return tf.reduce_mean(tf.reshape(losses, [-1, count]), axis=1)

    def adapt(
        self,
        slope: tf.Tensor,  # [B, N, K]
        epsilon: tf.Tensor,  # []
    ) -> None:
        """Moves the step towards one that gives `target` non-zero entries an example."""
        counts = tf.math.count_nonzero(slope, axis=[1, 2], dtype=tf.float32)
        now = {"epsilon": epsilon, "flip_rate": counts > 0.0, "nonzeros": counts}
        self.report.update_state(now, tf.shape(slope)[0])
        average = self.DECAY * self.nonzeros + (1.0 - self.DECAY) * batch_mean(counts)
        grow = tf.where(average < self.target, 1.0 + self.rate, 1.0 / (1.0 + self.rate))
        self.nonzeros.assign(average)
        # Nothing changes any more long before: a decoder may not look at the code at all.
        self.relative_step.assign(tf.minimum(self.relative_step * grow, self.GREATEST_STEP))

    def get_config(self):
        return {
            **super().get_config(),
            "target": self.target,
            "initial_step": self.initial_step,
            "rate": self.rate,
            "difference": self.difference,
            "num_samples": self.num_samples,
        }


def centred(
    values: tf.Tensor,  # [B, N, K]
) -> tf.Tensor:
    """Without the mean over the categories of each variable."""
    return values - tf.reduce_mean(values, axis=-1, keepdims=True)
