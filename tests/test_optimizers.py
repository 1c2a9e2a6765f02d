import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_direct_opt import optimizers


def test_steps_are_those_of_the_paper():
    # Algorithm 2 in float64. With beta_2 = 0.999 the sixth step is the first that is rectified.
    gradients = np.random.default_rng(0).normal(size=[12, 5]) * [1e-3, 0.1, 1.0, 10.0, 1e3]
    variable = keras.Variable(np.zeros(5))
    optimizer = optimizers.RAdam(0.1, epsilon=1e-8)
    position, momentum, velocity = np.zeros(5), np.zeros(5), np.zeros(5)
    limit = 2 / 0.001 - 1
    rectified = []
    for step, gradient in enumerate(gradients, 1):
        momentum = 0.9 * momentum + 0.1 * gradient
        velocity = 0.999 * velocity + 0.001 * gradient**2
        rho = limit - 2 * step * 0.999**step / (1 - 0.999**step)
        move = 0.1 * momentum / (1 - 0.9**step)
        if rho > 5:
            share = (rho - 4) * (rho - 2) * limit / ((limit - 4) * (limit - 2) * rho)
            move *= np.sqrt(share * (1 - 0.999**step)) / (np.sqrt(velocity) + 1e-8)
        rectified.append(rho > 5)
        position = position - move
        optimizer.apply([tf.constant(gradient, tf.float32)], [variable])
        np.testing.assert_allclose(variable, position, rtol=2e-4, atol=1e-7)
    assert rectified == [False] * 5 + [True] * 7


def test_without_momentum_the_step_is_the_gradient():
    # The first five steps are not rectified.
    variable = keras.Variable(np.zeros(2))
    optimizer = optimizers.RAdam(0.1, beta_1=0.0)
    for gradient in ([1.0, -2.0], [3.0, 4.0]):
        optimizer.apply([tf.constant(gradient)], [variable])
    np.testing.assert_allclose(variable, [-0.4, -0.2], rtol=1e-6)


def test_amsgrad_is_refused():
    with pytest.raises(ValueError, match=r"`amsgrad` to be False for RAdam; received True. Please"):
        optimizers.RAdam(amsgrad=True)


def test_config_round_trip():
    optimizer = optimizers.RAdam(0.1, beta_2=0.99)
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert again.get_config() == optimizer.get_config()
