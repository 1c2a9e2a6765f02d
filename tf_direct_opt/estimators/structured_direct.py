"""Direct optimisation through a structured argmax: binary variables with pairwise potentials."""

import functools

import keras
import tensorflow as tf

from tf_direct_opt import direct, gibbs, schedules, solvers, tables
from tf_direct_opt.estimators.base import Estimator, check_loss_fn
from tf_direct_opt.estimators.direct import WARMUP_STEPS
from tf_direct_opt.metrics import Means
from tf_direct_opt.perturbation import check_finite, nan_unless_finite, perturbed_argmax
from tf_direct_opt.solvers import pairwise_binary

SOLVERS = {
    "enumerate": solvers.PairwiseBinary,
    "maxflow": solvers.PairwiseBinaryMaxFlow,
    # Noise leaves no ties.
    "milp": functools.partial(solvers.PairwiseBinaryMILP, ties="any"),
}

PERTURBATIONS = ("unary", "all", "configurations")


@keras.saving.register_keras_serializable("tf_direct_opt")
class StructuredDirect(Estimator):
    """The epsilon-difference for z* = argmax{sum_i h_i z_i + sum_{i<j} h_ij z_i z_j + noise}.

        loss = estimator(potentials, loss_fn=loss_fn, step=step, training=True)   # [B], nats

    Potentials [B, n + n (n - 1) / 2], or [B, n] without couplings, take the place of logits; their
    gradient is (s(z*) - s(z*(eps))) / eps with the sufficient statistics s. `loss_fn` sees codes
    [S, M, n, 2]. What the noise is makes the law of z*, and what is known of the loss:

    configurations: an independent zero-mean Gumbel for each of the 2^n configurations. z* is an
        exact draw of the Gibbs distribution (Theorem 2), and z*(eps) the best of the
        `num_candidates` highest perturbed scores, z* among them, each with its own loss. In the
        limit of small epsilon the mean is the gradient of E[f] (Theorem 1) for every loss and two
        candidates or more: only the runner-up can overtake. n <= 20.
    unary: logistic noise, the difference of two Gumbels, on each unary potential: the authors'
        choice, and the only one that scales with any solver. Without couplings it is the Gibbs
        distribution as well; with them z* has a law of its own ("perturb-and-MAP").
    all: logistic noise on every statistic, pairs too: a third law.

    Under the last two the loss enters z*(eps) on the unary statistics, by single flips of z*:
    f~_i = f(z*, z_i := 1) - f(z*, z_i := 0), 0 on the pairs. That is biased where couplings make
    several bits flip at once and the loss is not additive in the bits.

    Bias: O(eps) beside that. Variance: O(1 / eps). Decoder evaluations: n + 1 an example, or
    `num_candidates`, one of them with gradient.

    Args:
        num_variables: n.
        solver: "enumerate" (n <= 20), "maxflow" (couplings >= 0), "milp", or a callable scores ->
            statistics with the contract of `solvers.base`.
        couplings: False for independent variables, potentials [B, n]: then the solver has nothing
            to do, and any n will do.
        perturbation: one of the three above; None: "configurations" where that enumerates, "unary"
            for other solvers and for n > 20.
        num_candidates: 2 or more, under "configurations"; no more than 2^n are taken.
        epsilon: number or schedule, in 1/nats; by default 1 for 5000 steps, then 0.1.
        difference: "toward_better", "away_from_worse" or "central".
        seed: integer seed of the noise; None draws one.

    Raises:
        ValueError: arguments out of range, or that exclude each other.

    Reports:
        `epsilon` and `flip_rate`, the share of examples with z*(eps) != z*.

    Example:
        >>> estimator = StructuredDirect(3, seed=0)
        >>> loss_fn = lambda codes: tf.reduce_sum(codes[..., 1], axis=-1)
        >>> estimator(tf.ones([1, 6]), loss_fn=loss_fn, training=False).numpy()
        array([3.], dtype=float32)

    References:
        Lorberbom et al., NeurIPS 2019, arXiv:1806.02867, section 4.2.
    """

    def __init__(
        self,
        num_variables,
        solver="enumerate",
        couplings=True,
        perturbation=None,
        num_candidates=16,
        epsilon=None,
        difference="toward_better",
        seed=None,
        **kwargs,
    ):
        super().__init__(seed=seed, **kwargs)
        if epsilon is None:
            epsilon = schedules.two_phase(1.0, 0.1, WARMUP_STEPS)
        direct.check_difference(difference)
        if perturbation is None:
            enumerates = solver == "enumerate" and num_variables <= pairwise_binary.MAX_VARIABLES
            perturbation = "configurations" if enumerates else "unary"
        if perturbation not in PERTURBATIONS:
            raise ValueError(
                f"Expected `perturbation` in {PERTURBATIONS}; received {perturbation!r}."
            )
        if not callable(solver) and solver not in SOLVERS:
            raise ValueError(
                f"Expected `solver` in {list(SOLVERS)} or a callable scores -> statistics; "
                f"received {solver!r}."
            )
        if perturbation == "configurations" and solver != "enumerate":
            raise ValueError(
                "Expected solver='enumerate' with perturbation='configurations', which gives "
                f"noise to each of the 2^n configurations; received solver={solver!r}."
            )
        if not (isinstance(num_candidates, int) and num_candidates >= 2):
            raise ValueError(
                "Expected `num_candidates` to be an integer of 2 or more, z* and what may replace "
                f"it; received {num_candidates!r}."
            )
        if perturbation == "all" and solver == "maxflow":
            raise ValueError(
                "Expected perturbation='unary' with solver='maxflow': noise on the couplings "
                "would make some of them negative. Please use another solver for 'all'."
            )
        self.num_variables = num_variables
        self.solver = solver
        self.couplings = couplings
        self.perturbation = perturbation
        self.num_candidates = num_candidates
        self.epsilon = schedules.get(epsilon, "epsilon")
        self.difference = difference
        if perturbation == "configurations":
            pairwise_binary.check_num_variables(num_variables)
        if not couplings:
            self.solve = _independent
        else:
            self.solve = solver if callable(solver) else SOLVERS[solver](num_variables)
        self.supports_jit = solvers.supports_jit(self.solve)
        self.report = Means(["epsilon", "flip_rate"])

    def build(self, potentials_shape):
        n = self.num_variables
        size = pairwise_binary.num_statistics(n) if self.couplings else n
        if len(potentials_shape) != 2 or potentials_shape[1] != size:
            raise ValueError(
                f"Expected potentials [B, {size}] of {n} variables with couplings="
                f"{self.couplings}; received shape {tuple(potentials_shape)}."
            )
        self.built = True

    def call(
        self,
        potentials: tf.Tensor,  # [B, d]
        loss_fn=None,
        step=None,
        training=False,
    ) -> tf.Tensor:
        """Per-example loss [B]; the arguments are those of `Estimator.call`."""
        check_loss_fn(loss_fn)
        if not training:
            return loss_fn(self.mode(potentials)[:, tf.newaxis])[:, 0]
        step = self.seeds.num_drawn if step is None else step
        epsilon = schedules.value(self.epsilon, step)
        estimate = self._by_candidates if self._enumerates else self._by_flips
        loss, slope = estimate(potentials, loss_fn, epsilon, self.seeds.next())
        flipped = tf.reduce_any(slope != 0.0, axis=1)
        self.report.update_state({"epsilon": epsilon, "flip_rate": flipped}, tf.shape(loss)[0])
        return loss

    def mode(
        self,
        potentials: tf.Tensor,  # [B, d]
    ) -> tf.Tensor:
        """The configuration of the highest potential, as one-hots [B, n, 2]."""
        noise = tf.zeros_like(potentials)
        return self._code(perturbed_argmax(potentials, noise, self.solve)[1])

    def draw(
        self,
        potentials: tf.Tensor,  # [B, d]
        seed: tf.Tensor,  # [2] int
    ) -> tf.Tensor:
        """One perturbed argmax z* an example, as training draws it: one-hots [B, n, 2]."""
        if self._enumerates:
            return pairwise_binary.one_hot(self._candidates(potentials, 1, seed)[1][:, 0])
        return self._code(self._perturb(potentials, seed)[1])

    @property
    def _enumerates(self):
        return self.perturbation == "configurations"

    def _by_candidates(self, potentials, loss_fn, epsilon, seed):
        """`(loss [B], slope [B, M])`: M configurations are the categories of one variable."""
        count = min(self.num_candidates, 2**self.num_variables)
        scores, bits = self._candidates(potentials, count, seed)
        loss, losses = tables.of_candidates(loss_fn, pairwise_binary.one_hot(bits))
        statistics = pairwise_binary.statistics(bits)[..., : potentials.shape[1]]
        logits = tf.linalg.matvec(tf.cast(statistics, potentials.dtype), potentials)
        first = tf.one_hot(tf.zeros_like(scores[:, 0], tf.int32), count)
        return direct.loss_with_difference(
            loss, logits, scores, first, losses, epsilon, solvers.Categorical(), self.difference
        )

    def _by_flips(self, potentials, loss_fn, epsilon, seed):
        """`(loss [B], slope [B, d])`: the same solver on other scores gives z*(eps)."""
        scores, statistics = self._perturb(potentials, seed)
        loss, flips = tables.single_flips(loss_fn, self._code(statistics))
        table = flips[..., 1] - flips[..., 0]
        if self.couplings:
            table = pairwise_binary.with_pairs(table, self.num_variables)
        return direct.loss_with_difference(
            loss, potentials, scores, statistics, table, epsilon, self.solve, self.difference
        )

    def _candidates(self, potentials, count, seed):
        """`gibbs.gumbel_top_k`; NaN for potentials that are not finite."""
        checked = check_finite(tf.stop_gradient(tf.cast(potentials, tf.float32)), "potentials")
        scores, bits = gibbs.gumbel_top_k(checked, self.num_variables, count, seed)
        return scores, nan_unless_finite(bits, checked)

    def _perturb(self, potentials, seed):
        """Perturbed scores, and the statistics of z*."""
        batch, size = tf.shape(potentials)[0], potentials.shape[1]
        n = self.num_variables
        if self.perturbation == "all":
            noise = gibbs.sample_logistic([batch, size], seed)
        else:
            noise = gibbs.sample_logistic([batch, n], seed)
            if self.couplings:
                noise = pairwise_binary.with_pairs(noise, n)
        return perturbed_argmax(potentials, noise, self.solve)

    def _code(self, statistics):
        return pairwise_binary.one_hot(statistics[:, : self.num_variables])

    def get_config(self):
        return {
            **super().get_config(),
            "num_variables": self.num_variables,
            "solver": self.solver,
            "couplings": self.couplings,
            "perturbation": self.perturbation,
            "num_candidates": self.num_candidates,
            "epsilon": schedules.serialize(self.epsilon),
            "difference": self.difference,
        }


def _independent(
    scores: tf.Tensor,  # [B, n]
) -> tf.Tensor:
    """argmax of sum_i h_i z_i; ties go to 0."""
    return tf.cast(scores > 0.0, scores.dtype)
