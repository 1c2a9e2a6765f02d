"""The VAE of any posterior whose candidates can be drawn."""

import keras
import tensorflow as tf

from tf_direct_opt import estimators, posteriors
from tf_direct_opt.checks import check_count
from tf_direct_opt.models.vae import VAE, all_bounds
from tf_direct_opt.seeds import two_seeds

# Up to here `evaluate` decodes every configuration, once for a whole batch.
MAX_DECODED = 2**15


@keras.saving.register_keras_serializable("tf_direct_opt")
class PosteriorVAE(VAE):
    """A VAE whose posterior is a chain, a k-subset or another family of `posteriors`.

    Training minimises E_q f(x, z) + beta KL(q(z|x) || uniform over the configurations), with
    f = -log p(x | z) in nats, summed over pixels, averaged over the batch.

    Args:
        posterior: name or `posteriors.Family` of q.
        estimator: of the gradient of E_q f, the name of one that takes a posterior ("candidates"),
            or an `estimators.Estimator` for the same family.
        epsilon: number or schedule for an estimator given by name; None leaves its default.
        kl_weight: beta, number or schedule of the optimizer's iterations.
        hidden_units: width of the hidden layer of the default encoder and decoder.
        encoder: Keras model, images [B, *image] -> the parameters of q, in any shape; None for the
            default.
        decoder: Keras model, codes [B, N K] -> [B, *image] or [B, P], pixel logits or what
            else the likelihood takes of each pixel; None for the default.
        num_eval_samples: draws for what `evaluate` estimates.
        likelihood: of the pixels: "bernoulli", "gaussian", another name or object of `likelihoods`,
            or a function from the decoder's outputs to a TFP distribution.
        seed: integer seed of the estimator's noise (with an estimator given by name).

    `fit` reports loss, reconstruction, kl, kl_weight, code_perplexity and what the estimator
    reports. `evaluate` reports, with beta = 1, loss = reconstruction + kl, the -ELBO of q; its
    entropy; bits_per_dimension; importance_weighted_nll, a bound on -log p(x); and, up to 2^15
    configurations, negative_log_likelihood, -log p(x): it and the -ELBO are then exact. `predict`
    returns the parameters, probabilities and code [B, N, K], and reconstruction [B, *image].

    Raises:
        ValueError: arguments out of range; a `posterior` that is not of codes alone; an estimator
            for another one; an encoder or decoder whose output does not fit.

    Example:
        >>> chain = posteriors.get("chain", num_variables=3, num_categories=2)
        >>> model = PosteriorVAE(chain, kl_weight=1.0, seed=0)
        >>> model.compile(optimizer="adam")
        >>> images = tf.cast(tf.random.uniform([8, 5, 5]) > 0.5, tf.float32)
        >>> loss = model.train_on_batch(images)
        >>> model(images)["code"].shape
        TensorShape([8, 3, 2])
    """

    def __init__(
        self,
        posterior,
        estimator="candidates",
        epsilon=None,
        kl_weight=1.0,
        hidden_units=300,
        encoder=None,
        decoder=None,
        num_eval_samples=100,
        likelihood="bernoulli",
        seed=None,
        **kwargs,
    ):
        family = posteriors.get(posterior)
        if not hasattr(family.kind, "gumbel_top_k"):
            raise ValueError(
                f"Expected a `posterior` of codes alone; received {family.name!r}. Please take "
                "MixtureVAE for classes with a Gaussian each."
            )
        # Of a configuration that was saved.
        if kwargs.pop("num_variables", family.num_variables) != family.num_variables:
            raise ValueError(
                f"Expected no `num_variables`, which is that of the posterior, "
                f"{family.num_variables}; received another one. Please leave it out."
            )
        if isinstance(estimator, str):
            if "posterior" not in estimators.arguments(estimator):
                named = [n for n in estimators.names() if "posterior" in estimators.arguments(n)]
                raise ValueError(
                    f"Expected `estimator` to be an Estimator or one of {named}, which take any "
                    f"posterior; received {estimator!r}."
                )
            estimator = estimators.get(estimator, posterior=family, epsilon=epsilon, seed=seed)
        else:
            settings = {"epsilon": epsilon, "seed": seed}
            estimator = estimators.get(
                estimator, **{name: value for name, value in settings.items() if value is not None}
            )
        if estimator.posterior != family:
            raise ValueError(
                f"Expected an estimator for {family}; received one for {estimator.posterior}. "
                "Please give both the same posterior."
            )
        uniform = family(tf.zeros([1, *family.parameter_shape]))
        self.decodes_all = uniform.num_configurations <= MAX_DECODED
        super().__init__(
            family,
            estimator,
            evaluated=["reconstruction", "kl", "entropy", "importance_weighted_nll"]
            + ["negative_log_likelihood"] * self.decodes_all,
            kl_weight=kl_weight,
            hidden_units=hidden_units,
            encoder=encoder,
            decoder=decoder,
            num_eval_samples=num_eval_samples,
            likelihood=likelihood,
            **kwargs,
        )

    def bounds(self, posterior, loss_fn):
        figures = all_bounds(
            posterior,
            loss_fn,
            self.num_eval_samples,
            self.decodes_all,
            self.likelihood.codes_at_once,
            self.evaluation_seed(),
        )
        return {**figures, "entropy": posterior.entropy()}

    def sample(self, num_images: int, seed: int | None = None) -> tf.Tensor:
        """Decodes draws from the uniform prior: expected images [num_images, *image]."""
        count = check_count(num_images, "num_images", 1)
        prior = self.posterior(tf.zeros([1, *self.posterior.parameter_shape]))
        return self.decode(prior.sample(count, two_seeds(seed)[0])[0])

    def get_config(self):
        return {
            **super().get_config(),
            "posterior": self.posterior.get_config(),
            "estimator": keras.saving.serialize_keras_object(self.estimator),
        }
