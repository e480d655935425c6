"""Weight priors: what a Bayesian layer believes of its weights before it has seen data."""

from topoprior.priors.base import HE_GAIN, WeightPosterior, WeightPrior, normal_kl
from topoprior.priors.coordinates import Coordinates, Law, Part, StandardNormal, Uniform
from topoprior.priors.decoded import (
    DecoderPosterior,
    DecoderPrior,
    EuclideanDecoderPosterior,
    EuclideanDecoderPrior,
    FixedKernels,
    FixedKernelsPosterior,
    pretrained_names,
    train_prior,
)
from topoprior.priors.delta import DeltaPosterior
from topoprior.priors.empirical_bayes import BoundedScale
from topoprior.priors.mean_field import (
    CorrelatedGaussian,
    CorrelatedPosterior,
    Gaussian,
    Laplace,
    LogUniform,
    MeanFieldPosterior,
    MeanFieldPrior,
    ScaleMixture,
    StudentT,
)
from topoprior.priors.registry import (
    get_prior,
    load_prior,
    prior_names,
    priors_serving,
    register_format,
    register_prior,
)

__all__ = [
    "BoundedScale",
    "Coordinates",
    "CorrelatedGaussian",
    "CorrelatedPosterior",
    "DecoderPosterior",
    "DecoderPrior",
    "DeltaPosterior",
    "EuclideanDecoderPosterior",
    "EuclideanDecoderPrior",
    "FixedKernels",
    "FixedKernelsPosterior",
    "Gaussian",
    "HE_GAIN",
    "Laplace",
    "Law",
    "LogUniform",
    "MeanFieldPosterior",
    "MeanFieldPrior",
    "Part",
    "ScaleMixture",
    "StandardNormal",
    "StudentT",
    "Uniform",
    "WeightPosterior",
    "WeightPrior",
    "get_prior",
    "load_prior",
    "normal_kl",
    "pretrained_names",
    "prior_names",
    "priors_serving",
    "register_format",
    "register_prior",
    "train_prior",
]
