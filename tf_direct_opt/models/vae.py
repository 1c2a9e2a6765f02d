"""A VAE of discrete codes: encoder + posterior + estimator + decoder."""

import math
from collections.abc import Callable

import tensorflow as tf

from tf_direct_opt import losses, schedules, tables
from tf_direct_opt.checks import check_count
from tf_direct_opt.estimators import Estimator
from tf_direct_opt.loss_fn import batch_size, checked_per_example
from tf_direct_opt.models.base import Autoencoder
from tf_direct_opt.posteriors import Family, Posterior
from tf_direct_opt.posteriors.base import check_shape
from tf_direct_opt.seeds import two_seeds
from tf_direct_opt.types import LossFn

# So many codes are shown one variable at a time.
MAX_PICTURES = 512


class VAE(Autoencoder):
    """A decoder of codes [B, N, K] under a prior, uniform by default, and a posterior over them.

    Training minimises E_q f(x, z) + beta KL(q(z|x) || prior), with f = -log p(x | z) in nats,
    summed over pixels, averaged over the batch. One step, from the images to the loss:

        parameters = encoder(images);  q = posterior(parameters)
        loss = estimator(parameters, loss_fn, posterior=q) + beta self.kl(q)

    A subclass chooses posterior and estimator, and says with `bounds` what `evaluate` reports.

    Args:
        posterior: the family of q.
        estimator: of the gradient of E_q f towards the parameters.
        evaluated: names of what `bounds` gives.
        **kwargs: as for `Autoencoder`.
    """

    def __init__(self, posterior: Family, estimator: Estimator, evaluated, **kwargs):
        super().__init__(
            posterior,
            estimator,
            decoder_size=posterior.num_variables * posterior.num_categories,
            trained=["reconstruction", "kl", "kl_weight"],
            evaluated=evaluated,
            **kwargs,
        )

    def call(self, images, training=False):
        parameters = self.encode(images, training)
        name = self.posterior.kind.parameter_name
        if training:
            # Which codes the decoder sees, and how often, is the estimator's business.
            return {name: parameters}
        posterior = self.posterior(parameters)
        code = posterior.mode()
        return {
            name: parameters,
            "probabilities": posterior.marginals(),
            "code": code,
            "reconstruction": self.decode(code),
        }

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        if y is not None and _is_images(y, self.num_pixels):
            raise ValueError(
                f"Expected images alone, which are their own targets; received others of the shape "
                f"{y.shape} beside them. Please leave them out."
            )
        outputs = self(x, training=training) if y_pred is None else y_pred
        parameters = outputs[self.posterior.kind.parameter_name]
        posterior = self.posterior(parameters)
        loss_fn = self.make_loss_fn(x, training)
        self.code_perplexity.update_state(posterior.marginals())
        kl = checked_per_example(
            self.kl(posterior), batch_size(parameters), "the KL of the posterior"
        )
        if training:
            step = self.step
            kl_weight = schedules.value(self.kl_weight, step, allow_zero=True)
            reconstruction = self.estimator(
                posterior.parameters, loss_fn=loss_fn, step=step, training=True, posterior=posterior
            )
            values = {"reconstruction": reconstruction, "kl": kl, "kl_weight": kl_weight}
            return self.reduced(reconstruction + kl_weight * kl, values, sample_weight, training)
        values = {"kl": kl, **self.bounds(posterior, loss_fn)}
        return self.reduced(
            values["reconstruction"] + values["kl"], values, sample_weight, training
        )

    def kl(self, posterior: Posterior) -> tf.Tensor:
        """KL(q || prior), nats: [B]."""
        return posterior.kl_to_uniform()

    def bounds(self, posterior: Posterior, loss_fn: LossFn) -> dict[str, tf.Tensor]:
        """What `evaluate` reports beside the KL, name -> [B]; `reconstruction` among it."""
        raise NotImplementedError

    def make_loss_fn(
        self,
        images: tf.Tensor,  # [B, *image]
        training: bool = False,
    ) -> LossFn:
        """f: the loss of codes [S, M, N, K] for these images, as `types.LossFn`."""
        return self.with_inference(
            lambda mode: lambda codes: self.reconstruction_loss(images, codes, mode), training
        )

    def decode(
        self,
        code: tf.Tensor,  # [B, N, K]
    ) -> tf.Tensor:
        """The expected images of B codes: float32 [B, *image]."""
        code = tf.cast(code, tf.float32)
        check_shape(code.shape, (self.num_variables, self.num_categories), "a code")
        return self.pixel_means(code)

    def sample(self, num_images: int, seed: int | None = None) -> tf.Tensor:
        """Decodes draws from the uniform prior: expected images [num_images, *image]."""
        shape = [check_count(num_images, "num_images", 1), self.num_variables]
        category = tf.random.stateless_uniform(
            shape, two_seeds(seed)[0], 0, self.num_categories, tf.int32
        )
        return self.decode(tf.one_hot(category, self.num_categories))

    def decoded_codes(self) -> tf.Tensor:
        """What the codes look like: images [N * K, *image].

        N = 1: every code, decoded. N > 1: image i * K + k has variable i at category k and all
        others at category 0. Where these are more than 512, as on a grid, K images: image k has
        all variables at category k.
        """
        categories, variables = self.num_categories, self.num_variables
        if variables > 1 and variables * categories > MAX_PICTURES:
            together = tf.eye(categories)[:, tf.newaxis]
            return self.decode(tf.repeat(together, variables, axis=1))
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

    def get_config(self):
        return {**super().get_config(), "num_variables": self.num_variables}


def all_bounds(
    posterior: Posterior,
    loss_fn: LossFn,
    num_samples: int,
    decode_all: bool,
    codes_at_once: int,
    seed: tf.Tensor,  # [2] int
) -> dict[str, tf.Tensor]:
    """E_q f and bounds on -log p(x), nats, [B] each: exact, and with it -log p(x), or sampled.

    Args:
        posterior: q.
        loss_fn: f.
        num_samples: draws for what is estimated.
        decode_all: whether every configuration is decoded, once for the whole batch.
        codes_at_once: configurations that are decoded together then.
        seed: of the draws.
    """
    if not decode_all:
        return sampled_bounds(
            posterior, lambda codes: tables.losses_of(loss_fn, codes), num_samples, seed
        )
    every = losses_of_all(loss_fn, posterior, codes_at_once)
    return {
        **sampled_bounds(
            posterior,
            lambda codes: tf.gather(every, posterior.index(codes), batch_dims=1),
            num_samples,
            seed,
        ),
        "reconstruction": tf.reduce_sum(
            tf.cast(posterior.probabilities(), every.dtype) * every, axis=-1
        ),
        "negative_log_likelihood": losses.exact_negative_log_likelihood(every),
    }


def sampled_bounds(
    posterior: Posterior,
    losses_of: LossFn,
    num_samples: int,
    seed: tf.Tensor,  # [2] int
    log_prior: Callable[[tf.Tensor], tf.Tensor] | None = None,  # codes -> log p(z), nats [B, S]
) -> dict[str, tf.Tensor]:
    """E_q f and the importance-weighted bound on -log p(x), nats, [B] each, from draws of q.

    Without a `log_prior` the prior is uniform over the configurations.
    """
    codes = posterior.sample(num_samples, seed)
    sampled = losses_of(codes)
    log_p = -math.log(posterior.num_configurations) if log_prior is None else log_prior(codes)
    log_ratios = tf.cast(posterior.log_prob(codes), sampled.dtype) - log_p
    return {
        "reconstruction": tf.reduce_mean(sampled, axis=-1),
        "importance_weighted_nll": losses.importance_weighted_nll(sampled, log_ratios),
    }


def losses_of_all(loss_fn: LossFn, posterior: Posterior, codes_at_once: int) -> tf.Tensor:
    """Losses [B, num_configurations], each configuration decoded once for the whole batch."""
    return tables.losses_in_chunks(
        loss_fn,
        lambda index: posterior.configurations(index)[tf.newaxis],
        posterior.num_configurations,
        codes_at_once,
    )


def _is_images(y, num_pixels):
    """Whether these are targets of as many numbers as an image has pixels, in any layout."""
    return (y.shape.rank or 0) > 1 and 1 < num_pixels == y.shape[1:].num_elements()
