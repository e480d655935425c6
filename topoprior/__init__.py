"""topoprior: Bayesian deep learning with topological weight priors."""

from topoprior.compilation import compile_posteriors
from topoprior.conversion import to_bayesian, to_deterministic
from topoprior.correlated import CorrelatedGaussian
from topoprior.coverings import Circle, Covering, Euclidean, FlatManifold, KleinBottle, Torus
from topoprior.decoder_prior import DecoderPrior
from topoprior.distributions import UniformOn, WrappedNormal
from topoprior.divergences import cover_kl, kappa
from topoprior.fixed_kernels import FixedKernels
from topoprior.identify import Identification, identify_covering
from topoprior.inference import (
    frozen_sample,
    kl_divergence,
    kl_per_layer,
    posterior_mean,
    predict,
    sample_outputs,
)
from topoprior.latent_priors import EuclideanDecoderPrior
from topoprior.latent_rates import faster_latents
from topoprior.layers import BayesConv1d, BayesConv2d, BayesConv3d, BayesConvTranspose2d, BayesLinear
from topoprior.lens import LensSpace
from topoprior.mean_field import Gaussian, MeanFieldPosterior, MeanFieldPrior
from topoprior.model_summary import summary
from topoprior.objectives import elbo_loss, kl_warmup
from topoprior.power_spherical import PowerSpherical
from topoprior.priors import WeightPosterior, WeightPrior, get_prior, register_prior
from topoprior.products import Product
from topoprior.projective import RealProjectiveSpace, RotationGroup
from topoprior.pushforward import Pushforward
from topoprior.scale_families import Laplace, LogUniform, ScaleMixture, StudentT
from topoprior.spaces import Cylinder, HalfTurnManifold, HantzscheWendt, MoebiusBand
from topoprior.spherical import Sphere, SphericalSpaceForm
from topoprior.uncertainty import expected_entropy, mutual_information, predictive_entropy
from topoprior.vae import CoveringVAE

__all__ = [
    "Cylinder",
    "HalfTurnManifold",
    "HantzscheWendt",
    "LensSpace",
    "MoebiusBand",
    "PowerSpherical",
    "Product",
    "Pushforward",
    "RealProjectiveSpace",
    "RotationGroup",
    "Sphere",
    "SphericalSpaceForm",
    "BayesConv1d",
    "BayesConv2d",
    "BayesConv3d",
    "BayesConvTranspose2d",
    "BayesLinear",
    "CorrelatedGaussian",
    "CoveringVAE",
    "Identification",
    "identify_covering",
    "DecoderPrior",
    "FixedKernels",
    "EuclideanDecoderPrior",
    "Gaussian",
    "Laplace",
    "LogUniform",
    "MeanFieldPosterior",
    "MeanFieldPrior",
    "ScaleMixture",
    "StudentT",
    "WeightPosterior",
    "WeightPrior",
    "get_prior",
    "compile_posteriors",
    "elbo_loss",
    "expected_entropy",
    "faster_latents",
    "frozen_sample",
    "kl_divergence",
    "kl_per_layer",
    "kl_warmup",
    "mutual_information",
    "posterior_mean",
    "predict",
    "predictive_entropy",
    "sample_outputs",
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
    "summary",
    "to_bayesian",
    "to_deterministic",
]
