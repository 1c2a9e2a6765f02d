"""RELAX, for binary variables."""

import keras

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

    References:
        Grathwohl, Choi, Wu, Roeder, Duvenaud, "Backpropagation through the Void: Optimizing
        control variates for black-box gradient estimation", ICLR 2018.
    """

    def __init__(self, initial_temperature=0.5, hidden_units=200, seed=None, **kwargs):
        super().__init__(initial_temperature, seed, **kwargs)
        if not isinstance(hidden_units, int) or hidden_units < 1:
            raise ValueError(
                f"Expected `hidden_units` to be an integer of at least 1; received "
                f"{hidden_units!r}."
            )
        self.hidden_units = hidden_units

    def build(self, logits_shape):
        super().build(logits_shape)
        self.network = keras.Sequential(
            [
                keras.layers.Dense(self.hidden_units, activation="relu"),
                keras.layers.Dense(1, kernel_initializer="zeros"),
            ]
        )
        self.network.build((None, logits_shape[1] if len(logits_shape) == 3 else 1))

    def control(self, z, loss_fn):
        return super().control(z, loss_fn) + self.network(z)[:, 0]

    def get_config(self):
        return {**super().get_config(), "hidden_units": self.hidden_units}
