"""topoprior: Bayesian deep learning with topological weight priors."""

from topoprior.coverings import Circle, Covering, Euclidean, FlatManifold, KleinBottle, Torus
from topoprior.distributions import UniformOn, WrappedNormal
from topoprior.divergences import cover_kl, kappa
from topoprior.decoder_prior import DecoderPrior
from topoprior.inference import kl_divergence, posterior_mean, predict
from topoprior.layers import BayesConv2d, BayesLinear
from topoprior.priors import Gaussian, WeightPosterior, WeightPrior, get_prior, register_prior

__all__ = [
    "BayesConv2d",
    "BayesLinear",
    "DecoderPrior",
    "Gaussian",
    "WeightPosterior",
    "WeightPrior",
    "get_prior",
    "kl_divergence",
    "posterior_mean",
    "predict",
    "register_prior",
    "Circle",
    "Covering",
    "Euclidean",
    "FlatManifold",
    "KleinBottle",
    "Torus",
    "UniformOn",
    "WrappedNormal",
    "cover_kl",
    "kappa",
]
