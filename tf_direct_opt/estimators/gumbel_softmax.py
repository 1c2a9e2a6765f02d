"""The Gumbel-softmax (Concrete) relaxation."""

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tf_direct_opt import schedules
from tf_direct_opt.estimators.base import Estimator
from tf_direct_opt.metrics import Means


@keras.saving.register_keras_serializable("tf_direct_opt")
class GumbelSoftmax(Estimator):
    """f(z) at the relaxed code z = softmax((h + gamma) / temperature), differentiated through.

    The decoder sees points inside the simplex in training and corners afterwards. Bias: O(tau)
    towards the logits, and the decoder is trained on codes that it never meets again. Variance:
    O(1 / tau). Decoder evaluations: one an example, with gradient.

    Args:
        temperature: number or schedule, positive.
        seed: integer seed of the noise; None draws one.

    Reports:
        `temperature`.

    References:
        Jang, Gu, Poole, "Categorical Reparameterization with Gumbel-Softmax", ICLR 2017.
        Maddison, Mnih, Teh, "The Concrete Distribution", ICLR 2017.
    """

    def __init__(self, temperature=1.0, seed=None, **kwargs):
        super().__init__(seed=seed, **kwargs)
        self.temperature = schedules.get(temperature, "temperature")
        self.report = Means(["temperature"])

    def estimate(self, logits, loss_fn, step):
        return loss_fn(self.relaxed_code(logits, step)[:, tf.newaxis])[:, 0]

    def relaxed_code(
        self,
        logits: tf.Tensor,  # [B, N, K]
        step: tf.Tensor,  # []
    ) -> tf.Tensor:
        """A reparameterised draw from the relaxed distribution: [B, N, K], float32."""
        temperature = schedules.value(self.temperature, step)
        self.report.update_state({"temperature": temperature}, tf.shape(logits)[0])
        relaxed = tfp.distributions.RelaxedOneHotCategorical(
            temperature, logits=tf.cast(logits, tf.float32)
        )
        return relaxed.sample(seed=tf.cast(self.seeds.next(), tf.int32))

    def get_config(self):
        return {**super().get_config(), "temperature": schedules.serialize(self.temperature)}
