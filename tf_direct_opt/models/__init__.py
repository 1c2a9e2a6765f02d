"""Models composed of the estimators."""

from tf_direct_opt.models.discrete_vae import DiscreteVAE

__all__ = ["DiscreteVAE"]
