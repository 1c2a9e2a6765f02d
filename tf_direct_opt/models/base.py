"""What the VAEs share whatever their latents: two networks, and what they make of pixels."""

import copy
import math
import warnings
from collections.abc import Callable

import keras
import tensorflow as tf

from tf_direct_opt import likelihoods, schedules
from tf_direct_opt.checks import LAYER_ARGUMENTS, check_count
from tf_direct_opt.estimators import Estimator
from tf_direct_opt.loss_fn import WithInference, batch_size
from tf_direct_opt.metrics import CodePerplexity
from tf_direct_opt.models import networks
from tf_direct_opt.models.steps import Stepping
from tf_direct_opt.posteriors import Family
from tf_direct_opt.types import LossFn


class Autoencoder(Stepping):
    """An encoder to the parameters of a posterior, and a decoder to those of a likelihood.

    A subclass gives `call`, `compute_loss` and `pictures`. Steps and reports are `Stepping`'s.

    Args:
        posterior: the family whose parameters the encoder gives.
        estimator: of the gradient towards them.
        decoder_size: inputs of the decoder for one example.
        trained: names of what `fit` reports beside the loss.
        evaluated: names of what `evaluate` reports beside the loss.
        kl_weight: beta, number or schedule of the optimizer's iterations.
        hidden_units: width of the hidden layer of the default encoder and decoder.
        encoder: Keras model, images [B, *image] -> the parameters of the posterior, in any shape.
        decoder: Keras model, [B, decoder_size] -> the outputs that the likelihood takes, C a pixel:
            [B, *image] or [B, P] where C = 1; else the C of a pixel stand together.
        num_eval_samples: draws for what `evaluate` estimates.
        likelihood: distribution of the pixels: name, `likelihoods.Likelihood` or function from the
            decoder's outputs to a TFP distribution.
    """

    def __init__(
        self,
        posterior: Family,
        estimator: Estimator,
        decoder_size: int,
        trained,
        evaluated,
        kl_weight=1.0,
        hidden_units=300,
        encoder=None,
        decoder=None,
        num_eval_samples=100,
        likelihood="bernoulli",
        **kwargs,
    ):
        if "prior" in kwargs:
            raise ValueError(
                f"Expected no `prior`, which is uniform in a {type(self).__name__}; received "
                f"{kwargs['prior']!r}. DiscreteVAE, of independent variables, can learn one."
            )
        unknown = sorted(set(kwargs) - LAYER_ARGUMENTS)
        if unknown:
            raise ValueError(
                f"Expected the arguments of {type(self).__name__}; received also {unknown}. What "
                "an estimator takes is given to the estimator itself: "
                "estimator=estimators.get(name, ...)."
            )
        # Images keep the precision they are given in: half of it has no 256 levels.
        kwargs.setdefault("autocast", False)
        super().__init__(trained, evaluated, **kwargs)
        networks.check_is_network(encoder, "encoder")
        networks.check_is_network(decoder, "decoder")
        self.posterior = posterior
        # Before the networks, which may be made later: an optimizer's state goes by the order.
        self.estimator = estimator
        self.likelihood = likelihoods.get(likelihood)
        self.num_variables = posterior.num_variables
        self.num_categories = posterior.num_categories
        self.decoder_size = decoder_size
        self.kl_weight = kl_weight
        self.hidden_units = check_count(hidden_units, "hidden_units", 1)
        self.encoder = encoder
        self.decoder = decoder
        self.num_eval_samples = check_count(num_eval_samples, "num_eval_samples", 1)
        self.code_perplexity = CodePerplexity(self.num_variables, self.num_categories)

    def build(self, input_shape):
        self.image_shape = networks.image_shape(input_shape)
        self.num_pixels = math.prod(self.image_shape)
        parameter_shape = self.posterior.parameter_shape
        num_parameters = math.prod(parameter_shape)
        per_pixel = self.likelihood.outputs_per_pixel
        if self.encoder is None:
            decoder = self.decoder
            if decoder is not None:  # It comes after the encoder, as in a model that is loaded.
                self._tracker.untrack(decoder)
            self.encoder = networks.encoder(self.hidden_units, num_parameters)
            self.decoder = decoder
        if self.decoder is None:
            num_outputs = self.num_pixels * (per_pixel or 1)
            self.decoder = networks.decoder(self.hidden_units, num_outputs)
        why = (
            f"{self.posterior.kind.parameter_name} {parameter_shape}, {self.decoder_size} inputs "
            f"of the decoder, num_pixels = {self.num_pixels} and the outputs a pixel of the "
            f"likelihood {self.likelihood.name}"
        )
        networks.build(self.encoder, (None, *self.image_shape), num_parameters, 1, why)
        pixels = networks.build(
            self.decoder, (None, self.decoder_size), self.num_pixels, per_pixel, why
        )
        networks.check_layout(pixels[1:], self.image_shape)
        networks.check_factors(self.decoder)
        for layer, shape in (
            (self.estimator, self.estimator_shape),
            (self.likelihood, (None, self.num_pixels)),
        ):
            if not layer.built:
                layer.build(shape)
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
        """The parameters of the posterior: [B, *parameter_shape].

        Raises:
            tf.errors.InvalidArgumentError: images that are not finite or, at inference, none of the
                likelihood's, in eager and graph mode. XLA drops assertions.
        """
        images = self._of_one_size(images)
        if tf.as_dtype(images.dtype).is_floating:
            # The encoder need not show it: on many CPUs the ReLU of a dense layer makes 0 of NaN.
            images = tf.debugging.check_numerics(
                images,
                "Expected finite images; received infinite or NaN pixels. Please leave these out",
            )
        outputs = self.encoder(images, training=training)
        if not training:  # The losses of training look at the images themselves.
            outputs += tf.cast(self.likelihood.zero_if_images(images), outputs.dtype)
        return tf.reshape(outputs, [batch_size(images), *self.posterior.parameter_shape])

    def _of_one_size(self, images):
        """The images; ValueError for another size or layout, whose pixels would be others."""
        if isinstance(images, dict | list | tuple):
            networks.image_shape(images)  # Says what they have to be.
        if not self.built:
            return images
        images = networks.with_known_shape(images, self.image_shape)
        received = tuple(images.shape)[1:]
        sizes = [[size for size in shape if size != 1] for shape in (received, self.image_shape)]
        flat = min(map(len, sizes)) <= 1
        if math.prod(received) != self.num_pixels or not (flat or sizes[0] == sizes[1]):
            raise ValueError(
                f"Expected images of the size {self.image_shape} that the model was built for; "
                f"received {received}. Please resize them, or make another model."
            )
        return images

    def decoder_outputs(
        self,
        codes: tf.Tensor,  # [S, M, *], decoder_size numbers each
        training: bool,
    ) -> tf.Tensor:
        """What the decoder makes of each, as the likelihood takes it: [S, M, P, C]."""
        if not self.built:
            raise ValueError(
                f"Expected a {type(self).__name__} that has seen images, whose size its decoder "
                "needs; received one that is not built. Please call model.build((None, *image)), "
                "or fit, first."
            )
        static, dynamic = codes.shape, tf.shape(codes)
        outer = [dynamic[i] if static[i] is None else static[i] for i in (0, 1)]
        flat = tf.reshape(codes, [-1, self.decoder_size])
        outputs = self.decoder(flat, training=training)
        per_pixel = math.prod(outputs.shape[1:]) // self.num_pixels
        return tf.reshape(outputs, [*outer, self.num_pixels, per_pixel])

    def pixel_means(
        self,
        codes: tf.Tensor,  # [B, *], decoder_size numbers each
    ) -> tf.Tensor:
        """The expected images: float32 [B, *image]."""
        outputs = self.decoder_outputs(codes[tf.newaxis], training=False)
        return tf.reshape(self.likelihood.means(outputs), [-1, *self.image_shape])

    def reconstruction_loss(
        self,
        images: tf.Tensor,  # [B, *image]
        codes: tf.Tensor,  # [S, M, *], S = 1 or B
        training: bool,
    ) -> tf.Tensor:
        """-log p(x | z) of every code, nats, summed over pixels: [B, M]."""
        images = self._of_one_size(images)
        flat = tf.reshape(images, [batch_size(images), self.num_pixels])
        outputs = self.decoder_outputs(codes, training)
        return self.likelihood.negative_log_likelihood(flat, outputs)

    def with_inference(
        self,
        make_loss_fn: Callable[[bool], LossFn],
        training: bool,
    ) -> LossFn:
        """make_loss_fn(training), and its face at inference where the decoder has another one."""
        loss_fn = make_loss_fn(training)
        if not training or not (
            networks.depends_on_mode(self.decoder) or networks.adds_losses(self.decoder)
        ):
            return loss_fn
        as_compared = make_loss_fn(False)

        def inference(codes):
            # What the decoder adds to the losses of the model is of the codes that are used.
            with keras.StatelessScope():
                return as_compared(codes)

        return WithInference(loss_fn, inference)

    def details(self) -> dict:
        """More than numbers about the last evaluation, for JSON."""
        return {}

    @property
    def training_metrics(self) -> list:
        """What `fit` reports."""
        return [self.training_report, self.code_perplexity, *self.estimator.metrics]

    @property
    def evaluation_metrics(self) -> list:
        """What `evaluate` reports."""
        return [self.evaluation_report, self.code_perplexity]

    def fit(self, *args, **kwargs):
        history = super().fit(*args, **kwargs)
        last = schedules.value(self.kl_weight, self.optimizer.iterations, allow_zero=True)
        if callable(self.kl_weight) and last < 1.0:
            warnings.warn(
                f"The training ended at step {self.optimizer.iterations.numpy()} with `kl_weight` "
                f"{float(last):g}: what it trained is not the bound that `evaluate` reports. Give "
                "`kl_weight` a schedule that reaches 1 within the steps of the run, or train on.",
                stacklevel=2,
            )
        return history

    fit.__doc__ = keras.Model.fit.__doc__

    @property
    def kl_weight(self):
        """Beta, number or schedule."""
        return self._kl_weight

    @kl_weight.setter
    def kl_weight(self, kl_weight):
        if getattr(self, "train_function", None) is not None:
            raise ValueError(
                "Expected `kl_weight` before the training step is traced, which would not see "
                f"another one; received {kl_weight!r}. Please give a schedule of "
                "keras.optimizers.schedules, or set it and call compile() again."
            )
        self._kl_weight = schedules.get(kl_weight, "kl_weight", allow_zero=True)

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
            "likelihood": keras.saving.serialize_keras_object(self.likelihood),
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        # Keras writes the objects it makes into the dict that it reads, where a second model
        # would find the layers of the first.
        config = copy.deepcopy(config)
        given = {
            name: keras.saving.deserialize_keras_object(config[name], custom_objects=custom_objects)
            for name in ("encoder", "decoder")
            if isinstance(config.get(name), dict)
        }
        return cls(**{**config, **given})
