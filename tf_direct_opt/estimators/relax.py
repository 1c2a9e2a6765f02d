"""RELAX, for binary variables."""

import keras
import tensorflow as tf

from tf_direct_opt.checks import check_count
from tf_direct_opt.estimators.rebar import REBAR


@keras.saving.register_keras_serializable("tf_direct_opt")
class RELAX(REBAR):
    """REBAR with a learned control: c(z) = scale f(sigmoid(z / temperature)) + r(z). K = 2 only.

    r is a network of one hidden layer, zero at the start, which descends the second moment of the
    gradient together with scale and temperature. Bias: none. Decoder evaluations: two an example,
    one with gradient towards the decoder.

    Args:
        initial_temperature: first temperature of the control, positive.
        hidden_units: width of the hidden layer of r.
        seed: integer seed of the noise; None draws one.

    Raises:
        ValueError: arguments out of range; logits of another number of categories than 2; a
            `loss_fn` that is not differentiable towards the codes.
        ValueError, tf.errors.InvalidArgumentError: as `Estimator`.

    References:
        Grathwohl, Choi, Wu, Roeder, Duvenaud, "Backpropagation through the Void: Optimizing
        control variates for black-box gradient estimation", ICLR 2018.
    """

    def __init__(self, initial_temperature=0.5, hidden_units=200, seed=None, **kwargs):
        super().__init__(initial_temperature, seed, **kwargs)
        self.hidden_units = check_count(hidden_units, "hidden_units", 1)

    def build(self, logits_shape):
        super().build(logits_shape)
        inputs, hidden = logits_shape[1] if len(logits_shape) == 3 else 1, self.hidden_units
        self.kernel = self.add_float32_weight("kernel", "glorot_uniform", (inputs, hidden))
        self.bias = self.add_float32_weight("bias", "zeros", (hidden,))
        self.output_kernel = self.add_float32_weight("output_kernel", "zeros", (hidden, 1))
        self.output_bias = self.add_float32_weight("output_bias", "zeros")

    def control(self, z, loss_fn):
        hidden = tf.nn.relu(z @ self.kernel.value + self.bias.value)
        network = (hidden @ self.output_kernel.value)[:, 0] + self.output_bias.value
        return super().control(z, loss_fn) + network

    def get_config(self):
        return {**super().get_config(), "hidden_units": self.hidden_units}
