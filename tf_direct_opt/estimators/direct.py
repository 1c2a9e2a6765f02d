"""Direct optimisation through argmax as an estimator layer."""

import keras
import tensorflow as tf

from tf_direct_opt import direct, epsilon_path, schedules, solvers, tables
from tf_direct_opt.checks import check_bool, check_count
from tf_direct_opt.estimators.base import Estimator
from tf_direct_opt.metrics import Means
from tf_direct_opt.perturbation import perturbed_argmax, sample_gumbel

# Right at step 0 of a training of any length. The schedule that trains best, a larger one while the
# KL is switched off, is `schedules.two_phase`: its length is known to who knows that of the run.
DEFAULT_EPSILON = 0.1

TABLES = {
    "all_codes": tables.all_codes,
    "single_flips": tables.single_flips,
    "linearised": tables.linearised,
}


@keras.saving.register_keras_serializable("tf_direct_opt")
class Direct(Estimator):
    """The epsilon-difference of two argmaxes under one noise (see `tf_direct_opt.direct`).

    Bias: (softmax(h) - softmax(h - eps f)) / eps against the true gradient, O(eps) for one-sided
    and O(eps^2) for central differences. Variance: O(1 / eps). Decoder evaluations: K for a whole
    batch where N = 1; N (K - 1) + 1 an example otherwise, one of them with gradient; with
    `num_flipped` = m, m (K - 1) + 1.

    Args:
        epsilon: number or schedule, in 1/nats, by default 0.1; or "flip_rate=0.1" or an
            `schedules.FlipRate`, which takes the epsilon at which a share of the argmaxes flip.
        difference: "toward_better", "away_from_worse" or "central".
        table: "all_codes" (N = 1), "single_flips", "linearised", or "auto", the exact one of the
            first two.
        seed: integer seed of the noise; None draws one.
        num_flipped: variables an example whose flips are decoded, drawn anew in every step where
            the posterior is undecided; the gradient keeps its mean. None: all.
        richardson: whether two steps, of epsilon and 2 epsilon, are combined so that the leading
            term of the bias cancels, at about 2.5 times the variance.

    Raises:
        ValueError: arguments out of range, or that exclude each other; a table or a flip rate that
            does not suit N; "linearised" with a `loss_fn` that is not differentiable.
        ValueError, tf.errors.InvalidArgumentError: as `Estimator`; a schedule out of range.

    Reports:
        `epsilon` and `flip_rate`, the share of examples with z*(eps) != z*.

    References:
        Lorberbom et al., NeurIPS 2019, arXiv:1806.02867.
    """

    def __init__(
        self,
        epsilon=None,
        difference="toward_better",
        table="auto",
        seed=None,
        num_flipped=None,
        richardson=False,
        **kwargs,
    ):
        super().__init__(seed=seed, **kwargs)
        if epsilon is None:
            epsilon = DEFAULT_EPSILON
        direct.check_difference(difference)
        if table not in ["auto", *TABLES]:
            raise ValueError(f"Expected `table` in {['auto', *TABLES]}; received {table!r}.")
        self.epsilon = schedules.get_epsilon(epsilon)
        self.difference = difference
        self.table = table
        self.num_flipped = (
            None if num_flipped is None else check_count(num_flipped, "num_flipped", 1)
        )
        if num_flipped is not None and table not in ("auto", "single_flips"):
            raise ValueError(
                f"Expected table='single_flips' with `num_flipped`; received {table!r}, which "
                "decodes no flips. Leave one of them out."
            )
        if num_flipped is not None and isinstance(self.epsilon, schedules.FlipRate):
            raise ValueError(
                "Expected a number or a schedule for `epsilon` with `num_flipped`; received a flip "
                "rate, which looks at all flips. Leave one of them out."
            )
        self.richardson = check_bool(richardson, "richardson")
        self.solver = solvers.Categorical()
        self.report = Means(["epsilon", "flip_rate"])

    def estimate(self, posterior, loss_fn, step):
        logits = posterior.logits
        noise = sample_gumbel(tf.shape(logits), self.seeds.next())
        scores, code = perturbed_argmax(logits, noise, self.solver)
        loss, table, weight = self._table(loss_fn, code, logits)
        epsilon = self._epsilon(logits, scores, code, table, step)
        rule = epsilon_path.richardson_difference if self.richardson else None
        loss, slope = direct.loss_with_difference(
            loss, logits, scores, code, table, epsilon, self.solver, self.difference, weight, rule
        )
        flipped = tf.reduce_any(slope != 0.0, axis=[1, 2])
        self.report.update_state({"epsilon": epsilon, "flip_rate": flipped}, tf.shape(loss)[0])
        return loss

    def draws_a_call(self, posterior):
        return 2 if self._draws_flips(posterior.logits.shape[1]) else 1

    def _draws_flips(self, num_variables):
        return self.num_flipped is not None and self.num_flipped < num_variables

    def _table(self, loss_fn, code, logits):
        """The loss [B], the table [B, N, K], and the weights of its rows."""
        num_variables = logits.shape[1]
        if self._draws_flips(num_variables):
            seed = self.seeds.next()
            return tables.drawn_flips(loss_fn, code, logits, self.num_flipped, 0.5, seed)
        table = self.table
        if table == "auto":
            table = "all_codes" if num_variables == 1 else "single_flips"
        return *TABLES[table](loss_fn, code), 1.0

    def _epsilon(self, logits, scores, code, table, step):
        if not isinstance(self.epsilon, schedules.FlipRate):
            return schedules.value(self.epsilon, step)
        rate, num_variables = self.epsilon.rate, logits.shape[1]
        if self.epsilon.over == "example" and not callable(rate) and rate * num_variables < 1:
            raise ValueError(
                f"Expected a flip rate over examples of at least one of {num_variables} variables, "
                f"{1 / num_variables:g}; received {rate:g}. Please give FlipRate(over='batch')."
            )
        critical = epsilon_path.critical_epsilon(scores, code, table, self.difference)
        return self.epsilon(critical, step)

    def get_config(self):
        return {
            **super().get_config(),
            "epsilon": schedules.serialize(self.epsilon),
            "difference": self.difference,
            "table": self.table,
            "num_flipped": self.num_flipped,
            "richardson": self.richardson,
        }
