"""N independent variables of K categories."""

import tensorflow as tf
import tensorflow_probability as tfp

from tf_direct_opt.checks import check_count
from tf_direct_opt.perturbation import (
    check_finite,
    nan_unless_finite,
    perturbed_argmax,
    sample_gumbel,
)
from tf_direct_opt.posteriors import top_down
from tf_direct_opt.posteriors.base import Posterior, check_codes
from tf_direct_opt.solvers.categorical import Categorical as CategoricalSolver


class Categorical(Posterior):
    """q(z) = prod_i softmax(h_i)_{z_i}: the posterior of the discrete VAE, exact at any N and K.

    Args:
        logits: [B, N, K], or [B, K] for one variable; unnormalised log-probabilities, nats.
        num_variables, num_categories: N and K where a model asks for the size of its parameters
            before it has them; read off the logits here.

    Raises:
        ValueError: logits of another rank, or of unknown N or K.

    Example:
        >>> posteriors.Categorical(tf.zeros([1, 2, 3])).log_partition().numpy().round(3)  # 2 log 3
        array([2.197], dtype=float32)
    """

    def __init__(
        self,
        logits: tf.Tensor,  # [B, N, K] or [B, K]
        num_variables: int | None = None,
        num_categories: int | None = None,
    ):
        logits = tf.convert_to_tensor(logits)
        if logits.shape.rank == 2:
            logits = logits[:, tf.newaxis]
        sizes = (num_variables, num_categories)
        if (
            logits.shape.rank != 3
            or None in logits.shape[1:]
            or not logits.shape[1:].is_compatible_with(sizes)
        ):
            raise ValueError(
                "Expected logits [B, K] or [B, N, K] of a known number of variables and "
                f"categories, N = {num_variables or 'any'} and K = {num_categories or 'any'}; "
                f"received shape {logits.shape}. Please reshape them."
            )
        self.parameters = self.logits = logits
        self.num_variables, self.num_categories = logits.shape[1:]

    @classmethod
    def parameter_shape(cls, num_variables: int, num_categories: int) -> tuple[int, ...]:
        return (
            check_count(num_variables, "num_variables", 1),
            check_count(num_categories, "num_categories", 2),
        )

    def mode(self):
        _, code = perturbed_argmax(self.logits, tf.zeros_like(self.logits), CategoricalSolver())
        return code

    def sample(self, count, seed):
        shape = [tf.shape(self.logits)[0], count, *self.logits.shape[1:]]
        noise = sample_gumbel(shape, seed)
        _, codes = perturbed_argmax(self.logits[:, tf.newaxis], noise, CategoricalSolver())
        return codes

    def gumbel_top_k(self, count, seed):
        """As for every posterior, one variable after the other; see `top_down.best_paths`."""
        logits = check_finite(tf.stop_gradient(self._wide), "logits")
        self._check_top(count)
        choices = tf.transpose(top_down.log_probs(logits), [1, 0, 2])[:, :, tf.newaxis]
        values, category = top_down.best_paths(
            tf.stop_gradient(self.log_partition()),
            choices,
            lambda state, choice: tf.zeros_like(choice),  # What was chosen does not matter.
            0,
            count,
            seed,
        )
        codes = nan_unless_finite(tf.one_hot(category, self.num_categories), logits)
        return values, codes

    def score(self, codes):
        check_codes(codes)
        return _inner(codes, self._wide)

    def log_prob(self, codes):
        check_codes(codes)
        return _inner(codes, tf.nn.log_softmax(self._wide))

    def log_partition(self):
        return tf.reduce_sum(tf.reduce_logsumexp(self._wide, axis=-1), axis=-1)

    def marginals(self):
        return tf.nn.softmax(self._wide)

    def kl_to_uniform(self):
        return self.kl_to(Categorical(tf.zeros([1, self.num_variables, self.num_categories])))

    def kl_to(
        self,
        prior: "Categorical",  # B or 1 distributions of the same variables
    ) -> tf.Tensor:
        """KL(q || prior), the sum of the variables', nats: [B]; differentiable towards both."""
        both = (tfp.distributions.Categorical(logits=one._wide) for one in (self, prior))
        return tf.reduce_sum(tfp.distributions.kl_divergence(*both), axis=-1)

    @property
    def _wide(self):
        return tf.cast(self.logits, tf.float32)


def _inner(
    codes,  # [B or 1, S, N, K]
    logits,  # [B, N, K]
):
    codes = tf.cast(codes, logits.dtype)
    if codes.shape[0] == 1:
        return tf.einsum("snk,bnk->bs", codes[0], logits)
    return tf.einsum("bsnk,bnk->bs", codes, logits)
