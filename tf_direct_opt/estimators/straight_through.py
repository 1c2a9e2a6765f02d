"""Straight-through estimators: an exact draw forward, a softmax backward."""

import keras
import tensorflow as tf

from tf_direct_opt.estimators.gumbel_softmax import GumbelSoftmax
from tf_direct_opt.perturbation import perturbed_argmax
from tf_direct_opt.solvers import Categorical

RELAXED = ("scores", "logits")


class StraightThroughBase(GumbelSoftmax):
    """f(z*) at exact draws z* = argmax(h + gamma); backward as if each had been `surrogate`.

    The decoder meets discrete codes only, and its own gradient at z* is all that is known of f: it
    has to be differentiable towards the code, and is never evaluated anywhere else.

    Raises:
        ValueError, tf.errors.InvalidArgumentError: as `GumbelSoftmax`.
    """

    def codes(self, logits, noise, temperature):
        _, code = perturbed_argmax(logits, noise, Categorical())
        relaxed = self.surrogate(logits, noise, code, temperature)
        # In this order the code stays exact: the bracket is 0.
        return code + (relaxed - tf.stop_gradient(relaxed))

    def surrogate(
        self,
        logits: tf.Tensor,  # [B, 1, N, K]
        noise: tf.Tensor,  # [B, S, N, K]
        code: tf.Tensor,  # [B, S, N, K]
        temperature: tf.Tensor,  # []
    ) -> tf.Tensor:
        """A function of the logits, [B, S, N, K], of which only the derivative counts."""
        raise NotImplementedError


@keras.saving.register_keras_serializable("tf_direct_opt")
class StraightThrough(StraightThroughBase):
    """f(z*) at the exact sample, with the gradient of a softmax.

    Forward z* = argmax(h + gamma), backward as if it had been softmax((h + gamma) / temperature),
    straight-through Gumbel-softmax, or softmax(h / temperature), straight-through as such. Bias: f
    is linearised at z*, which no temperature mends. Variance: O(1 / tau) of the former, less of the
    latter, divided by S. Decoder evaluations: S an example, with gradient.

    Args:
        temperature: number or schedule, positive.
        relaxed: what the softmax is of, "scores" (h + gamma) or "logits" (h).
        num_samples: S, draws that are averaged.
        seed: integer seed of the noise; None draws one.

    Raises:
        ValueError: another `relaxed`.
        ValueError, tf.errors.InvalidArgumentError: as `GumbelSoftmax`.

    Reports:
        `temperature`.

    References:
        Jang, Gu, Poole, ICLR 2017, arXiv:1611.01144, section 2.2. Bengio, Leonard, Courville,
        "Estimating or Propagating Gradients Through Stochastic Neurons", arXiv:1308.3432.
    """

    def __init__(self, temperature=1.0, relaxed="scores", num_samples=1, seed=None, **kwargs):
        super().__init__(temperature, num_samples, seed, **kwargs)
        if relaxed not in RELAXED:
            raise ValueError(f"Expected `relaxed` in {RELAXED}; received {relaxed!r}.")
        self.relaxed = relaxed

    def surrogate(self, logits, noise, code, temperature):
        scores = logits + noise if self.relaxed == "scores" else logits
        return tf.nn.softmax(scores / temperature)

    def get_config(self):
        return {**super().get_config(), "relaxed": self.relaxed}
