"""The direct estimator through a structured argmax, its loss by flips of single bits."""

import keras
import tensorflow as tf

from tf_direct_opt import binary, direct, posteriors, schedules, solvers, tables
from tf_direct_opt.checks import check_bool, check_count
from tf_direct_opt.estimators.base import Estimator
from tf_direct_opt.estimators.direct import DEFAULT_EPSILON
from tf_direct_opt.metrics import Means
from tf_direct_opt.perturbation import perturbed_argmax, sample_logistic
from tf_direct_opt.saving import SolverLayer, get_solver, serialize_solver

PERTURBATIONS = ("unary", "all")


@keras.saving.register_keras_serializable("tf_direct_opt")
class Flips(SolverLayer, Estimator):
    """The epsilon-difference for z* = argmax{sum_i h_i z_i + sum_{i<j} h_ij z_i z_j + noise}.

    Potentials [B, n + n (n - 1) / 2], or [B, n] without couplings, take the place of logits; their
    gradient is (s(z*) - s(z*(eps))) / eps with the sufficient statistics s. `loss_fn` sees codes
    [S, M, n, 2]. The same solver on other scores gives z*(eps), whatever the solver. What the
    noise is makes the law of z*:

    unary: logistic noise, the difference of two Gumbels, on each unary potential: the authors'
        choice, and the only one that scales with any solver. Without couplings z* is a draw of the
        Gibbs distribution; with them it has a law of its own ("perturb-and-MAP").
    all: logistic noise on every statistic, pairs too: a third law.

    The loss enters z*(eps) on the unary statistics, by single flips of z*: f~_i = f(z*, z_i := 1)
    - f(z*, z_i := 0), 0 on the pairs. That is biased where couplings make several bits flip at
    once and the loss is not additive in the bits; `Candidates` is not.

    Bias: O(eps) beside that. Variance: O(1 / eps). Decoder evaluations: n + 1 an example, one of
    them with gradient.

    Args:
        num_variables: n.
        solver: a name of `solvers.get` ("pairwise_binary": n <= 20; "pairwise_binary_max_flow":
            couplings >= 0; "pairwise_binary_milp"), a solver, or a callable scores -> statistics
            with the contract of `solvers.base`.
        couplings: False for independent variables, potentials [B, n]: then the solver has nothing
            to do.
        perturbation: one of the two above.
        epsilon: number or schedule, in 1/nats; by default 0.1.
        difference: "toward_better", "away_from_worse" or "central".
        seed: integer seed of the noise; None draws one.

    Raises:
        ValueError: arguments out of range, or that exclude each other.

    Reports:
        `epsilon` and `flip_rate`, the share of examples with z*(eps) != z*.

    Example:
        >>> estimator = Flips(3, seed=0)
        >>> loss_fn = lambda codes: tf.reduce_sum(codes[..., 1], axis=-1)
        >>> estimator(tf.ones([1, 6]), loss_fn=loss_fn, training=False).numpy()
        array([3.], dtype=float32)

    References:
        Lorberbom et al., NeurIPS 2019, arXiv:1806.02867, section 4.2.
    """

    def __init__(
        self,
        num_variables,
        solver="pairwise_binary",
        couplings=True,
        perturbation="unary",
        epsilon=None,
        difference="toward_better",
        seed=None,
        **kwargs,
    ):
        super().__init__(seed=seed, **kwargs)
        direct.check_difference(difference)
        if perturbation not in PERTURBATIONS:
            raise ValueError(
                f"Expected `perturbation` in {PERTURBATIONS}; received {perturbation!r}."
            )
        if epsilon is None:
            epsilon = DEFAULT_EPSILON
        self.num_variables = check_count(num_variables, "num_variables", 1)
        self.couplings = check_bool(couplings, "couplings")
        self.perturbation = perturbation
        self.epsilon = schedules.get(epsilon, "epsilon")
        self.difference = difference
        if not couplings:
            self.solver = posteriors.pairwise_binary.independent
        elif isinstance(solver, str):
            self.solver = solvers.get(solver, num_variables=num_variables)
        else:
            self.solver = get_solver(solver)
        if perturbation == "all" and isinstance(self.solver, solvers.PairwiseBinaryMaxFlow):
            raise ValueError(
                "Expected perturbation='unary' with the max-flow solver: noise on the couplings "
                "would make some of them negative. Please use another solver for 'all'."
            )
        self.posterior = posteriors.get(
            "pairwise_binary",
            num_variables=num_variables,
            couplings=couplings,
            solver=self.solver,
            unary_density=num_variables > binary.MAX_VARIABLES,
        )
        self.supports_jit = solvers.supports_jit(self.solver)
        self.report = Means(["epsilon", "flip_rate"])

    def build(self, potentials_shape):
        self.posterior.check_shape(potentials_shape)
        self.built = True

    def estimate(self, posterior, loss_fn, step):
        potentials, n = posterior.parameters, self.num_variables
        epsilon = schedules.value(self.epsilon, step)
        scores, statistics = self._perturb(potentials, self.seeds.next())
        loss, flips = tables.single_flips(loss_fn, binary.one_hot(statistics[:, :n]))
        table = flips[..., 1] - flips[..., 0]
        if self.couplings:
            table = binary.with_pairs(table, n)
        loss, slope = direct.loss_with_difference(
            loss, potentials, scores, statistics, table, epsilon, self.solver, self.difference
        )
        flipped = tf.reduce_any(slope != 0.0, axis=1)
        self.report.update_state({"epsilon": epsilon, "flip_rate": flipped}, tf.shape(loss)[0])
        return loss

    def draw(
        self,
        posterior: posteriors.Posterior,
        seed: tf.Tensor,  # [2] int
    ) -> tf.Tensor:
        """One perturbed argmax z* an example, as training draws it: codes [B, n, 2]."""
        _, statistics = self._perturb(posterior.parameters, seed)
        return binary.one_hot(statistics[:, : self.num_variables])

    def _perturb(self, potentials, seed):
        """Perturbed scores, and the statistics of z*."""
        batch, n = tf.shape(potentials)[0], self.num_variables
        if self.perturbation == "all":
            noise = sample_logistic([batch, potentials.shape[1]], seed)
        else:
            noise = sample_logistic([batch, n], seed)
            if self.couplings:
                noise = binary.with_pairs(noise, n)
        return perturbed_argmax(potentials, noise, self.solver)

    def get_config(self):
        return {
            **super().get_config(),
            "num_variables": self.num_variables,
            "solver": serialize_solver(self.solver) if self.couplings else None,
            "couplings": self.couplings,
            "perturbation": self.perturbation,
            "epsilon": schedules.serialize(self.epsilon),
            "difference": self.difference,
        }
