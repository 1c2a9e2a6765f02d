"""The direct estimator among a few configurations drawn without replacement."""

import keras
import tensorflow as tf

from tf_direct_opt import direct, posteriors, schedules, solvers, tables
from tf_direct_opt.estimators.base import Estimator
from tf_direct_opt.estimators.direct import WARMUP_STEPS
from tf_direct_opt.metrics import Means
from tf_direct_opt.solvers.base import check_count


@keras.saving.register_keras_serializable("tf_direct_opt")
class Candidates(Estimator):
    """The epsilon-difference of z* and the best of M configurations, each with its own loss.

    With an independent zero-mean Gumbel for every configuration z* is an exact draw of the
    posterior, and z*(eps) is sought among the M highest perturbed scores, z* among them. In the
    limit of small epsilon the mean is the gradient of E[f] (Theorem 1) for every loss and two
    candidates or more: only the runner-up can overtake. For any posterior that can draw
    `gumbel_top_k`; the gradient towards its parameters is (s(z*) - s(z*(eps))) / eps with the
    sufficient statistics s.

    Bias: O(eps). Variance: O(1 / eps). Decoder evaluations: M an example, one of them with
    gradient.

    Args:
        posterior: name or `posteriors.Family` of what the parameters are of; None: independent
            categorical variables, the parameters are logits [B, N, K].
        num_candidates: M, 2 or more; no more than there are configurations are taken.
        epsilon: number or schedule, in 1/nats; by default 1 for 5000 steps, then 0.1.
        difference: "toward_better", "away_from_worse" or "central".
        seed: integer seed of the noise; None draws one.

    Reports:
        `epsilon` and `flip_rate`, the share of examples with z*(eps) != z*.

    References:
        Lorberbom et al., NeurIPS 2019, arXiv:1806.02867.
    """

    def __init__(
        self,
        posterior=None,
        num_candidates=16,
        epsilon=None,
        difference="toward_better",
        seed=None,
        **kwargs,
    ):
        super().__init__(seed=seed, **kwargs)
        direct.check_difference(difference)
        if epsilon is None:
            epsilon = schedules.two_phase(1.0, 0.1, WARMUP_STEPS)
        if posterior is not None:
            self.posterior = posteriors.get(posterior)
        self.num_candidates = check_count(num_candidates, "num_candidates", 2)
        self.epsilon = schedules.get(epsilon, "epsilon")
        self.difference = difference
        self.report = Means(["epsilon", "flip_rate"])

    def build(self, logits_shape):
        if isinstance(self.posterior, posteriors.Family):
            self.posterior.check_shape(logits_shape)
            self.built = True
        else:
            super().build(logits_shape)

    def estimate(self, posterior, loss_fn, step):
        epsilon = schedules.value(self.epsilon, step)
        count = min(self.num_candidates, posterior.num_configurations)
        scores, codes = posterior.gumbel_top_k(count, self.seeds.next())
        loss, losses = tables.of_candidates(loss_fn, codes)
        # They are the categories of one variable, whose logits lead to the parameters.
        first = tf.one_hot(tf.zeros_like(scores[:, 0], tf.int32), count)
        loss, slope = direct.loss_with_difference(
            loss,
            posterior.score(codes),
            scores,
            first,
            losses,
            epsilon,
            solvers.Categorical(),
            self.difference,
        )
        flipped = tf.reduce_any(slope != 0.0, axis=1)
        self.report.update_state({"epsilon": epsilon, "flip_rate": flipped}, tf.shape(loss)[0])
        return loss

    def draw(
        self,
        posterior: posteriors.Posterior,
        seed: tf.Tensor,  # [2] int
    ) -> tf.Tensor:
        """One perturbed argmax z* an example, as training draws it: codes [B, N, K]."""
        return posterior.gumbel_top_k(1, seed)[1][:, 0]

    def get_config(self):
        family = self.posterior
        return {
            **super().get_config(),
            "posterior": family.get_config() if isinstance(family, posteriors.Family) else None,
            "num_candidates": self.num_candidates,
            "epsilon": schedules.serialize(self.epsilon),
            "difference": self.difference,
        }
