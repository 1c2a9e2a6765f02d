"""Implicit maximum likelihood estimation (I-MLE)."""

import keras

from tf_direct_opt.estimators.direct import Direct


@keras.saving.register_keras_serializable("tf_direct_opt")
class IMLE(Direct):
    """(z* - argmax{h + gamma - lambda grad f(z*)}) / lambda: perturb-and-MAP.

    The direct estimator with the loss linearised at z*; `epsilon` is I-MLE's lambda. Bias: that of
    direct, and that of the linearisation, which remains as epsilon -> 0. Decoder evaluations: one
    an example and one backward pass more.

    References:
        Niepert, Minervini, Franceschi, "Implicit MLE: Backpropagating Through Discrete Exponential
        Family Distributions", NeurIPS 2021.
    """

    def __init__(
        self, epsilon=None, difference="toward_better", table="linearised", seed=None, **kwargs
    ):
        super().__init__(epsilon, difference, table, seed, **kwargs)
