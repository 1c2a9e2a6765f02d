"""What the VAEs share whatever their latents: networks, pixels, one step, its reports."""

import math

import keras
import tensorflow as tf

from tf_direct_opt import losses, schedules
from tf_direct_opt.estimators.direct import WARMUP_STEPS
from tf_direct_opt.metrics import CodePerplexity, Means
from tf_direct_opt.posteriors import Family
from tf_direct_opt.solvers.base import check_count

# Evaluation draws the same noise every time, so that two epochs, or two models, are compared
# under common random numbers and nothing that is evaluated disturbs the noise of training.
EVALUATION_SEED = (2019, 1806)


class Autoencoder(keras.Model):
    """An encoder to the parameters of a posterior, and a decoder to Bernoulli pixels.

    A subclass sets `estimator` and gives `call`, `compute_loss` and `pictures`; the two networks,
    steps and reports are here.

    Args:
        posterior: the family whose parameters the encoder gives.
        decoder_size: inputs of the decoder for one example.
        trained: names of what `fit` reports beside the loss.
        evaluated: names of what `evaluate` reports beside the loss.
        kl_weight: beta, number or schedule of the optimizer's iterations; None: 0 for 5000 steps,
            then 1.
        hidden_units: width of the hidden layer of the default encoder and decoder.
        encoder: Keras model, images [B, *image] -> the parameters of the posterior, in any shape.
        decoder: Keras model, [B, decoder_size] -> pixel logits [B, *image] or [B, P].
        num_eval_samples: draws for what `evaluate` estimates.
    """

    def __init__(
        self,
        posterior: Family,
        decoder_size: int,
        trained,
        evaluated,
        kl_weight=None,
        hidden_units=300,
        encoder=None,
        decoder=None,
        num_eval_samples=100,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if kl_weight is None:
            kl_weight = schedules.two_phase(0.0, 1.0, WARMUP_STEPS)
        self.posterior = posterior
        self.num_variables = posterior.num_variables
        self.num_categories = posterior.num_categories
        self.decoder_size = decoder_size
        self.kl_weight = schedules.get(kl_weight, "kl_weight", allow_zero=True)
        self.hidden_units = check_count(hidden_units, "hidden_units", 1)
        self.encoder = encoder
        self.decoder = decoder
        self.num_eval_samples = check_count(num_eval_samples, "num_eval_samples", 1)
        self.training_report = Means(trained)
        self.evaluation_report = Means(evaluated)
        self.code_perplexity = CodePerplexity(self.num_variables, self.num_categories)

    def build(self, input_shape):
        self.image_shape = tuple(input_shape[1:])
        if not self.image_shape or None in self.image_shape:
            raise ValueError(
                "Expected images [B, *image] of a known size; received the input shape "
                f"{tuple(input_shape)}."
            )
        self.num_pixels = math.prod(self.image_shape)
        parameter_shape = self.posterior.parameter_shape
        num_parameters = math.prod(parameter_shape)
        if self.encoder is None:
            self.encoder = keras.Sequential(
                [
                    keras.layers.Flatten(),
                    keras.layers.Dense(self.hidden_units, activation="relu"),
                    keras.layers.Dense(num_parameters),
                ],
                name="encoder",
            )
        if self.decoder is None:
            self.decoder = keras.Sequential(
                [
                    keras.layers.Dense(self.hidden_units, activation="relu"),
                    keras.layers.Dense(self.num_pixels),
                ],
                name="decoder",
            )
        for network, shape, size in (
            (self.encoder, (None, *self.image_shape), num_parameters),
            (self.decoder, (None, self.decoder_size), self.num_pixels),
        ):
            if not network.built:
                network.build(shape)
            output_shape = network.compute_output_shape(shape)
            if math.prod(output_shape[1:]) != size:
                raise ValueError(
                    f"Expected {size} outputs an example from `{network.name}`; received the "
                    f"output shape {tuple(output_shape)}. Please match "
                    f"{self.posterior.kind.parameter_name} {parameter_shape}, {self.decoder_size} "
                    f"inputs of the decoder and num_pixels = {self.num_pixels}."
                )
        self.estimator.build(self.estimator_shape)
        self.built = True

    @property
    def estimator_shape(self) -> tuple[int | None, ...]:
        """Shape of what the estimator gives a gradient to."""
        return (None, *self.posterior.parameter_shape)

    def encode(
        self,
        images: tf.Tensor,  # [B, *image]
        training: bool = False,
    ) -> tf.Tensor:
        """The parameters of the posterior: [B, *parameter_shape]."""
        outputs = self.encoder(images, training=training)
        return tf.reshape(outputs, [-1, *self.posterior.parameter_shape])

    def pixel_logits(
        self,
        codes: tf.Tensor,  # [S, M, *], decoder_size numbers each
        training: bool,
    ) -> tf.Tensor:
        """What the decoder makes of each: [S, M, P]."""
        static, dynamic = codes.shape, tf.shape(codes)
        outer = [dynamic[i] if static[i] is None else static[i] for i in (0, 1)]
        flat = tf.reshape(codes, [-1, self.decoder_size])
        return tf.reshape(self.decoder(flat, training=training), [*outer, self.num_pixels])

    def pixel_means(
        self,
        codes: tf.Tensor,  # [B, *], decoder_size numbers each
    ) -> tf.Tensor:
        """Bernoulli means: float32 [B, *image]."""
        pixel_logits = self.pixel_logits(codes[tf.newaxis], training=False)
        means = tf.sigmoid(tf.cast(pixel_logits, tf.float32))
        return tf.reshape(means, [-1, *self.image_shape])

    def reconstruction_loss(
        self,
        images: tf.Tensor,  # [B, *image]
        codes: tf.Tensor,  # [S, M, *], S = 1 or B
        training: bool,
    ) -> tf.Tensor:
        """-log p(x | z) of every code, nats, summed over pixels: [B, M]."""
        flat = tf.reshape(images, [-1, self.num_pixels])
        return losses.bernoulli_nll(flat, self.pixel_logits(codes, training))

    def reduced(
        self,
        loss: tf.Tensor,  # [B]
        values: dict[str, tf.Tensor],  # name -> [] or [B]
        sample_weight: tf.Tensor | None,  # [B]
        training: bool,
    ) -> tf.Tensor:
        """Reports the values; the scalar that is differentiated: mean over the batch, penalties."""
        report = self.training_report if training else self.evaluation_report
        report.update_state(values, tf.shape(loss)[0])
        if sample_weight is not None:
            loss *= tf.cast(sample_weight, loss.dtype)
        loss = tf.reduce_mean(loss)
        if training and self.losses:
            loss += tf.add_n([tf.cast(penalty, loss.dtype) for penalty in self.losses])
        # Gradients are summed over replicas, so each replica contributes its share of the mean.
        return loss / self.distribute_strategy.num_replicas_in_sync

    def details(self) -> dict:
        """More than numbers about the last evaluation, for JSON."""
        return {}

    @property
    def training_metrics(self) -> list:
        """What `fit` reports beside the loss."""
        return [self.training_report, self.code_perplexity, *self.estimator.metrics]

    @property
    def evaluation_metrics(self) -> list:
        """What `evaluate` reports beside the loss."""
        return [self.evaluation_report, self.code_perplexity]

    def make_train_function(self, force=False):
        # Without variables of its optimizer Keras traces the first step twice.
        if self.built and not self.optimizer.built:
            with self.distribute_strategy.scope():
                self.optimizer.build(self.trainable_variables)
        return super().make_train_function(force)

    def train_step(self, data):
        super().train_step(data)
        return self._results(self.training_metrics)

    def test_step(self, data):
        super().test_step(data)
        return self._results(self.evaluation_metrics)

    def _results(self, metrics):
        """The metrics of one phase alone: a training metric would read 0 in an evaluation."""
        results = {"loss": self._loss_tracker.result()}
        for metric in metrics:
            result = metric.result()
            results |= result if isinstance(result, dict) else {metric.name: result}
        return results

    def get_config(self):
        def network(given):
            return None if given is None else keras.saving.serialize_keras_object(given)

        return {
            **super().get_config(),
            "kl_weight": schedules.serialize(self.kl_weight),
            "hidden_units": self.hidden_units,
            "encoder": network(self.encoder),
            "decoder": network(self.decoder),
            "num_eval_samples": self.num_eval_samples,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        networks = {
            name: keras.saving.deserialize_keras_object(config[name], custom_objects=custom_objects)
            for name in ("encoder", "decoder")
            if isinstance(config.get(name), dict)
        }
        return cls(**{**config, **networks})
