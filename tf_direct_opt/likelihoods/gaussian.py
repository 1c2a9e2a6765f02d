"""Pixels of any value, around one that the decoder gives."""

import keras
import tensorflow_probability as tfp

from tf_direct_opt.likelihoods.base import WithScale


@keras.saving.register_keras_serializable("tf_direct_opt")
class Gaussian(WithScale):
    """N(decoder(z), scale^2) for every pixel.

    A density: its nats change with the units of the images, may be negative, and have no lower
    bound where a decoder can repeat images exactly. Images: any finite numbers; pictures show [0,
    1].

    Args:
        scale: standard deviation, the first one or the only one.
        learned: whether it is learned, as the decoder is.

    Raises:
        ValueError: `scale` that is not positive; `learned` that is not True or False.

    References:
        Rybkin, Daniilidis, Levine, "Simple and effective VAE training with calibrated decoders",
        ICML 2021, on learning one scale.
    """

    def distribution(self, outputs):
        return tfp.distributions.Normal(outputs[..., 0], self.scale)
