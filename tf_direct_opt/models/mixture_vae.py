"""The VAE of a class and a Gaussian component of it, learned from few labels."""

import functools
import math

import keras
import tensorflow as tf

from tf_direct_opt import estimators, posteriors, schedules, tables
from tf_direct_opt.checks import check_bool, check_count
from tf_direct_opt.labels import checked_labels, direct_label_loss
from tf_direct_opt.metrics import ConfusionMatrix
from tf_direct_opt.models.base import Autoencoder
from tf_direct_opt.models.steps import EVALUATION_SEED
from tf_direct_opt.perturbation import sample_gumbel
from tf_direct_opt.posteriors import Categorical, ClassGaussian
from tf_direct_opt.posteriors.class_gaussian import kl_to_prior
from tf_direct_opt.seeds import SeedStream, two_seeds
from tf_direct_opt.types import LossFn

LABEL_LOSSES = ("direct", "cross_entropy")

# The logit of a class that is known, against minus this of the others: no noise and no loss moves
# an argmax by as much, so every estimator draws the label and leaves the encoder alone.
_KNOWN = 1e4

# Between the seed of the model's own noise and that of the estimator's.
_APART = 1_000_003


@keras.saving.register_keras_serializable("tf_direct_opt")
class MixtureVAE(Autoencoder):
    """A VAE with a latent class z and, for each class, a Gaussian component w_z.

        q(z, w|x) = softmax(h)_z N(w; mean_z, scale_z^2),    (h, mean, scale) = encoder(x)

    under the prior uniform x N(0, I). The decoder sees the outer product of the one-hot of z and
    w_z, zeros elsewhere. Training minimises, over images with and without a label y,

        no label:  E_q [f(x, z, w)] + beta (KL(softmax(h) || uniform) + sum_k softmax(h)_k KL_k)
        label:     E_{q(w|x, y)} [f(x, y, w)] + beta (log K + KL_y) + label loss

    with f = -log p(x | z, w) in nats, summed over pixels, KL_k = KL(N(mean_k, scale_k^2) || N(0,
    I)), averaged over the batch. Towards h, the gradient of E_q f + beta sum_k softmax(h)_k KL_k is
    the estimator's for the losses f(x, k, w_k) + beta KL_k, at one draw of w for each class that is
    held fixed for all choices of z; towards mean and scale it is reparameterised, and that of the
    KL the closed form. The label loss moves h by the direct gradient of a task loss, see
    `labels.direct_label_loss`, or by the cross-entropy 1 / label_epsilon times, which is the mean
    of the direct one in the limit.

    Args:
        num_categories: K, the number of classes.
        gaussian_dim: D, the dimension of each component.
        estimator: name ("direct", "gumbel_softmax", ...), or an `estimators.Estimator`.
        epsilon: number or schedule for an estimator given by name; None leaves its default.
        label_loss: "direct" or "cross_entropy".
        label_epsilon: step of the direct label loss, in 1/nats.
        label_cost: task loss of a wrong class, nats; None for the limit z*(eps) := y.
        unlabelled_weight: weight with which images without a label move h, number or schedule;
            `schedules.two_phase(0.0, 1.0, steps)` is the paper's: labels alone, then both.
        generative: False trains the encoder by the labels alone, the purely supervised baseline,
            and freezes the decoder for good, one that was given as well.
        kl_weight: beta, number or schedule of the optimizer's iterations; by default 1.
        hidden_units: width of the hidden layer of the default encoder and decoder
            (P-300-K(1 + 2 D) and K D-300-P with ReLU).
        encoder: Keras model, images [B, *image] -> [B, K (1 + 2 D)]; None for the default.
        decoder: Keras model, [B, K D] -> [B, *image] or [B, P], pixel logits or what
            else the likelihood takes of each pixel; None for the default.
        num_eval_samples: draws of w for what `evaluate` estimates; z is enumerated.
        likelihood: of the pixels: "bernoulli", "gaussian", another name or object of `likelihoods`,
            or a function from the decoder's outputs to a TFP distribution.
        seed: integer seed of the noise.

    Inputs: images [B, *image], values in [0, 1], and integer labels [B], -1 where there is none;
    images alone are images without labels.

    `fit` reports loss, reconstruction, kl, kl_weight, label_loss, code_perplexity, accuracy (over
    the labelled images) and what the estimator reports. `evaluate` reports, with beta = 1 and
    without a look at the labels: loss = the -ELBO, reconstruction, kl, importance_weighted_nll (a
    bound on -log p(x) from `num_eval_samples` draws of w under each class), code_perplexity,
    bits_per_dimension (-ELBO / (P log 2)); and accuracy over the labelled images, 0 where there are
    none. `predict` returns a dict of parameters, probabilities [B, K], code [B, 1, K] and
    reconstruction [B, *image], decoded from the most probable class and the mean of its component.

    Raises:
        ValueError: arguments out of range, or an encoder or decoder whose output does not fit.
        tf.errors.InvalidArgumentError: labels out of range; under XLA, which drops assertions, the
            loss becomes NaN.

    Example:
        >>> model = MixtureVAE(num_categories=4, gaussian_dim=3, epsilon=0.3, seed=0)
        >>> model.compile(optimizer="adam")
        >>> images = tf.cast(tf.random.uniform([8, 5, 5]) > 0.5, tf.float32)
        >>> loss = model.train_on_batch(images, tf.constant([0, 1, 2, 3, -1, -1, -1, -1]))
        >>> model(images)["probabilities"].shape
        TensorShape([8, 4])

    References:
        Lorberbom et al., NeurIPS 2019, arXiv:1806.02867, section 4.3; Kingma et al.,
        "Semi-supervised Learning with Deep Generative Models", NeurIPS 2014.
    """

    def __init__(
        self,
        num_categories=10,
        gaussian_dim=30,
        estimator="direct",
        epsilon=None,
        label_loss="direct",
        label_epsilon=0.05,
        label_cost=None,
        unlabelled_weight=1.0,
        generative=True,
        kl_weight=1.0,
        hidden_units=300,
        encoder=None,
        decoder=None,
        num_eval_samples=1,
        likelihood="bernoulli",
        seed=None,
        **kwargs,
    ):
        num_categories = check_count(num_categories, "num_categories", 2)
        gaussian_dim = check_count(gaussian_dim, "gaussian_dim", 1)
        if label_loss not in LABEL_LOSSES:
            raise ValueError(f"Expected `label_loss` in {LABEL_LOSSES}; received {label_loss!r}.")
        label_epsilon = schedules.check_positive(label_epsilon, "label_epsilon")
        if label_cost is not None:
            label_cost = schedules.check_positive(label_cost, "label_cost")
        settings = {"epsilon": epsilon}
        if isinstance(estimator, str):
            settings["seed"] = seed
        if estimator == "direct":
            # All codes of an image are not those of another: each is decoded with its own w, and
            # all but the one drawn without gradient.
            settings["table"] = "single_flips"
        estimator = estimators.get(
            estimator, **{name: given for name, given in settings.items() if given is not None}
        )
        super().__init__(
            posteriors.get(
                "class_gaussian", num_categories=num_categories, gaussian_dim=gaussian_dim
            ),
            estimator,
            decoder_size=num_categories * gaussian_dim,
            trained=["reconstruction", "kl", "kl_weight", "label_loss"],
            evaluated=["reconstruction", "kl", "importance_weighted_nll"],
            kl_weight=kl_weight,
            hidden_units=hidden_units,
            encoder=encoder,
            decoder=decoder,
            num_eval_samples=num_eval_samples,
            likelihood=likelihood,
            **kwargs,
        )
        self.gaussian_dim = gaussian_dim
        self.label_loss = label_loss
        self.label_epsilon = label_epsilon
        self.label_cost = label_cost
        self.unlabelled_weight = schedules.get(
            unlabelled_weight, "unlabelled_weight", allow_zero=True
        )
        self.generative = check_bool(generative, "generative")
        # The estimator counts up from the same seed: its noise must not be the Gaussians'.
        apart = None if seed is None else seed + _APART
        self.seed = seed
        self.seeds = SeedStream(apart, name="seeds")
        self.accuracy = ConfusionMatrix(num_categories, name="accuracy")
        self.confusion = ConfusionMatrix(num_categories, name="accuracy")

    @property
    def estimator_shape(self):
        return (None, 1, self.num_categories)

    def build(self, input_shape):
        super().build(input_shape)
        if not self.generative:
            self.decoder.trainable = False
            self.likelihood.trainable = False

    def call(self, images, training=False):
        parameters = self.encode(images, training)
        if training:
            return {"parameters": parameters}
        posterior = self.posterior(parameters)
        code, gaussian = posterior.mode()
        return {
            "parameters": parameters,
            "probabilities": posterior.marginals()[:, 0],
            "code": code,
            "reconstruction": self.decode(code, gaussian),
        }

    def decode(
        self,
        code: tf.Tensor,  # [B, 1, K]
        gaussian: tf.Tensor,  # [B, D]
    ) -> tf.Tensor:
        """The expected images of B classes and Gaussian vectors: float32 [B, *image]."""
        return self.pixel_means(tf.einsum("bnk,bd->bkd", code, gaussian))

    def sample(self, num_images: int, seed: int | None = None) -> tf.Tensor:
        """Decodes draws from the prior: expected images [num_images, *image]."""
        shape, categories = [check_count(num_images, "num_images", 1), 1], self.num_categories
        seed, other = two_seeds(seed)
        category = tf.random.stateless_uniform(shape, seed, 0, categories, tf.int32)
        gaussian = tf.random.stateless_normal([num_images, self.gaussian_dim], other)
        return self.decode(tf.one_hot(category, categories), gaussian)

    def decoded_codes(self) -> tf.Tensor:
        """Class-conditional samples, images [K * K, *image].

        Image r * K + k is draw r of the Gaussian, decoded as one of class k.
        """
        categories = self.num_categories
        draws = tf.random.stateless_normal([categories, self.gaussian_dim], EVALUATION_SEED)
        code = tf.tile(tf.eye(categories)[:, tf.newaxis], [categories, 1, 1])
        return self.decode(code, tf.repeat(draws, categories, axis=0))

    def pictures(self, images):
        """Name -> images [n, *image]: inputs, reconstructions, codes, prior samples, confusion.

        As for the other VAEs; codes are class-conditional samples, see `decoded_codes`. confusion
        is the confusion matrix of the last evaluation in shares of a class: a row is a class, a
        column what it was taken for, white for all of its images.
        """
        pictures = {
            "inputs": images,
            "reconstructions": self(images)["reconstruction"],
            "codes": self.decoded_codes(),
            "prior_samples": self.sample(len(images), seed=0),
        }
        counts = tf.convert_to_tensor(self.confusion.counts)
        if tf.reduce_sum(counts) > 0:  # Nothing was evaluated after this epoch otherwise.
            share = tf.math.divide_no_nan(counts, tf.reduce_sum(counts, axis=1, keepdims=True))
            enlarged = tf.repeat(tf.repeat(share, 8, axis=0), 8, axis=1)
            pictures["confusion"] = enlarged[tf.newaxis]
        return pictures

    def details(self):
        """The confusion matrix of the last evaluation: counts, a row a class."""
        return {"confusion_matrix": self.confusion.counts.numpy().astype(int).tolist()}

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        outputs = self(x, training=training) if y_pred is None else y_pred
        posterior = self.posterior(outputs["parameters"])
        batch = tf.shape(posterior.logits)[0]
        labels, in_range = (
            (tf.fill([batch], -1), True) if y is None else checked_labels(y, self.num_categories)
        )
        if training:
            self.accuracy.update_state(labels, posterior.logits)
            loss, values = self._training_terms(x, labels, posterior)
        else:
            self.confusion.update_state(labels, posterior.logits)
            self.code_perplexity.update_state(posterior.marginals())
            values = {"kl": posterior.kl_to_prior(), **self.bounds(x, posterior)}
            loss = values["reconstruction"] + values["kl"]
        loss = tf.where(in_range, loss, math.nan)  # XLA drops the assertions.
        return self.reduced(loss, values, sample_weight, training)

    def _training_terms(self, images, labels, posterior: ClassGaussian):
        """The loss [B], and what is reported of it: name -> [] or [B]."""
        logits = posterior.logits
        label_loss = self._label_loss(logits, labels)
        if not self.generative:
            values = dict.fromkeys(("reconstruction", "kl", "kl_weight"), 0.0)
            return label_loss, {**values, "label_loss": label_loss}
        step = self.step
        weight = schedules.value(self.unlabelled_weight, step, allow_zero=True)
        free = weight * logits + (1.0 - weight) * tf.stop_gradient(logits)
        right = tf.one_hot(labels, self.num_categories)
        known = tf.where((labels >= 0)[:, tf.newaxis], _KNOWN * (2.0 * right - 1.0), free)
        classes = Categorical(known)
        draw = posterior.components.sample(seed=tf.cast(self.seeds.next(), tf.int32))
        # What a class costs is f + beta KL_k. An argmax over f alone would take to the class whose
        # component strays farthest from the prior.
        component_kl = posterior.component_kl()
        kl_weight = schedules.value(self.kl_weight, step, allow_zero=True)
        costs = tf.stop_gradient(kl_weight * component_kl)
        reconstruction = self.estimator(
            classes.logits,
            loss_fn=self.make_loss_fn(images, draw, costs, training=True),
            step=step,
            training=True,
            posterior=classes,
        )
        self.code_perplexity.update_state(classes.marginals())
        kl = kl_to_prior(classes, component_kl)
        loss = reconstruction + kl_weight * kl
        # The KL adds the same cost in its mean, and the gradient towards mean and scale.
        expected = tf.stop_gradient(tf.reduce_sum(tf.nn.softmax(known) * costs, axis=-1))
        values = {
            "reconstruction": reconstruction - expected,
            "kl": kl,
            "kl_weight": kl_weight,
            "label_loss": label_loss,
        }
        return loss - expected + label_loss, values

    def bounds(
        self,
        images: tf.Tensor,  # [B, *image]
        posterior: ClassGaussian,
    ) -> dict[str, tf.Tensor]:
        """E_q f and a bound on -log p(x), nats, [B] each.

        All classes are enumerated, `num_eval_samples` draws of w under each.
        """
        prior, seed = posterior.prior, self.evaluation_seed()

        def one_draw(number):
            draw = posterior.components.sample(seed=tf.random.fold_in(seed, number))
            every = tables.all_codes_loss(self.make_loss_fn(images, draw), self.num_categories)
            return every, every + posterior.components.log_prob(draw) - prior.log_prob(draw)

        shape = tf.TensorSpec([None, self.num_categories])
        every, weighted = tf.map_fn(
            one_draw,
            tf.range(self.num_eval_samples),
            fn_output_signature=(shape, shape),
            parallel_iterations=1,
        )  # [S, B, K]
        count = math.log(self.num_eval_samples * self.num_categories)
        reconstruction = tf.reduce_sum(
            posterior.marginals()[:, 0] * tf.reduce_mean(every, axis=0), axis=-1
        )
        return {
            "reconstruction": reconstruction,
            "importance_weighted_nll": count - tf.reduce_logsumexp(-weighted, axis=[0, 2]),
        }

    def make_loss_fn(
        self,
        images: tf.Tensor,  # [B, *image]
        draw: tf.Tensor,  # [B, K, D]
        costs: tf.Tensor | None = None,  # [B, K]
        training: bool = False,
    ) -> LossFn:
        """The loss of codes [S, M, 1, K], as `types.LossFn`, with the draw of w held fixed.

        `costs` is what a class costs beside f(x, k, w_k).
        """

        def loss_fn(codes, mode):
            # [S, M, K, 1] times [B, 1, K, D]: S is 1 or B.
            outer = codes[:, :, 0, :, tf.newaxis] * draw[:, tf.newaxis]
            nll = self.reconstruction_loss(images, outer, mode)
            if costs is None:
                return nll
            return nll + tf.reduce_sum(codes[:, :, 0] * costs[:, tf.newaxis], axis=-1)

        return self.with_inference(lambda mode: functools.partial(loss_fn, mode=mode), training)

    @property
    def training_metrics(self):
        return [*super().training_metrics, self.accuracy]

    @property
    def evaluation_metrics(self):
        return [*super().evaluation_metrics, self.confusion]

    def _label_loss(self, logits, labels):
        if self.label_loss == "direct":
            noise = sample_gumbel(tf.shape(logits), self.seeds.next())
            loss = direct_label_loss(logits, noise, labels, self.label_epsilon, self.label_cost)
        else:
            right = tf.one_hot(labels, self.num_categories)
            cross_entropy = tf.nn.softmax_cross_entropy_with_logits(right, logits)
            loss = tf.where(labels >= 0, cross_entropy / self.label_epsilon, 0.0)
        return loss

    def get_config(self):
        return {
            **super().get_config(),
            "num_categories": self.num_categories,
            "gaussian_dim": self.gaussian_dim,
            "estimator": keras.saving.serialize_keras_object(self.estimator),
            "label_loss": self.label_loss,
            "label_epsilon": self.label_epsilon,
            "label_cost": self.label_cost,
            "unlabelled_weight": schedules.serialize(self.unlabelled_weight),
            "generative": self.generative,
            "seed": self.seed,
        }
