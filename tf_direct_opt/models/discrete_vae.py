"""The discrete variational auto-encoder."""

import math

import keras
import tensorflow as tf

from tf_direct_opt import estimators, losses, schedules, tables
from tf_direct_opt.estimators.direct import WARMUP_STEPS
from tf_direct_opt.metrics import CodePerplexity, Means
from tf_direct_opt.perturbation import perturbed_argmax, sample_gumbel
from tf_direct_opt.solvers import Categorical

# Evaluation draws the same noise every time, so that two epochs, or two models, are compared
# under common random numbers and nothing that is evaluated disturbs the noise of training.
EVALUATION_SEED = (2019, 1806)


@keras.saving.register_keras_serializable("tf_direct_opt")
class DiscreteVAE(keras.Model):
    """A VAE with N categorical latent variables of K categories and a Bernoulli decoder.

    Training minimises E_q f(x, z) + beta KL(q(z|x) || uniform), with f = -log p(x | z) in nats,
    summed over pixels, averaged over the batch. The gradient of the first term towards the
    encoder is the estimator's. Trained by `fit` on images alone, as with any Keras model; no
    `loss` is given to `compile`.

    Args:
        num_variables: N.
        num_categories: K.
        estimator: name ("direct", "exact"), or an `estimators.Estimator`.
        epsilon: number or schedule for an estimator given by name; None leaves its default.
        kl_weight: beta, number or schedule of the optimizer's iterations; by default 0 for 5000
            steps, then 1.
        hidden_units: width of the hidden layer of the default encoder and decoder (P-300-NK and
            NK-300-P with ReLU, the paper's).
        encoder: Keras model, images [B, *image] -> [B, N * K] or [B, N, K]; None for the default.
        decoder: Keras model, codes [B, N * K] -> pixel logits [B, *image] or [B, P]; None for the
            default.
        num_eval_samples: draws for the bounds reported by `evaluate` where N > 1.
        seed: integer seed of the estimator's noise (with an estimator given by name).

    Inputs: images [B, *image], values in [0, 1]; a Bernoulli likelihood expects them binary.

    `fit` reports loss, reconstruction, kl, kl_weight, code_perplexity and what the estimator
    reports. `evaluate` reports, with beta = 1 whatever the schedule: loss = the -ELBO,
    reconstruction, kl, code_perplexity, and
      * N = 1: negative_log_likelihood, -log p(x); this and the -ELBO exact, by enumeration;
      * N > 1: importance_weighted_nll, a bound on -log p(x); both from `num_eval_samples` draws.
    `predict` returns a dict of logits, probabilities and code [B, N, K], and reconstruction
    [B, *image], the Bernoulli means decoded from the most probable code.

    Raises:
        ValueError: arguments out of range, or an encoder or decoder whose output does not fit.

    Example:
        >>> model = DiscreteVAE(num_categories=4, epsilon=0.3, kl_weight=1.0, seed=0)
        >>> model.compile(optimizer="adam")
        >>> images = tf.cast(tf.random.uniform([8, 5, 5]) > 0.5, tf.float32)
        >>> history = model.fit(images, verbose=0)
        >>> model.predict(images, verbose=0)["code"].shape
        (8, 1, 4)

    References:
        Lorberbom et al., NeurIPS 2019, arXiv:1806.02867.
    """

    def __init__(
        self,
        num_variables=1,
        num_categories=40,
        estimator="direct",
        epsilon=None,
        kl_weight=None,
        hidden_units=300,
        encoder=None,
        decoder=None,
        num_eval_samples=100,
        seed=None,
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
        settings = {"epsilon": epsilon, "seed": seed}
        self.num_variables = num_variables
        self.num_categories = num_categories
        self.estimator = estimators.get(
            estimator, **{name: given for name, given in settings.items() if given is not None}
        )
        self.kl_weight = schedules.get(kl_weight, "kl_weight", allow_zero=True)
        self.hidden_units = hidden_units
        self.encoder = encoder
        self.decoder = decoder
        self.num_eval_samples = num_eval_samples
        self.solver = Categorical()

        self.bound = "negative_log_likelihood" if num_variables == 1 else "importance_weighted_nll"
        self.training_report = Means(["reconstruction", "kl", "kl_weight"])
        self.evaluation_report = Means(["reconstruction", "kl", self.bound])
        self.code_perplexity = CodePerplexity(num_variables, num_categories)

    def build(self, input_shape):
        self.image_shape = tuple(input_shape[1:])
        if not self.image_shape or None in self.image_shape:
            raise ValueError(
                "Expected images [B, *image] of a known size; received the input shape "
                f"{tuple(input_shape)}."
            )
        self.num_pixels = math.prod(self.image_shape)
        code_size = self.num_variables * self.num_categories
        if self.encoder is None:
            self.encoder = keras.Sequential(
                [
                    keras.layers.Flatten(),
                    keras.layers.Dense(self.hidden_units, activation="relu"),
                    keras.layers.Dense(code_size),
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
            (self.encoder, (None, *self.image_shape), code_size),
            (self.decoder, (None, code_size), self.num_pixels),
        ):
            if not network.built:
                network.build(shape)
            output_shape = network.compute_output_shape(shape)
            if math.prod(output_shape[1:]) != size:
                raise ValueError(
                    f"Expected {size} outputs an example from `{network.name}`; received the "
                    f"output shape {tuple(output_shape)}. Please match num_variables * "
                    f"num_categories = {code_size} and num_pixels = {self.num_pixels}."
                )
        self.estimator.build((None, self.num_variables, self.num_categories))
        self.built = True

    def call(self, images, training=False):
        logits = tf.reshape(
            self.encoder(images, training=training),
            [-1, self.num_variables, self.num_categories],
        )
        if training:
            # Which codes the decoder sees, and how often, is the estimator's business.
            return {"logits": logits}
        _, code = perturbed_argmax(logits, tf.zeros_like(logits), self.solver)
        return {
            "logits": logits,
            "probabilities": tf.nn.softmax(tf.cast(logits, tf.float32)),
            "code": code,
            "reconstruction": self.decode(code),
        }

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

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        del y
        logits = y_pred["logits"]
        loss_fn = self.make_loss_fn(x, training)
        kl = losses.categorical_kl(logits)
        if training:
            step = self.optimizer.iterations
            reconstruction = self.estimator(logits, loss_fn=loss_fn, step=step, training=True)
            kl_weight = schedules.value(self.kl_weight, step)
            report, values = self.training_report, {"kl_weight": kl_weight}
        else:
            reconstruction, bound = self._evaluation_bounds(logits, loss_fn)
            kl_weight = 1.0
            report, values = self.evaluation_report, {self.bound: bound}
        values |= {"reconstruction": reconstruction, "kl": kl}
        report.update_state(values, tf.shape(kl)[0])
        self.code_perplexity.update_state(tf.nn.softmax(tf.cast(logits, tf.float32)))
        loss = reconstruction + kl_weight * kl
        if sample_weight is not None:
            loss *= tf.cast(sample_weight, loss.dtype)
        loss = tf.reduce_mean(loss)
        if training and self.losses:
            loss += tf.add_n([tf.cast(penalty, loss.dtype) for penalty in self.losses])
        # Gradients are summed over replicas, so each replica contributes its share of the mean.
        return loss / self.distribute_strategy.num_replicas_in_sync

    def train_step(self, data):
        super().train_step(data)
        return self._results([self.training_report, self.code_perplexity, *self.estimator.metrics])

    def test_step(self, data):
        super().test_step(data)
        return self._results([self.evaluation_report, self.code_perplexity])

    def _results(self, metrics):
        """The metrics of one phase alone: a training metric would read 0 in an evaluation."""
        results = {"loss": self._loss_tracker.result()}
        for metric in metrics:
            result = metric.result()
            results |= result if isinstance(result, dict) else {metric.name: result}
        return results

    def _pixel_logits(
        self,
        codes: tf.Tensor,  # [S, M, N, K]
        training: bool,
    ) -> tf.Tensor:  # [S, M, P]
        static, dynamic = codes.shape, tf.shape(codes)
        outer = [dynamic[i] if static[i] is None else static[i] for i in (0, 1)]
        flat = tf.reshape(codes, [-1, self.num_variables * self.num_categories])
        return tf.reshape(self.decoder(flat, training=training), [*outer, self.num_pixels])

    def make_loss_fn(self, images, training=False):
        """The loss of codes [S, M, N, K] for these images, as `types.LossFn`."""
        flat = tf.reshape(images, [-1, self.num_pixels])
        return lambda codes: losses.bernoulli_nll(flat, self._pixel_logits(codes, training))

    def _evaluation_bounds(self, logits, loss_fn):
        """E_q f and -log p(x) (N = 1), or estimates of it and of a bound on it: two [B]."""
        logits = tf.cast(logits, tf.float32)
        if self.num_variables == 1:
            all_losses = tables.all_codes_loss(loss_fn, self.num_categories)
            reconstruction = tf.reduce_sum(tf.nn.softmax(logits[:, 0]) * all_losses, axis=-1)
            return reconstruction, losses.exact_negative_log_likelihood(all_losses)
        shape = [tf.shape(logits)[0], self.num_eval_samples, *logits.shape[1:]]
        noise = sample_gumbel(shape, EVALUATION_SEED)
        _, codes = perturbed_argmax(logits[:, tf.newaxis], noise, self.solver)
        log_posterior = tf.einsum("bsnk,bnk->bs", codes, tf.nn.log_softmax(logits))
        log_prior = -self.num_variables * math.log(self.num_categories)
        sampled = tables.losses_in_chunks(
            loss_fn, lambda index: tf.gather(codes, index, axis=1), self.num_eval_samples
        )
        bound = losses.importance_weighted_nll(sampled, log_posterior - log_prior)
        return tf.reduce_mean(sampled, axis=-1), bound

    def get_config(self):
        def network(given):
            return None if given is None else keras.saving.serialize_keras_object(given)

        return {
            **super().get_config(),
            "num_variables": self.num_variables,
            "num_categories": self.num_categories,
            "estimator": keras.saving.serialize_keras_object(self.estimator),
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
