"""The Gumbel-softmax (Concrete) relaxation."""

import keras
import tensorflow as tf

from tf_direct_opt import schedules
from tf_direct_opt.checks import check_count
from tf_direct_opt.estimators.base import Estimator
from tf_direct_opt.metrics import Means
from tf_direct_opt.perturbation import sample_gumbel


@keras.saving.register_keras_serializable("tf_direct_opt")
class GumbelSoftmax(Estimator):
    """f(z) at the relaxed code z = softmax((h + gamma) / temperature), differentiated through.

    The decoder sees points inside the simplex in training and corners afterwards. Bias: O(tau)
    towards the logits, and the decoder is trained on codes that it never meets again. Variance:
    O(1 / tau), divided by S. Decoder evaluations: S an example, with gradient.

    Args:
        temperature: number or schedule, positive.
        num_samples: S, draws that are averaged.
        seed: integer seed of the noise; None draws one.

    Raises:
        ValueError: arguments out of range; losses without a derivative, integers or NumPy.
        ValueError, tf.errors.InvalidArgumentError: as `Estimator`; a schedule out of range.

    Reports:
        `temperature`.

    References:
        Jang, Gu, Poole, "Categorical Reparameterization with Gumbel-Softmax", ICLR 2017,
        arXiv:1611.01144. Maddison, Mnih, Teh, "The Concrete Distribution", ICLR 2017.
    """

    differentiates_loss = True

    def __init__(self, temperature=1.0, num_samples=1, seed=None, **kwargs):
        super().__init__(seed=seed, **kwargs)
        self.temperature = schedules.get(temperature, "temperature")
        self.num_samples = check_count(num_samples, "num_samples", 1)
        self.report = Means(["temperature"])

    def estimate(self, posterior, loss_fn, step):
        logits = posterior.logits
        temperature = schedules.value(self.temperature, step)
        batch, event = tf.shape(logits)[0], logits.shape[1:]
        self.report.update_state({"temperature": temperature}, batch)
        noise = sample_gumbel([batch, self.num_samples, *event], self.seeds.next())
        logits = tf.cast(logits, tf.float32)[:, tf.newaxis]
        return tf.reduce_mean(loss_fn(self.codes(logits, noise, temperature)), axis=1)

    def codes(
        self,
        logits: tf.Tensor,  # [B, 1, N, K]
        noise: tf.Tensor,  # [B, S, N, K]
        temperature: tf.Tensor,  # []
    ) -> tf.Tensor:
        """What the decoder meets, [B, S, N, K], differentiable towards the logits."""
        return tf.nn.softmax((logits + noise) / temperature)

    def get_config(self):
        return {
            **super().get_config(),
            "temperature": schedules.serialize(self.temperature),
            "num_samples": self.num_samples,
        }
