"""The score-function estimator (REINFORCE) with a leave-one-out baseline."""

import keras
import tensorflow as tf

from tf_direct_opt.checks import check_count
from tf_direct_opt.estimators.base import Estimator
from tf_direct_opt.perturbation import perturbed_argmax, sample_gumbel
from tf_direct_opt.slopes import attach_slope
from tf_direct_opt.solvers import Categorical


@keras.saving.register_keras_serializable("tf_direct_opt")
class ScoreFunction(Estimator):
    """sum_s (f(z_s) - mean of the other f) grad log q(z_s) / S from S draws of the posterior.

    Bias: none. Variance: that of f, whatever the number of categories, divided by S. Decoder
    evaluations: S an example, with gradient: the decoder's loss is the mean over the draws.

    Args:
        num_samples: S, at least 2.
        seed: integer seed of the noise; None draws one.

    Raises:
        ValueError: `num_samples` out of range.
        ValueError, tf.errors.InvalidArgumentError: as `Estimator`.

    References:
        Williams, "Simple statistical gradient-following algorithms", 1992.
        Kool, van Hoof, Welling, "Buy 4 REINFORCE samples, get a baseline for free!", 2019.
    """

    def __init__(self, num_samples=4, seed=None, **kwargs):
        super().__init__(seed=seed, **kwargs)
        # Two or more: the baseline of one is made of the others.
        self.num_samples = check_count(num_samples, "num_samples", 2)

    def estimate(self, posterior, loss_fn, step):
        del step
        logits = posterior.logits
        batch, event = tf.shape(logits)[0], logits.shape[1:]
        noise = sample_gumbel([batch, self.num_samples, *event], self.seeds.next())
        _, codes = perturbed_argmax(logits[:, tf.newaxis], noise, Categorical())
        losses = loss_fn(codes)  # [B, S]
        # grad log q(z) = z - softmax(h); with the mean of all S in place of the mean of the
        # others the factor S / (S - 1) comes out, and softmax(h) cancels.
        compared = loss_fn.compared(codes, losses)
        gaps = compared - compared[:, :1]  # The mean of large losses would be rounded.
        advantage = gaps - tf.reduce_mean(gaps, axis=1, keepdims=True)
        slope = tf.einsum("bs,bsnk->bnk", advantage, codes) / (self.num_samples - 1)
        return attach_slope(tf.reduce_mean(losses, axis=1), logits, slope)

    def get_config(self):
        return {**super().get_config(), "num_samples": self.num_samples}
