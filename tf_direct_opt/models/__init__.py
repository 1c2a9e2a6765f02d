"""Models composed of the estimators."""

from tf_direct_opt.models.discrete_vae import DiscreteVAE
from tf_direct_opt.models.mixture_vae import MixtureVAE
from tf_direct_opt.models.posterior_vae import PosteriorVAE
from tf_direct_opt.models.structured_vae import StructuredVAE

__all__ = ["DiscreteVAE", "MixtureVAE", "PosteriorVAE", "StructuredVAE"]
