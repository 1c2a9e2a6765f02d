"""Local expectation gradients: each variable enumerated, the others sampled."""

import keras
import tensorflow as tf

from tf_direct_opt import tables
from tf_direct_opt.checks import check_count
from tf_direct_opt.estimators.base import Estimator
from tf_direct_opt.perturbation import perturbed_argmax, sample_gumbel
from tf_direct_opt.slopes import attach_slope
from tf_direct_opt.solvers import Categorical


@keras.saving.register_keras_serializable("tf_direct_opt")
class LocalExpectation(Estimator):
    """p_i (f~_i - E_p f~_i) for each variable i, from the table of all single flips of a draw.

    It is the limit of the direct estimator as epsilon -> 0, averaged over the noise of the
    variable itself, and costs the same. Bias: none. Variance: from the other variables only;
    none where N = 1. Decoder evaluations: K for a whole batch where N = 1; N (K - 1) + 1 an
    example otherwise, one of them with gradient; with `num_flipped` = m, m (K - 1) + 1.

    Args:
        seed: integer seed of the noise; None draws one.
        num_flipped: variables an example that are enumerated, drawn anew in every step where the
            posterior is undecided; the gradient keeps its mean. None: all.

    Raises:
        ValueError: `num_flipped` out of range.
        ValueError, tf.errors.InvalidArgumentError: as `Estimator`.

    References:
        Titsias, Lazaro-Gredilla, "Local Expectation Gradients for Black Box Variational
        Inference", NeurIPS 2015.
    """

    def __init__(self, seed=None, num_flipped=None, **kwargs):
        super().__init__(seed=seed, **kwargs)
        self.num_flipped = (
            None if num_flipped is None else check_count(num_flipped, "num_flipped", 1)
        )

    def estimate(self, posterior, loss_fn, step):
        del step
        logits = posterior.logits
        noise = sample_gumbel(tf.shape(logits), self.seeds.next())
        _, code = perturbed_argmax(logits, noise, Categorical())
        weight = 1.0
        if self._draws_flips(logits.shape[1]):
            loss, table, weight = tables.drawn_flips(
                loss_fn, code, logits, self.num_flipped, 1.0, self.seeds.next()
            )
        else:
            make_table = tables.all_codes if logits.shape[1] == 1 else tables.single_flips
            loss, table = make_table(loss_fn, code)
        probabilities = tf.nn.softmax(tf.cast(tf.stop_gradient(logits), tf.float32))
        gaps = table - table[..., :1]  # Of large losses the mean would be rounded.
        mean = tf.reduce_sum(probabilities * gaps, axis=-1, keepdims=True)
        return attach_slope(loss, logits, weight * probabilities * (gaps - mean))

    def _draws_flips(self, num_variables):
        return self.num_flipped is not None and self.num_flipped < num_variables

    def get_config(self):
        return {**super().get_config(), "num_flipped": self.num_flipped}
