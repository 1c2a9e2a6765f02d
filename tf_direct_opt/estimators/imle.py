"""Implicit maximum likelihood estimation (I-MLE)."""

import keras
import tensorflow as tf

from tf_direct_opt.checks import check_count
from tf_direct_opt.estimators.direct import Direct
from tf_direct_opt.loss_fn import Checked, WithInference
from tf_direct_opt.posteriors import Categorical
from tf_direct_opt.types import LossFn


@keras.saving.register_keras_serializable("tf_direct_opt")
class IMLE(Direct):
    """(z* - argmax{h + gamma - lambda grad f(z*)}) / lambda: perturb-and-MAP.

    The direct estimator with the loss linearised at z*; `epsilon` is I-MLE's lambda. Bias: that of
    direct, and that of the linearisation, which remains as epsilon -> 0. Variance: O(1 / epsilon),
    divided by S. Decoder evaluations: S an example and as many backward passes more.

    Args:
        epsilon: number or schedule, in 1/nats; by default 0.1.
        difference: "toward_better", "away_from_worse" or "central".
        table: "linearised"; another one makes it `direct`.
        num_samples: S, draws that are averaged.
        seed: integer seed of the noise; None draws one.

    Raises:
        ValueError: `num_samples` out of range.
        ValueError, tf.errors.InvalidArgumentError: as `Direct`.

    Reports:
        `epsilon` and `flip_rate`, the share of draws with z*(eps) != z*.

    References:
        Niepert, Minervini, Franceschi, "Implicit MLE: Backpropagating Through Discrete Exponential
        Family Distributions", NeurIPS 2021, arXiv:2106.01798.
    """

    def __init__(
        self,
        epsilon=None,
        difference="toward_better",
        table="linearised",
        num_samples=1,
        seed=None,
        **kwargs,
    ):
        super().__init__(epsilon, difference, table, seed, **kwargs)
        self.num_samples = check_count(num_samples, "num_samples", 1)

    def estimate(self, posterior, loss_fn, step):
        count = self.num_samples
        if count == 1:
            return super().estimate(posterior, loss_fn, step)
        # Each draw as an example of its own: examples have noise and tables of their own.
        several = Categorical(tf.repeat(posterior.logits, count, axis=0))
        losses = super().estimate(several, repeated(loss_fn, count), step)
        return tf.reduce_mean(tf.reshape(losses, [-1, count]), axis=1)

    def get_config(self):
        return {**super().get_config(), "num_samples": self.num_samples}


def repeated(loss_fn: Checked, count: int) -> LossFn:
    """`loss_fn` for a batch in which each example stands `count` times, one after the other."""
    if loss_fn.inference is loss_fn:
        return _repeated(loss_fn, count)
    return WithInference(_repeated(loss_fn, count), _repeated(loss_fn.inference, count))


def _repeated(loss_fn, count):

    def of_repeats(codes):  # [1 or B * count, M, N, K] -> [B * count, M]
        shared, candidates, *event = codes.shape
        if shared == 1:
            return tf.repeat(loss_fn(codes), count, axis=0)
        losses = loss_fn(tf.reshape(codes, [-1, count * candidates, *event]))
        return tf.reshape(losses, [-1, candidates])

    return of_repeats
