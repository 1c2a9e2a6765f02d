"""What the VAEs of discrete codes share: networks, decoding, losses, steps, reports."""

import math

import keras
import tensorflow as tf

from tf_direct_opt import losses, schedules
from tf_direct_opt.estimators.direct import WARMUP_STEPS
from tf_direct_opt.metrics import CodePerplexity, Means

# Evaluation draws the same noise every time, so that two epochs, or two models, are compared
# under common random numbers and nothing that is evaluated disturbs the noise of training.
EVALUATION_SEED = (2019, 1806)


class VAE(keras.Model):
    """A Bernoulli decoder of codes [B, N, K] under a uniform prior, and an encoder before it.

    Training minimises E_q f(x, z) + beta KL(q(z|x) || uniform), with f = -log p(x | z) in nats,
    summed over pixels, averaged over the batch. A subclass is its posterior. It sets `estimator`
    and gives

      * `posterior`, the name of what the encoder says of it, and `posterior_shape`, its shape;
      * `posterior_mode(parameters)`: what `predict` returns, `reconstruction` [B, *image] among it;
      * `kl_and_probabilities(parameters)`: the KL [B] of the training loss, and the marginals
        [B, N, K] that the code perplexity is computed from;
      * `evaluation(parameters, loss_fn)`: what `evaluate` reports beside the KL, name -> [B];
        `reconstruction` is the rest of the loss.

    One whose latent is more than a code, or that learns from labels, also overrides `terms`.

    Args:
        num_variables: N.
        num_categories: K.
        evaluated: names of what `evaluate` reports beside the loss.
        trained: names of what `fit` reports beside the loss, reconstruction, kl and kl_weight.
        kl_weight: beta, number or schedule of the optimizer's iterations; by default 0 for 5000
            steps, then 1.
        hidden_units: width of the hidden layer of the default encoder and decoder.
        encoder: Keras model, images [B, *image] -> the parameters of the posterior, in any shape.
        decoder: Keras model, codes [B, N * K] -> pixel logits [B, *image] or [B, P].
        num_eval_samples: draws for what `evaluate` estimates.
    """

    posterior = "logits"

    def __init__(
        self,
        num_variables,
        num_categories,
        evaluated,
        kl_weight=None,
        hidden_units=300,
        encoder=None,
        decoder=None,
        num_eval_samples=100,
        trained=(),
        **kwargs,
    ):
        super().__init__(**kwargs)
        for name, number, least in (
            ("num_variables", num_variables, 1),
            ("num_categories", num_categories, 2),
            ("hidden_units", hidden_units, 1),
            ("num_eval_samples", num_eval_samples, 1),
        ):
            if not isinstance(number, int) or number < least:
                raise ValueError(
                    f"Expected `{name}` to be an integer of at least {least}; received {number!r}."
                )
        if kl_weight is None:
            kl_weight = schedules.two_phase(0.0, 1.0, WARMUP_STEPS)
        self.num_variables = num_variables
        self.num_categories = num_categories
        self.kl_weight = schedules.get(kl_weight, "kl_weight", allow_zero=True)
        self.hidden_units = hidden_units
        self.encoder = encoder
        self.decoder = decoder
        self.num_eval_samples = num_eval_samples
        self.training_report = Means(["reconstruction", "kl", "kl_weight", *trained])
        self.evaluation_report = Means(evaluated)
        self.code_perplexity = CodePerplexity(num_variables, num_categories)

    @property
    def posterior_shape(self) -> tuple[int, ...]:
        """Shape of one example's parameters."""
        return (self.num_variables, self.num_categories)

    @property
    def decoder_size(self) -> int:
        """Inputs of the decoder for one example."""
        return self.num_variables * self.num_categories

    def build(self, input_shape):
        self.image_shape = tuple(input_shape[1:])
        if not self.image_shape or None in self.image_shape:
            raise ValueError(
                "Expected images [B, *image] of a known size; received the input shape "
                f"{tuple(input_shape)}."
            )
        self.num_pixels = math.prod(self.image_shape)
        posterior_size = math.prod(self.posterior_shape)
        if self.encoder is None:
            self.encoder = keras.Sequential(
                [
                    keras.layers.Flatten(),
                    keras.layers.Dense(self.hidden_units, activation="relu"),
                    keras.layers.Dense(posterior_size),
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
            (self.encoder, (None, *self.image_shape), posterior_size),
            (self.decoder, (None, self.decoder_size), self.num_pixels),
        ):
            if not network.built:
                network.build(shape)
            output_shape = network.compute_output_shape(shape)
            if math.prod(output_shape[1:]) != size:
                raise ValueError(
                    f"Expected {size} outputs an example from `{network.name}`; received the "
                    f"output shape {tuple(output_shape)}. Please match {self.posterior} "
                    f"{self.posterior_shape}, {self.decoder_size} inputs of the decoder and "
                    f"num_pixels = {self.num_pixels}."
                )
        self.build_estimator()
        self.built = True

    def build_estimator(self):
        """Builds the estimator for what `terms` gives it."""
        self.estimator.build((None, *self.posterior_shape))

    def encode(
        self,
        images: tf.Tensor,  # [B, *image]
        training: bool = False,
    ) -> tf.Tensor:
        """The parameters of the posterior: [B, *posterior_shape]."""
        outputs = self.encoder(images, training=training)
        return tf.reshape(outputs, [-1, *self.posterior_shape])

    def call(self, images, training=False):
        parameters = self.encode(images, training)
        if training:
            # Which codes the decoder sees, and how often, is the estimator's business.
            return {self.posterior: parameters}
        return {self.posterior: parameters, **self.posterior_mode(parameters)}

    def decode(
        self,
        code: tf.Tensor,  # [B, N, K]
    ) -> tf.Tensor:
        """Bernoulli means of the images of B codes: float32 [B, *image]."""
        pixel_logits = self._pixel_logits(code[tf.newaxis], training=False)
        means = tf.sigmoid(tf.cast(pixel_logits, tf.float32))
        return tf.reshape(means, [-1, *self.image_shape])

    def sample(self, num_images: int, seed: int | None = None) -> tf.Tensor:
        """Decodes draws from the uniform prior: Bernoulli means [num_images, *image]."""
        if seed is None:
            seed = int(keras.random.randint([], 0, 2**31 - 1))
        category = tf.random.stateless_uniform(
            [num_images, self.num_variables], [seed, 0], 0, self.num_categories, tf.int32
        )
        return self.decode(tf.one_hot(category, self.num_categories))

    def decoded_codes(self) -> tf.Tensor:
        """What the codes look like: images [N * K, *image].

        N = 1: every code, decoded. N > 1: image i * K + k has variable i at category k and all
        others at category 0.
        """
        categories, variables = self.num_categories, self.num_variables
        index = tf.range(variables * categories)
        varied = tf.one_hot(index // categories, variables, dtype=tf.int32)  # [N * K, N]
        return self.decode(tf.one_hot(varied * (index % categories)[:, tf.newaxis], categories))

    def pictures(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """What is worth looking at while training, name -> images [n, *image].

        inputs, reconstructions: the images given and what `predict` makes of them; codes: see
        `decoded_codes`; prior_samples: decoded draws of the prior, the same ones each time.
        """
        return {
            "inputs": images,
            "reconstructions": self(images)["reconstruction"],
            "codes": self.decoded_codes(),
            "prior_samples": self.sample(len(images), seed=0),
        }

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        loss, values = self.terms(x, y, y_pred[self.posterior], training)
        report = self.training_report if training else self.evaluation_report
        report.update_state(values, tf.shape(loss)[0])
        if sample_weight is not None:
            loss *= tf.cast(sample_weight, loss.dtype)
        loss = tf.reduce_mean(loss)
        if training and self.losses:
            loss += tf.add_n([tf.cast(penalty, loss.dtype) for penalty in self.losses])
        # Gradients are summed over replicas, so each replica contributes its share of the mean.
        return loss / self.distribute_strategy.num_replicas_in_sync

    def terms(
        self,
        images: tf.Tensor,  # [B, *image]
        labels: tf.Tensor | None,  # [B]
        parameters: tf.Tensor,  # [B, *posterior_shape]
        training: bool,
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """The loss [B], and what is reported: name -> [] or [B]."""
        del labels
        loss_fn = self.make_loss_fn(images, training)
        if training:
            return self.training_terms(loss_fn, parameters, parameters)
        return self.with_kl(self.evaluation(parameters, loss_fn), parameters)

    def training_terms(
        self,
        loss_fn,
        logits: tf.Tensor,  # what the estimator gives a gradient to
        parameters,  # as `kl_and_probabilities` takes them
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """E_q f + beta KL of each example [B], and its parts."""
        step = self.optimizer.iterations
        kl_weight = schedules.value(self.kl_weight, step)
        reconstruction = self.estimator(logits, loss_fn=loss_fn, step=step, training=True)
        values = {"reconstruction": reconstruction, "kl_weight": kl_weight}
        return self.with_kl(values, parameters, kl_weight)

    def with_kl(self, values, parameters, kl_weight=1.0):
        """The reconstruction among `values` plus `kl_weight` times the KL, and both among them."""
        kl, probabilities = self.kl_and_probabilities(parameters)
        self.code_perplexity.update_state(probabilities)
        return values["reconstruction"] + kl_weight * kl, {**values, "kl": kl}

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

    def _pixel_logits(
        self,
        codes: tf.Tensor,  # [S, M, *]
        training: bool,
    ) -> tf.Tensor:  # [S, M, P]
        static, dynamic = codes.shape, tf.shape(codes)
        outer = [dynamic[i] if static[i] is None else static[i] for i in (0, 1)]
        flat = tf.reshape(codes, [-1, self.decoder_size])
        return tf.reshape(self.decoder(flat, training=training), [*outer, self.num_pixels])

    def make_loss_fn(self, images, training=False):
        """The loss of codes [S, M, N, K] for these images, as `types.LossFn`."""
        flat = tf.reshape(images, [-1, self.num_pixels])
        return lambda codes: losses.bernoulli_nll(flat, self._pixel_logits(codes, training))

    def get_config(self):
        def network(given):
            return None if given is None else keras.saving.serialize_keras_object(given)

        return {
            **super().get_config(),
            "num_variables": self.num_variables,
            "kl_weight": schedules.serialize(self.kl_weight),
            "hidden_units": self.hidden_units,
            "encoder": network(self.encoder),
            "decoder": network(self.decoder),
            "num_eval_samples": self.num_eval_samples,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        for name in ("encoder", "decoder"):
            if isinstance(config.get(name), dict):
                config[name] = keras.saving.deserialize_keras_object(
                    config[name], custom_objects=custom_objects
                )
        return cls(**config)
