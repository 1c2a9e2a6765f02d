"""A class and, for each class, a Gaussian component of it."""

import tensorflow as tf
import tensorflow_probability as tfp

from tf_direct_opt.checks import check_count
from tf_direct_opt.posteriors.base import check_shape
from tf_direct_opt.posteriors.categorical import Categorical

tfd = tfp.distributions


class ClassGaussian:
    """q(z, w) = softmax(h)_z N(w; mean_z, scale_z^2), under the prior uniform x N(0, I).

    The vocabulary is that of `base.Posterior`, but w is no configuration: it is drawn for every
    class at once, and what can be said of z alone is asked of `classes`.

    Args:
        parameters: [B, K (1 + 2 D)] = [h | means | scales before a softplus].
        num_categories: K.
        gaussian_dim: D.

    Attributes:
        classes: the `Categorical` of z.
        components: the K Gaussians of an example, a batch [B, K] of distributions over R^D.
    """

    parameter_name = "parameters"
    num_variables = 1

    def __init__(
        self,
        parameters: tf.Tensor,  # [B, K (1 + 2 D)]
        num_categories: int,
        gaussian_dim: int,
    ):
        shape = self.parameter_shape(num_categories, gaussian_dim)
        self.parameters = tf.convert_to_tensor(parameters)
        check_shape(self.parameters.shape, shape, "a class and its Gaussians")
        self.num_categories = num_categories
        self.gaussian_dim = gaussian_dim
        wide = tf.cast(self.parameters, tf.float32)
        size = num_categories * gaussian_dim
        logits, mean, scale = tf.split(wide, [num_categories, size, size], axis=-1)
        mean, scale = (
            tf.reshape(part, [-1, num_categories, gaussian_dim]) for part in (mean, scale)
        )
        self.classes = Categorical(logits)
        self.components = _gaussian(mean, tf.nn.softplus(scale) + 1e-4)

    @classmethod
    def parameter_shape(cls, num_categories: int, gaussian_dim: int) -> tuple[int, ...]:
        num_categories = check_count(num_categories, "num_categories", 1)
        return (num_categories * (1 + 2 * check_count(gaussian_dim, "gaussian_dim", 1)),)

    @property
    def logits(self) -> tf.Tensor:
        """h, float32 [B, K]."""
        return self.classes.logits[:, 0]

    @property
    def prior(self) -> tfp.distributions.Distribution:
        """N(0, I) over R^D."""
        return _gaussian(tf.zeros(self.gaussian_dim), tf.ones(self.gaussian_dim))

    def mode(self) -> tuple[tf.Tensor, tf.Tensor]:
        """The most probable class [B, 1, K] and the mean of its component [B, D]."""
        code = self.classes.mode()
        return code, tf.einsum("bnk,bkd->bd", code, self.components.mean())

    def marginals(self) -> tf.Tensor:
        """q(z = k): [B, 1, K]."""
        return self.classes.marginals()

    def component_kl(self) -> tf.Tensor:
        """KL(N(mean_k, scale_k^2) || N(0, I)) of every component, nats: [B, K]."""
        return tfd.kl_divergence(self.components, self.prior)

    def kl_to_prior(self) -> tf.Tensor:
        """KL(q || uniform x N(0, I)), nats: [B]; see `kl_to_prior`."""
        return kl_to_prior(self.classes, self.component_kl())


def _gaussian(mean, scale):
    # (MultivariateNormalDiag, the same distribution, cannot draw for a batch without examples.)
    return tfd.Independent(tfd.Normal(mean, scale), reinterpreted_batch_ndims=1)


def kl_to_prior(
    classes: Categorical,
    component_kl: tf.Tensor,  # [B, K]
) -> tf.Tensor:
    """KL(q(z) || uniform) + sum_k q(z = k) KL_k, nats: [B].

    Towards the logits of the classes only the first part has a gradient: there the KL_k count
    among the losses of the classes.
    """
    weights = tf.stop_gradient(classes.marginals()[:, 0])
    return classes.kl_to_uniform() + tf.reduce_sum(weights * component_kl, axis=-1)
