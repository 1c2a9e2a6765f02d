"""The VAE with a structured posterior over binary variables."""

import math

import keras
import tensorflow as tf

from tf_direct_opt import gibbs, losses, tables
from tf_direct_opt.estimators.structured_direct import StructuredDirect
from tf_direct_opt.models.vae import EVALUATION_SEED, VAE
from tf_direct_opt.solvers import pairwise_binary

STRUCTURES = ("pairwise", "none")

# Up to here `evaluate` decodes all 2^n codes: 2^15 of them serve a whole batch, and cost no more
# than a hundred draws for each of 500 images.
MAX_DECODED_VARIABLES = 15

# Codes that are decoded at once where all are: 13 MB of pixel logits for 784 pixels.
_DECODED_AT_ONCE = 4096


@keras.saving.register_keras_serializable("tf_direct_opt")
class StructuredVAE(VAE):
    """A VAE whose posterior couples n binary variables by pairwise potentials.

        q(z|x) = exp(sum_i h_i z_i + sum_{i<j} h_ij z_i z_j - log Z),    h = encoder(x)

    Training minimises E f(x, z*) + beta KL, with z* the perturbed argmax of `StructuredDirect`
    and f = -log p(x | z) in nats, summed over pixels, averaged over the batch. The decoder is that
    of `DiscreteVAE(num_variables=n, num_categories=2)`: it sees the bits as one-hots.

    What is trained, and what is a bound. The KL is that of the Gibbs distribution q, exact for
    n <= 20. With perturbation="configurations", or without couplings, z* is a draw of q and the
    loss at beta = 1 is the -ELBO. With noise on the unary potentials or on all statistics the law
    of z* is another one, of unknown density: the loss is then neither distribution's bound, but a
    surrogate. For n > 20 coupled variables the KL is that of the unary potentials alone, the
    authors' measure: a surrogate again, under every perturbation. What `evaluate` reports does
    not depend on how the encoder was trained: q is a distribution with a known density, so for
    n <= 20 its -ELBO and its importance-weighted bound are bounds on -log p(x), which say how
    good the *pair* of decoder and q is. They are not tighter than the encoder makes q fit.

    Args:
        num_variables: n.
        structure: "pairwise", or "none": no couplings, independent variables, at any n.
        solver: "enumerate" (n <= 20), "maxflow" (couplings >= 0) or "milp"; see
            `StructuredDirect`.
        perturbation: "configurations" (n <= 20), "unary" (the authors') or "all"; None: the first
            where `solver` enumerates, else the second.
        num_candidates: configurations that compete for z*(eps), under "configurations".
        nonnegative: whether couplings pass through a softplus; None: where the solver asks for it.
        epsilon: number or schedule; None leaves the default of the estimator.
        difference: "toward_better", "away_from_worse" or "central".
        kl_weight: beta, number or schedule of the optimizer's iterations; by default 0 for 5000
            steps, then 1.
        hidden_units: width of the hidden layer of the default encoder and decoder (P-300-d and
            2n-300-P with ReLU, d = n + n (n - 1) / 2).
        encoder: Keras model, images [B, *image] -> potentials [B, d]; None for the default.
        decoder: Keras model, codes [B, 2 n] -> pixel logits [B, *image] or [B, P]; None for the
            default.
        num_eval_samples: draws for what `evaluate` estimates.
        seed: integer seed of the estimator's noise.

    Inputs: images [B, *image], values in [0, 1]; a Bernoulli likelihood expects them binary.

    `fit` reports loss, reconstruction, kl, kl_weight, code_perplexity, epsilon and flip_rate.
    `evaluate` reports, with beta = 1:
      * loss = reconstruction + kl, the -ELBO of q, and its entropy;
      * importance_weighted_nll, a bound on -log p(x) from `num_eval_samples` draws of q;
      * unary_kl, the KL of the unary potentials alone, and perturbed_reconstruction, f at one
        perturbed argmax an image: the sum of these two is what the authors report. It is no bound;
      * n <= 15: negative_log_likelihood, -log p(x); it and the -ELBO are exact, by enumeration.
        Beyond, the reconstruction is estimated by `num_eval_samples` exact draws of q;
      * n > 20 with couplings: q is replaced by the independent variables of its unary potentials
        throughout, whose bounds are bounds, but not those of the structured posterior.
    `predict` returns a dict of potentials [B, d]; probabilities [B, n, 2], the marginals of q;
    code [B, n, 2], the most probable one; and reconstruction [B, *image], decoded from it.

    Raises:
        ValueError: arguments out of range, or an encoder or decoder whose output does not fit.

    Example:
        >>> model = StructuredVAE(num_variables=4, epsilon=0.3, kl_weight=1.0, seed=0)
        >>> model.compile(optimizer="adam")
        >>> images = tf.cast(tf.random.uniform([8, 5, 5]) > 0.5, tf.float32)
        >>> history = model.fit(images, verbose=0)
        >>> model.predict(images, verbose=0)["potentials"].shape
        (8, 10)

    References:
        Lorberbom et al., NeurIPS 2019, arXiv:1806.02867, section 4.2; Burda, Grosse,
        Salakhutdinov, "Importance Weighted Autoencoders", ICLR 2016.
    """

    posterior = "potentials"

    def __init__(
        self,
        num_variables=15,
        structure="pairwise",
        solver="enumerate",
        perturbation=None,
        num_candidates=16,
        nonnegative=None,
        epsilon=None,
        difference="toward_better",
        kl_weight=None,
        hidden_units=300,
        encoder=None,
        decoder=None,
        num_eval_samples=100,
        seed=None,
        **kwargs,
    ):
        if structure not in STRUCTURES:
            raise ValueError(f"Expected `structure` in {STRUCTURES}; received {structure!r}.")
        evaluated = [
            "reconstruction", "kl", "entropy", "unary_kl", "perturbed_reconstruction",
            "importance_weighted_nll",
        ]  # fmt: skip
        decodes_all = num_variables <= MAX_DECODED_VARIABLES
        super().__init__(
            num_variables=num_variables,
            num_categories=2,
            evaluated=evaluated + ["negative_log_likelihood"] * decodes_all,
            kl_weight=kl_weight,
            hidden_units=hidden_units,
            encoder=encoder,
            decoder=decoder,
            num_eval_samples=num_eval_samples,
            **kwargs,
        )
        if nonnegative is None:
            nonnegative = solver == "maxflow"
        elif solver == "maxflow" and not nonnegative:
            raise ValueError(
                "Expected `nonnegative` couplings with solver='maxflow'; received False. Please "
                "use 'enumerate' or 'milp' for couplings of any sign."
            )
        self.structure = structure
        self.nonnegative = nonnegative
        self.estimator = StructuredDirect(
            num_variables,
            solver,
            structure == "pairwise",
            perturbation,
            num_candidates,
            epsilon,
            difference,
            seed,
        )

    @property
    def posterior_shape(self):
        n = self.num_variables
        return (n if self.structure == "none" else pairwise_binary.num_statistics(n),)

    def encode(self, images, training=False):
        potentials = super().encode(images, training)
        if not self.nonnegative or self.structure == "none":
            return potentials
        unary, pairs = tf.split(potentials, [self.num_variables, -1], axis=-1)
        return tf.concat([unary, tf.nn.softplus(pairs)], axis=-1)

    def posterior_mode(self, potentials):
        _, probabilities = self.kl_and_probabilities(potentials)
        code = self.estimator.mode(potentials)
        return {
            "probabilities": probabilities,
            "code": code,
            "reconstruction": self.decode(code),
        }

    def kl_and_probabilities(self, potentials):
        n = self.num_variables
        kl, means = gibbs.kl_and_mean_statistics(self._proposal(potentials), n)
        # Sums over 2^n configurations round, and the perplexity takes logarithms.
        probabilities = tf.clip_by_value(means[:, :n], 0.0, 1.0)
        return kl, tf.stack([1.0 - probabilities, probabilities], axis=-1)

    def evaluation(self, potentials, loss_fn):
        n = self.num_variables
        potentials = tf.cast(potentials, tf.float32)
        proposal = self._proposal(potentials)
        log_prior = -n * math.log(2.0)
        bits = gibbs.sample(proposal, n, self.num_eval_samples, EVALUATION_SEED)
        if n <= MAX_DECODED_VARIABLES:
            every = self._losses_of_all(loss_fn)
            scores = pairwise_binary.configuration_scores(
                pairwise_binary.with_pairs(proposal, n), n
            )
            reconstruction = tf.reduce_sum(tf.nn.softmax(scores) * every, axis=-1)
            sampled = tf.gather(every, _index(bits), batch_dims=1)
            exact = {"negative_log_likelihood": losses.exact_negative_log_likelihood(every)}
        else:
            sampled = tables.losses_of(loss_fn, pairwise_binary.one_hot(bits))
            reconstruction = tf.reduce_mean(sampled, axis=-1)
            exact = {}
        log_ratios = gibbs.log_prob(proposal, bits) - log_prior
        perturbed = self.estimator.draw(potentials, EVALUATION_SEED)
        return {
            "reconstruction": reconstruction,
            "entropy": gibbs.entropy(proposal, n),
            "unary_kl": gibbs.kl_to_uniform(potentials[:, :n], n),
            "perturbed_reconstruction": loss_fn(perturbed[:, tf.newaxis])[:, 0],
            "importance_weighted_nll": losses.importance_weighted_nll(sampled, log_ratios),
            **exact,
        }

    def _proposal(self, potentials):
        """Potentials of the distribution whose density is known: without couplings for n > 20."""
        if self.num_variables <= pairwise_binary.MAX_VARIABLES:
            return potentials
        return potentials[:, : self.num_variables]

    def _losses_of_all(self, loss_fn):
        """Losses [B, 2^n] of all configurations, each decoded once for the whole batch."""
        n = self.num_variables

        def codes(index):  # [M] -> [1, M, n, 2]
            return pairwise_binary.one_hot(pairwise_binary.configuration_bits(index, n))[tf.newaxis]

        return tables.losses_in_chunks(loss_fn, codes, 2**n, _DECODED_AT_ONCE)

    def get_config(self):
        estimator = self.estimator.get_config()
        return {
            **super().get_config(),
            "structure": self.structure,
            "solver": estimator["solver"],
            "perturbation": estimator["perturbation"],
            "num_candidates": estimator["num_candidates"],
            "nonnegative": self.nonnegative,
            "epsilon": estimator["epsilon"],
            "difference": estimator["difference"],
            "seed": estimator["seed"],
        }


def _index(bits):
    """The numbers of configurations [..., n], the first bit the most significant: int32 [...]."""
    powers = 2 ** tf.range(bits.shape[-1] - 1, -1, -1)
    return tf.reduce_sum(tf.cast(bits, tf.int32) * powers, axis=-1)
