"""The direct estimator among a few configurations drawn without replacement."""

import keras
import tensorflow as tf

from tf_direct_opt import candidates, direct, posteriors, schedules, solvers, tables
from tf_direct_opt.checks import check_bool, check_count
from tf_direct_opt.estimators.base import Estimator
from tf_direct_opt.estimators.direct import DEFAULT_EPSILON
from tf_direct_opt.metrics import Means
from tf_direct_opt.perturbation import check_finite, nan_unless_finite
from tf_direct_opt.slopes import attach_slope


@keras.saving.register_keras_serializable("tf_direct_opt")
class Candidates(Estimator):
    """Direct optimisation among M configurations, each with its own loss.

    With an independent zero-mean Gumbel for every configuration z* is an exact draw of the
    posterior, and z*(eps) is sought among the M highest perturbed scores, z* among them. For any
    posterior that can draw `gumbel_top_k`; the gradient towards its parameters is made of the
    statistics s of the candidates.

    averaged: the mean of (s(z*) - s(z*(eps))) / eps given the set of candidates, with the noise
        integrated out (`candidates.mean_difference`). In the limit eps -> 0, the default, the
        gradient is unbiased for every loss and has no variance of order 1 / eps. At a finite eps
        each pair of candidates pulls by 1 / eps at most, which keeps the posterior open: exact for
        M = 2, an approximation beyond.
    not averaged: the plain difference. Bias: O(eps). Variance: O(1 / eps).

    Decoder evaluations: M an example, one of them with gradient, or all with `decode_all`.

    Args:
        posterior: name or `posteriors.Family` of what the parameters are of; None: independent
            categorical variables, the parameters are logits [B, N, K].
        num_candidates: M, 2 or more; no more than there are configurations are taken.
        epsilon: number or schedule, in 1/nats; None: the limit, or, not averaged, 0.1.
        averaged: whether the noise is averaged out.
        decode_all: whether the loss, and with it the decoder's gradient, is the mean over the
            candidates by their probability of being z*, instead of that at z*; averaged only.
        difference: "toward_better", "away_from_worse" or "central", at a finite epsilon.
        seed: integer seed of the noise; None draws one.

    Raises:
        ValueError: arguments out of range, or that exclude each other; a `posterior` without
            `gumbel_top_k`; parameters of another shape than the posterior's.
        ValueError, tf.errors.InvalidArgumentError: as `Estimator`; a schedule out of range.

    Reports:
        `epsilon`, 0 for the limit; averaged: `first_probability`, that of z* given the candidates,
        1 where the posterior is certain; else `flip_rate`, the share of examples with
        z*(eps) != z*.

    Example:
        >>> family = posteriors.get("chain", num_variables=3, num_categories=2)
        >>> loss_fn = lambda codes: tf.reduce_sum(codes[..., 1], axis=-1)
        >>> Candidates(family, seed=0)(tf.ones([1, 14]), loss_fn=loss_fn, training=False).numpy()
        array([0.], dtype=float32)

    References:
        Lorberbom et al., NeurIPS 2019, arXiv:1806.02867; Kool, van Hoof, Welling, "Estimating
        gradients for discrete random variables by sampling without replacement", ICLR 2020.
    """

    def __init__(
        self,
        posterior=None,
        num_candidates=8,
        epsilon=None,
        averaged=True,
        decode_all=False,
        difference="toward_better",
        seed=None,
        **kwargs,
    ):
        super().__init__(seed=seed, **kwargs)
        direct.check_difference(difference)
        averaged = check_bool(averaged, "averaged")
        decode_all = check_bool(decode_all, "decode_all")
        if epsilon is None and not averaged:
            epsilon = DEFAULT_EPSILON
        if decode_all and not averaged:
            raise ValueError(
                "Expected averaged=True with decode_all=True, which takes the mean over the same "
                "noise; received averaged=False."
            )
        if posterior is not None:
            self.posterior = posteriors.get(posterior)
            if not hasattr(self.posterior.kind, "gumbel_top_k"):
                raise ValueError(
                    "Expected a `posterior` with `gumbel_top_k`, which draws the candidates; "
                    f"received {self.posterior.name!r}. Please take one of codes alone."
                )
        self.num_candidates = check_count(num_candidates, "num_candidates", 2)
        self.epsilon = None if epsilon is None else schedules.get(epsilon, "epsilon")
        self.averaged = averaged
        self.decode_all = decode_all
        self.difference = difference
        self.report = Means(["epsilon", "first_probability" if averaged else "flip_rate"])

    def build(self, logits_shape):
        if isinstance(self.posterior, posteriors.Family):
            self.posterior.check_shape(logits_shape)
            self.built = True
        else:
            super().build(logits_shape)

    def estimate(self, posterior, loss_fn, step):
        epsilon = None if self.epsilon is None else schedules.value(self.epsilon, step)
        count = min(self.num_candidates, posterior.num_configurations)
        drawn = posterior.gumbel_top_k(count, self.seeds.next())
        by = self._averaged if self.averaged else self._plain
        loss, watched = by(posterior, loss_fn, epsilon, *drawn)
        reported = {"epsilon": 0.0 if epsilon is None else epsilon, **watched}
        self.report.update_state(reported, tf.shape(loss)[0])
        return loss

    def _averaged(self, posterior, loss_fn, epsilon, scores, codes):
        """The loss with its gradient, and what is reported."""
        del scores  # Given the set of candidates their order says nothing more.
        if self.decode_all:
            losses = loss_fn(codes)
            table = loss_fn.compared(codes, losses)
        else:
            loss, table = tables.of_candidates(loss_fn, codes)
        table = check_finite(table, "losses of the candidates")
        slope, first = candidates.mean_difference(
            posterior.log_prob(codes), table, epsilon, self.difference
        )
        if self.decode_all:
            loss = tf.reduce_sum(first * losses, axis=-1)
        loss = attach_slope(nan_unless_finite(loss, table + slope), posterior.score(codes), slope)
        return loss, {"first_probability": first[:, 0]}

    def _plain(self, posterior, loss_fn, epsilon, scores, codes):
        loss, losses = tables.of_candidates(loss_fn, codes)
        # They are the categories of one variable, whose logits lead to the parameters.
        first = tf.one_hot(tf.zeros_like(scores[:, 0], tf.int32), scores.shape[1])
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
        return loss, {"flip_rate": tf.reduce_any(slope != 0.0, axis=1)}

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
            "epsilon": None if self.epsilon is None else schedules.serialize(self.epsilon),
            "averaged": self.averaged,
            "decode_all": self.decode_all,
            "difference": self.difference,
        }
