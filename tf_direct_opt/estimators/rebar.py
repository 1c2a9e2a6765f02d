"""REBAR, for binary variables."""

import math

import keras
import tensorflow as tf

from tf_direct_opt import schedules
from tf_direct_opt.estimators.base import Estimator, batch_mean, check_binary
from tf_direct_opt.loss_fn import differentiated
from tf_direct_opt.perturbation import sample_uniform
from tf_direct_opt.slopes import attach_slope


@keras.saving.register_keras_serializable("tf_direct_opt")
class REBAR(Estimator):
    """Score function with the relaxed loss as a control variate, tuned while training. K = 2 only.

    With phi = h_1 - h_0, z = phi + logistic noise, b = [z > 0] and a control c(z) near f(b),

        d/dphi = (f(b) - c(z~)) (b - sigmoid(phi)) + dc(z)/dphi - dc(z~)/dphi,

    z~ a draw from p(z | b). Its noise is tied to that of z such that z~ = z; only the derivatives
    differ, dz/dphi = 1 and dz~/dphi = (1 - exp(-|z|)) q(b), so that c is evaluated once. Here
    c(z) = scale f(sigmoid(z / temperature)). Scale and temperature are weights, which descend the
    second moment of the gradient: the loss carries that slope, beside the value of f(b) alone.
    Bias: none. Decoder evaluations: two an example, one with gradient towards the decoder.

    Args:
        initial_temperature: first temperature of the control, positive.
        seed: integer seed of the noise; None draws one.

    Raises:
        ValueError: `initial_temperature` out of range; logits of another number of categories than
            2; a `loss_fn` that is not differentiable towards the codes.
        ValueError, tf.errors.InvalidArgumentError: as `Estimator`.

    References:
        Tucker, Mnih, Maddison, Lawson, Sohl-Dickstein, "REBAR: Low-variance, unbiased gradient
        estimates for discrete latent variable models", NeurIPS 2017; its appendix ties the noise.
    """

    differentiates_loss = True

    def __init__(self, initial_temperature=0.5, seed=None, **kwargs):
        super().__init__(seed=seed, **kwargs)
        self.initial_temperature = schedules.check_positive(
            initial_temperature, "initial_temperature"
        )

    def build(self, logits_shape):
        super().build(logits_shape)
        check_binary(logits_shape)
        temperature = keras.initializers.Constant(math.log(self.initial_temperature))
        self.log_temperature = self.add_float32_weight("log_temperature", temperature)
        self.scale = self.add_float32_weight("scale", "ones")

    def control(
        self,
        z: tf.Tensor,  # [B, N]
        loss_fn,
    ) -> tf.Tensor:
        """c(z), nats: [B]."""
        relaxed = tf.sigmoid(z * tf.exp(-self.log_temperature.value))
        codes = tf.stack([1.0 - relaxed, relaxed], axis=-1)[:, tf.newaxis]
        return self.scale.value * loss_fn.inference(codes)[:, 0]

    def estimate(self, posterior, loss_fn, step):
        del step
        logits = posterior.logits
        wide = tf.stop_gradient(tf.cast(logits, tf.float32))
        phi = wide[..., 1] - wide[..., 0]  # [B, N]
        uniform = sample_uniform(tf.shape(phi), self.seeds.next(), 1e-7)
        z = phi + tf.math.log(uniform) - tf.math.log1p(-uniform)
        one = z > 0.0
        bit = tf.cast(one, tf.float32)
        codes = tf.stack([1.0 - bit, bit], axis=-1)[:, tf.newaxis]
        losses = loss_fn(codes)
        loss, compared = losses[:, 0], loss_fn.compared(codes, losses)
        probability = tf.sigmoid(tf.where(one, phi, -phi))  # q(b)
        weights = [weight.value for weight in self.trainable_variables]
        with tf.GradientTape(watch_accessed_variables=False) as tuning_tape:
            tuning_tape.watch(weights)
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(z)
                control = self.control(z, loss_fn)
            slope = differentiated(tape.gradient(control, z))
            through = (1.0 + tf.math.expm1(-tf.abs(z)) * probability) * slope
            score = bit - tf.sigmoid(phi)
            towards_one = (compared - control[:, tf.newaxis]) * score + through
            second_moment = batch_mean(tf.reduce_sum(tf.square(towards_one), axis=1))
        # Zero, with the slope of the second moment towards the weights of the control alone: what
        # the control does to the decoder is no business of the decoder's.
        slopes = tuning_tape.gradient(second_moment, weights)
        tuning = tf.constant(0.0)
        for weight, slope in zip(weights, slopes, strict=True):
            slope = tf.stop_gradient(differentiated(slope))
            tuning += tf.reduce_sum((weight - tf.stop_gradient(weight)) * slope)
        towards_one = tf.stop_gradient(towards_one)
        return attach_slope(loss + tuning, logits, tf.stack([-towards_one, towards_one], axis=-1))

    def get_config(self):
        return {**super().get_config(), "initial_temperature": self.initial_temperature}
