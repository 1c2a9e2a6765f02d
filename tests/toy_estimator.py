"""An estimator as somebody else would write it: one file; `test_extending.py` adds the line."""

import keras
import tensorflow as tf

from tf_direct_opt import posteriors
from tf_direct_opt.estimators import Estimator


@keras.saving.register_keras_serializable("toy")
class Reinforce(Estimator):
    """f(z) grad log q(z) at one draw z, without a baseline; for any posterior."""

    def __init__(self, posterior=None, seed=None, **kwargs):
        super().__init__(seed=seed, **kwargs)
        if posterior is not None:
            self.posterior = posteriors.get(posterior)

    def estimate(self, posterior, loss_fn, step):
        codes = posterior.sample(1, self.seeds.next())
        loss = loss_fn(codes)[:, 0]
        log_prob = posterior.log_prob(codes)[:, 0]
        return loss + tf.stop_gradient(loss) * (log_prob - tf.stop_gradient(log_prob))

    def get_config(self):
        family = isinstance(self.posterior, posteriors.Family)
        return {
            **super().get_config(),
            "posterior": self.posterior.get_config() if family else None,
        }
