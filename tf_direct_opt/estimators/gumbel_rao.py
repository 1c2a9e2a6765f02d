"""Gumbel-Rao: straight-through with its noise averaged given the draw."""

import keras
import tensorflow as tf

from tf_direct_opt.checks import check_count
from tf_direct_opt.estimators.straight_through import StraightThroughBase
from tf_direct_opt.perturbation import sample_gumbel


@keras.saving.register_keras_serializable("tf_direct_opt")
class GumbelRao(StraightThroughBase):
    """Straight-through Gumbel-softmax, averaged over R noises that all give the draw z*.

    Backward as if z* had been the mean over r of softmax((h + gamma_r) / temperature), gamma_r
    drawn from p(gamma | z*). The mean is that of straight-through Gumbel-softmax, hence its bias;
    never more variance, whatever R. Decoder evaluations: S an example, with gradient, for any R.
    As the temperature goes to 0 and R to infinity it becomes `reinmax` at temperature 1.

    Args:
        temperature: number or schedule, positive.
        num_redraws: R.
        num_samples: S, draws of z* that are averaged.
        seed: integer seed of the noise; None draws one.

    Raises:
        ValueError: `num_redraws` out of range.
        ValueError, tf.errors.InvalidArgumentError: as `GumbelSoftmax`.

    Reports:
        `temperature`.

    References:
        Paulus, Maddison, Krause, "Rao-Blackwellizing the Straight-Through Gumbel-Softmax Gradient
        Estimator", ICLR 2021, arXiv:2010.04838.
    """

    def __init__(self, temperature=1.0, num_redraws=100, num_samples=1, seed=None, **kwargs):
        super().__init__(temperature, num_samples, seed, **kwargs)
        self.num_redraws = check_count(num_redraws, "num_redraws", 1)

    def draws_a_call(self, posterior):
        return 2

    def surrogate(self, logits, noise, code, temperature):
        shape = tf.concat([tf.shape(code)[:2], [self.num_redraws], code.shape[2:]], axis=0)
        fresh = sample_gumbel(shape, self.seeds.next())
        logits, code = logits[:, :, tf.newaxis], code[:, :, tf.newaxis]
        scores = scores_given_argmax(tf.stop_gradient(logits), code, fresh)
        relaxed = tf.nn.softmax((logits + (scores - tf.stop_gradient(logits))) / temperature)
        return tf.reduce_mean(relaxed, axis=2)

    def get_config(self):
        return {**super().get_config(), "num_redraws": self.num_redraws}


def scores_given_argmax(
    logits: tf.Tensor,  # [..., K]
    code: tf.Tensor,  # [..., K]
    noise: tf.Tensor,  # [..., K]
) -> tf.Tensor:
    """Draws logits + Gumbel noise of which `code` is the argmax, from unconditional noise.

    The maximum is logsumexp(h) + gamma, whichever category has it; the others are independent
    and stay below it: -log(exp(-h_j - gamma_j) + exp(-maximum)).
    """
    own = tf.reduce_sum(code * noise, axis=-1, keepdims=True)
    maximum = tf.reduce_logsumexp(logits, axis=-1, keepdims=True) + own
    scores = logits + noise
    return tf.where(code > 0.0, maximum, scores - tf.nn.softplus(scores - maximum))
