"""N independent variables of K categories."""

import tensorflow as tf
import tensorflow_probability as tfp

from tf_direct_opt.perturbation import perturbed_argmax, sample_gumbel
from tf_direct_opt.posteriors import top_down
from tf_direct_opt.posteriors.base import Posterior
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
        >>> Categorical(tf.zeros([1, 2, 3])).log_partition().numpy().round(3)  # 2 log 3
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
        return (num_variables, num_categories)

    def mode(self):
        _, code = perturbed_argmax(self.logits, tf.zeros_like(self.logits), CategoricalSolver())
        return code

    def sample(self, count, seed):
        shape = [tf.shape(self.logits)[0], count, *self.logits.shape[1:]]
        noise = sample_gumbel(shape, seed)
        _, codes = perturbed_argmax(self.logits[:, tf.newaxis], noise, CategoricalSolver())
        return codes

    def gumbel_top_k(self, count, seed):
        logits = tf.stop_gradient(self._wide)
        seeds = tf.random.split(seed, 1 + self.num_variables)
        # Prefixes of codes: their log-mass, the greatest perturbed score below them, categories.
        mass = tf.stop_gradient(self.log_partition())[:, tf.newaxis]
        values = mass + sample_gumbel(tf.shape(mass), seeds[0])
        prefix = tf.zeros([tf.shape(logits)[0], 1, 0], tf.int32)
        for i in range(self.num_variables):
            share = tf.nn.log_softmax(logits[:, i])
            longer = mass[..., tf.newaxis] + share[:, tf.newaxis]  # [B, M, K]
            noise = sample_gumbel(tf.shape(longer), seeds[i + 1])
            children = top_down.given_maximum(longer + noise, values)
            size = values.shape[1] * self.num_categories
            values, place = tf.math.top_k(tf.reshape(children, [-1, size]), min(count, size))
            parent, category = place // self.num_categories, place % self.num_categories
            mass = tf.gather(tf.reshape(longer, [-1, size]), place, batch_dims=1)
            prefix = tf.gather(prefix, parent, batch_dims=1)
            prefix = tf.concat([prefix, category[..., tf.newaxis]], axis=-1)
        return values, tf.one_hot(prefix, self.num_categories)

    def score(self, codes):
        return _inner(codes, self._wide)

    def log_prob(self, codes):
        return _inner(codes, tf.nn.log_softmax(self._wide))

    def log_partition(self):
        return tf.reduce_sum(tf.reduce_logsumexp(self._wide, axis=-1), axis=-1)

    def marginals(self):
        return tf.nn.softmax(self._wide)

    def kl_to_uniform(self):
        posterior = tfp.distributions.Categorical(logits=self._wide)
        prior = tfp.distributions.Categorical(logits=tf.zeros_like(self._wide[0]))
        return tf.reduce_sum(tfp.distributions.kl_divergence(posterior, prior), axis=-1)

    @property
    def _wide(self):
        return tf.cast(self.logits, tf.float32)


def _inner(
    codes,  # [B or 1, S, N, K]
    logits,  # [B, N, K]
):
    if codes.shape[0] == 1:
        return tf.einsum("snk,bnk->bs", codes[0], logits)
    return tf.einsum("bsnk,bnk->bs", codes, logits)
