"""Rectified Adam."""

import math

import keras
from keras import ops


@keras.saving.register_keras_serializable("tf_direct_opt")
class RAdam(keras.optimizers.Adam):
    """Adam whose steps are as large as the variance of their scale allows.

    With rho_inf = 2 / (1 - beta_2) - 1 and rho = rho_inf - 2 t beta_2^t / (1 - beta_2^t), Adam's
    step is multiplied by

        sqrt((rho - 4) (rho - 2) rho_inf / ((rho_inf - 4) (rho_inf - 2) rho))

    where rho > 5, and is that of the momentum alone before, in the first steps. The arguments are
    those of `keras.optimizers.Adam`, without `amsgrad`.

    Raises:
        ValueError: amsgrad=True.

    References:
        Liu, Jiang, He, Chen, Liu, Gao, Han, "On the Variance of the Adaptive Learning Rate and
        Beyond", ICLR 2020, arXiv:1908.03265.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if self.amsgrad:
            raise ValueError(
                "Expected `amsgrad` to be False for RAdam; received True. Please leave it out, or "
                "use keras.optimizers.Adam."
            )

    def update_step(self, gradient, variable, learning_rate):
        dtype = variable.dtype
        rate, gradient = ops.cast(learning_rate, dtype), ops.cast(gradient, dtype)
        step = ops.cast(self.iterations + 1, dtype)
        index = self._get_variable_index(variable)
        momentum, velocity = self._momentums[index], self._velocities[index]
        self.assign_add(momentum, (gradient - momentum) * (1 - self.beta_1))
        self.assign_add(velocity, (ops.square(gradient) - velocity) * (1 - self.beta_2))

        # 1 - beta^t would have lost its digits in float32 where they decide whether rho > 5.
        debias_1, debias_2 = (
            -ops.expm1(step * math.log(beta)) if beta > 0 else ops.ones_like(step)
            for beta in (self.beta_1, self.beta_2)
        )
        limit = 2 / (1 - self.beta_2) - 1
        rho = limit - 2 * step * (1 - debias_2) / debias_2
        bounded = ops.maximum(rho, 5.0)
        rectified = (bounded - 4) * (bounded - 2) * limit / ((limit - 4) * (limit - 2) * bounded)
        scale = ops.sqrt(rectified * debias_2) / (ops.sqrt(velocity) + self.epsilon)
        scale = ops.where(rho > 5.0, scale, ops.ones_like(scale))
        self.assign_sub(variable, rate * momentum / debias_1 * scale)
