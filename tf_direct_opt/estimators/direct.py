"""Direct optimisation through argmax as an estimator layer."""

import keras
import tensorflow as tf

from tf_direct_opt import direct, schedules, solvers, tables
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
    batch where N = 1; N (K - 1) + 1 an example otherwise, one of them with gradient.

    Args:
        epsilon: number or schedule, in 1/nats; by default 0.1.
        difference: "toward_better", "away_from_worse" or "central".
        table: "all_codes" (N = 1), "single_flips", "linearised", or "auto", the exact one of the
            first two.
        seed: integer seed of the noise; None draws one.

    Reports:
        `epsilon` and `flip_rate`, the share of examples with z*(eps) != z*.

    References:
        Lorberbom et al., NeurIPS 2019, arXiv:1806.02867.
    """

    def __init__(self, epsilon=None, difference="toward_better", table="auto", seed=None, **kwargs):
        super().__init__(seed=seed, **kwargs)
        if epsilon is None:
            epsilon = DEFAULT_EPSILON
        direct.check_difference(difference)
        if table not in ["auto", *TABLES]:
            raise ValueError(f"Expected `table` in {['auto', *TABLES]}; received {table!r}.")
        self.epsilon = schedules.get(epsilon, "epsilon")
        self.difference = difference
        self.table = table
        self.solver = solvers.Categorical()
        self.report = Means(["epsilon", "flip_rate"])

    def estimate(self, posterior, loss_fn, step):
        logits = posterior.logits
        epsilon = schedules.value(self.epsilon, step)
        noise = sample_gumbel(tf.shape(logits), self.seeds.next())
        scores, code = perturbed_argmax(logits, noise, self.solver)
        table = self.table
        if table == "auto":
            table = "all_codes" if logits.shape[1] == 1 else "single_flips"
        loss, loss_table = TABLES[table](loss_fn, code)
        loss, slope = direct.loss_with_difference(
            loss, logits, scores, code, loss_table, epsilon, self.solver, self.difference
        )
        flipped = tf.reduce_any(slope != 0.0, axis=[1, 2])
        self.report.update_state({"epsilon": epsilon, "flip_rate": flipped}, tf.shape(loss)[0])
        return loss

    def get_config(self):
        return {
            **super().get_config(),
            "epsilon": schedules.serialize(self.epsilon),
            "difference": self.difference,
            "table": self.table,
        }
