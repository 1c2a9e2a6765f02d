"""The VAE with a structured posterior over binary variables."""

import keras
import tensorflow as tf

from tf_direct_opt import binary, estimators, posteriors, solvers
from tf_direct_opt.checks import check_bool, check_count
from tf_direct_opt.models.vae import VAE, all_bounds
from tf_direct_opt.posteriors import PairwiseBinary
from tf_direct_opt.saving import get_solver, serialize_solver

STRUCTURES = ("pairwise", "none")

PERTURBATIONS = ("configurations", *estimators.flips.PERTURBATIONS)

# Short names, those of the first version and of the programs' flags.
_SOLVER_NAMES = {
    "enumerate": "pairwise_binary",
    "maxflow": "pairwise_binary_max_flow",
    "milp": "pairwise_binary_milp",
}

# Up to here `evaluate` decodes all 2^n codes: 2^15 of them serve a whole batch, and cost no more
# than a hundred draws for each of 500 images.
MAX_DECODED_VARIABLES = 15


@keras.saving.register_keras_serializable("tf_direct_opt")
class StructuredVAE(VAE):
    """A VAE whose posterior couples n binary variables by pairwise potentials.

        q(z|x) = exp(sum_i h_i z_i + sum_{i<j} h_ij z_i z_j - log Z),    h = encoder(x)

    Training minimises E f(x, z*) + beta KL, with z* the perturbed argmax of `estimators.Candidates`
    or `estimators.Flips` and f = -log p(x | z) in nats, summed over pixels, averaged over the
    batch. The decoder is that of `DiscreteVAE(num_variables=n, num_categories=2)`: it sees the
    bits as one-hots.

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
        solver: "pairwise_binary" (n <= 20), "pairwise_binary_max_flow" (couplings >= 0),
            "pairwise_binary_milp", "enumerate", "maxflow" and "milp" for short, or a solver of
            one's own; see `estimators.Flips`.
        perturbation: "configurations" (n <= 20), "unary" (the authors') or "all"; None: the first
            where `solver` is "pairwise_binary", by name, else the second.
        num_candidates: configurations that compete for z*(eps), under "configurations"; None: 8, or
            16 where the noise is not averaged out.
        averaged: whether the noise is averaged out given the candidates; see
            `estimators.Candidates`. None: under "configurations".
        nonnegative: whether couplings pass through a softplus; None: where the solver asks for it.
        epsilon: number or schedule; None leaves the default of the estimator, averaged the limit.
        difference: "toward_better", "away_from_worse" or "central".
        kl_weight: beta, number or schedule of the optimizer's iterations.
        hidden_units: width of the hidden layer of the default encoder and decoder (P-300-d and
            2n-300-P with ReLU, d = n + n (n - 1) / 2).
        encoder: Keras model, images [B, *image] -> potentials [B, d]; None for the default.
        decoder: Keras model, codes [B, 2 n] -> [B, *image] or [B, P], pixel logits or what
            else the likelihood takes of each pixel; None for the default.
        num_eval_samples: draws for what `evaluate` estimates.
        likelihood: of the pixels: "bernoulli", "gaussian", another name or object of `likelihoods`,
            or a function from the decoder's outputs to a TFP distribution.
        seed: integer seed of the estimator's noise.

    Inputs: images [B, *image], values in [0, 1]; the Bernoulli likelihood expects them binary.

    `fit` reports loss, reconstruction, kl, kl_weight, code_perplexity, epsilon and, averaged,
    first_probability, else flip_rate.
    `evaluate` reports, with beta = 1:
      * loss = reconstruction + kl, the -ELBO of q, its entropy, and bits_per_dimension;
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
        >>> loss = model.train_on_batch(images)
        >>> model(images)["potentials"].shape
        TensorShape([8, 10])

    References:
        Lorberbom et al., NeurIPS 2019, arXiv:1806.02867, section 4.2; Burda, Grosse,
        Salakhutdinov, "Importance Weighted Autoencoders", ICLR 2016.
    """

    def __init__(
        self,
        num_variables=15,
        structure="pairwise",
        solver="pairwise_binary",
        perturbation=None,
        num_candidates=None,
        nonnegative=None,
        epsilon=None,
        difference="toward_better",
        kl_weight=1.0,
        hidden_units=300,
        encoder=None,
        decoder=None,
        num_eval_samples=100,
        averaged=None,
        likelihood="bernoulli",
        seed=None,
        **kwargs,
    ):
        if structure not in STRUCTURES:
            raise ValueError(f"Expected `structure` in {STRUCTURES}; received {structure!r}.")
        num_variables = check_count(num_variables, "num_variables", 1)
        if averaged is not None:
            averaged = check_bool(averaged, "averaged")
        if nonnegative is not None:
            nonnegative = check_bool(nonnegative, "nonnegative")
        if isinstance(solver, str):
            solver = _SOLVER_NAMES.get(solver, solver)
        else:
            solver = get_solver(solver)
        needs_nonnegative = solver == "pairwise_binary_max_flow" or isinstance(
            solver, solvers.PairwiseBinaryMaxFlow
        )
        if nonnegative is None:
            nonnegative = needs_nonnegative
        elif needs_nonnegative and not nonnegative:
            raise ValueError(
                "Expected `nonnegative` couplings with the max-flow solver; received False. Please "
                "use 'pairwise_binary' or 'pairwise_binary_milp' for couplings of any sign."
            )
        enumerates = solver == "pairwise_binary"
        if perturbation is None:
            few = num_variables <= binary.MAX_VARIABLES
            perturbation = "configurations" if enumerates and few else "unary"
        if perturbation not in PERTURBATIONS:
            raise ValueError(
                f"Expected `perturbation` in {PERTURBATIONS}; received {perturbation!r}."
            )
        if averaged is None:
            averaged = perturbation == "configurations"
        if num_candidates is None:
            num_candidates = 8 if averaged else 16
        num_candidates = check_count(num_candidates, "num_candidates", 2)
        estimator: estimators.Estimator
        if perturbation == "configurations":
            if not enumerates:
                raise ValueError(
                    "Expected solver='pairwise_binary' with perturbation='configurations', which "
                    f"gives noise to each of the 2^n configurations; received solver={solver!r}."
                )
            binary.check_num_variables(num_variables)
            family = posteriors.get(
                "pairwise_binary",
                num_variables=num_variables,
                couplings=structure == "pairwise",
            )
            estimator = estimators.Candidates(
                family, num_candidates, epsilon, averaged, difference=difference, seed=seed
            )
        else:
            if averaged:
                raise ValueError(
                    "Expected perturbation='configurations' with averaged=True: only where every "
                    "configuration has noise of its own can it be averaged out; received "
                    f"perturbation={perturbation!r}."
                )
            # Noise leaves no ties.
            milp = solver == "pairwise_binary_milp"
            estimator = estimators.Flips(
                num_variables,
                solvers.PairwiseBinaryMILP(num_variables, ties="any") if milp else solver,
                structure == "pairwise",
                perturbation,
                epsilon,
                difference,
                seed,
            )
            family = estimator.posterior
        evaluated = [
            "reconstruction", "kl", "entropy", "unary_kl", "perturbed_reconstruction",
            "importance_weighted_nll",
        ]  # fmt: skip
        if num_variables <= MAX_DECODED_VARIABLES:
            evaluated.append("negative_log_likelihood")
        super().__init__(
            family,
            estimator,
            evaluated=evaluated,
            kl_weight=kl_weight,
            hidden_units=hidden_units,
            encoder=encoder,
            decoder=decoder,
            num_eval_samples=num_eval_samples,
            likelihood=likelihood,
            **kwargs,
        )
        self.structure = structure
        self.solver = solver
        self.perturbation = perturbation
        self.num_candidates = num_candidates
        self.averaged = averaged
        self.nonnegative = nonnegative

    def encode(self, images, training=False):
        potentials = super().encode(images, training)
        if not self.nonnegative or self.structure == "none":
            return potentials
        unary, pairs = tf.split(potentials, [self.num_variables, -1], axis=-1)
        return tf.concat([unary, tf.nn.softplus(pairs)], axis=-1)

    def bounds(self, posterior, loss_fn):
        n, seed = self.num_variables, self.evaluation_seed()
        unary = PairwiseBinary(posterior.parameters[:, :n], n, couplings=False)
        decode_all = n <= MAX_DECODED_VARIABLES
        at_once = self.likelihood.codes_at_once
        figures = all_bounds(posterior, loss_fn, self.num_eval_samples, decode_all, at_once, seed)
        # A draw of its own: under the seed of the others it would be the first of them.
        perturbed = self.estimator.draw(posterior, tf.random.fold_in(seed, -1))
        return {
            **figures,
            "entropy": posterior.entropy(),
            "unary_kl": unary.kl_to_uniform(),
            "perturbed_reconstruction": loss_fn(perturbed[:, tf.newaxis])[:, 0],
        }

    def get_config(self):
        estimator = self.estimator.get_config()
        return {
            **super().get_config(),
            "structure": self.structure,
            "solver": self.solver
            if isinstance(self.solver, str)
            else serialize_solver(self.solver),
            "perturbation": self.perturbation,
            "num_candidates": self.num_candidates,
            "averaged": self.averaged,
            "nonnegative": self.nonnegative,
            "epsilon": estimator["epsilon"],
            "difference": estimator["difference"],
            "seed": estimator["seed"],
        }
