"""The discrete variational auto-encoder."""

import keras
import tensorflow as tf

from tf_direct_opt import estimators, losses, posteriors, tables
from tf_direct_opt.checks import check_count
from tf_direct_opt.models.vae import VAE, sampled_bounds
from tf_direct_opt.seeds import two_seeds

PRIORS = ("uniform", "learned")


@keras.saving.register_keras_serializable("tf_direct_opt")
class DiscreteVAE(VAE):
    """A VAE with N categorical latent variables of K categories.

    Training minimises E_q f(x, z) + beta KL(q(z|x) || p(z)), with f = -log p(x | z) in nats,
    summed over pixels, averaged over the batch. The gradient of the first term towards the
    encoder is the estimator's. The prior p(z) = prod_i softmax(l_i)_{z_i} is uniform, l = 0, or l
    is learned with the rest: the KL is in closed form for both, and draws a learned prior to the
    posterior's average over the images. Trained by `fit` on images alone, as with any Keras
    model; no `loss` is given to `compile`.

    Args:
        num_variables: N.
        num_categories: K.
        estimator: name ("direct", "exact"), or an `estimators.Estimator`.
        epsilon: number or schedule for an estimator given by name; None leaves its default.
        kl_weight: beta, number or schedule of the optimizer's iterations.
        hidden_units: width of the hidden layer of the default encoder and decoder (P-300-NK and
            NK-300-P with ReLU, the paper's).
        encoder: Keras model, images [B, *image] -> [B, N * K] or [B, N, K]; None for the default.
        decoder: Keras model, codes [B, N * K] -> [B, *image] or [B, P], pixel logits or what
            else the likelihood takes of each pixel; None for the default.
        num_eval_samples: draws for the bounds reported by `evaluate` where N > 1.
        likelihood: of the pixels: "bernoulli", "gaussian", another name or object of `likelihoods`,
            or a function from the decoder's outputs to a TFP distribution.
        prior: "uniform" or "learned", of the codes; learned from the uniform one on.
        seed: integer seed of the estimator's noise (with an estimator given by name).

    Inputs: images [B, *image], values in [0, 1]; the Bernoulli likelihood expects them binary.

    `fit` reports loss, reconstruction, kl, kl_weight, code_perplexity and what the estimator
    reports. `evaluate` reports, with beta = 1 whatever the schedule: loss = the -ELBO,
    reconstruction, kl, code_perplexity, bits_per_dimension (-ELBO / (P log 2)), and
      * N = 1: negative_log_likelihood, -log p(x); this and the -ELBO exact, by enumeration;
      * N > 1: importance_weighted_nll, a bound on -log p(x); both from `num_eval_samples` draws.
    `predict` returns a dict of logits, probabilities and code [B, N, K], and reconstruction
    [B, *image], the image that is expected given the most probable code.

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
        kl_weight=1.0,
        hidden_units=300,
        encoder=None,
        decoder=None,
        num_eval_samples=100,
        likelihood="bernoulli",
        prior="uniform",
        seed=None,
        **kwargs,
    ):
        num_variables = check_count(num_variables, "num_variables", 1)
        num_categories = check_count(num_categories, "num_categories", 2)
        if prior not in PRIORS:
            raise ValueError(f"Expected `prior` in {PRIORS}; received {prior!r}.")
        settings = {"epsilon": epsilon, "seed": seed}
        bound = "negative_log_likelihood" if num_variables == 1 else "importance_weighted_nll"
        super().__init__(
            posteriors.get(
                "categorical", num_variables=num_variables, num_categories=num_categories
            ),
            estimators.get(
                estimator, **{name: given for name, given in settings.items() if given is not None}
            ),
            evaluated=["reconstruction", "kl", bound],
            kl_weight=kl_weight,
            hidden_units=hidden_units,
            encoder=encoder,
            decoder=decoder,
            num_eval_samples=num_eval_samples,
            likelihood=likelihood,
            **kwargs,
        )
        self.prior = prior
        self.prior_logits = None

    def build(self, input_shape):
        super().build(input_shape)
        if self.prior == "learned" and self.prior_logits is None:
            self.prior_logits = self.add_weight(
                shape=self.posterior.parameter_shape,
                initializer="zeros",
                dtype="float32",
                autocast=False,
                name="prior_logits",
            )

    def prior_of_codes(self) -> posteriors.Categorical:
        """p(z) as it is now, a batch of one."""
        if self.prior_logits is None:
            logits = tf.zeros(self.posterior.parameter_shape)
        else:
            logits = tf.convert_to_tensor(self.prior_logits)
        return posteriors.Categorical(logits[tf.newaxis])

    def kl(self, posterior):
        return posterior.kl_to(self.prior_of_codes())

    def sample(self, num_images, seed=None):
        """Decodes draws from the prior: expected images [num_images, *image]."""
        if self.prior == "uniform":
            return super().sample(num_images, seed)
        count = check_count(num_images, "num_images", 1)
        return self.decode(self.prior_of_codes().sample(count, two_seeds(seed)[0])[0])

    def _log_prior(
        self,
        codes: tf.Tensor,  # [B, S, N, K]
    ) -> tf.Tensor:
        """log p(z), nats: [B, S]."""
        shape = tf.shape(codes)
        flat = tf.reshape(codes, [1, -1, self.num_variables, self.num_categories])
        return tf.reshape(self.prior_of_codes().log_prob(flat), shape[:2])

    def bounds(self, posterior, loss_fn):
        """Exact by enumeration for one variable; from `num_eval_samples` draws for more."""
        uniform = self.prior == "uniform"
        if self.num_variables > 1:
            return sampled_bounds(
                posterior,
                lambda codes: tables.losses_of(loss_fn, codes),
                self.num_eval_samples,
                self.evaluation_seed(),
                None if uniform else self._log_prior,
            )
        every = tables.all_codes_loss(loss_fn, self.num_categories)
        log_prior = None if uniform else tf.nn.log_softmax(self.prior_of_codes().logits)[0, 0]
        return {
            "reconstruction": tf.reduce_sum(posterior.marginals()[:, 0] * every, axis=-1),
            "negative_log_likelihood": losses.exact_negative_log_likelihood(every, log_prior),
        }

    def get_config(self):
        return {
            **super().get_config(),
            "num_categories": self.num_categories,
            "prior": self.prior,
            "estimator": keras.saving.serialize_keras_object(self.estimator),
        }
