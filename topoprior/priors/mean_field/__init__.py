"""Independent weights, and Gaussians with correlated pixels."""

from topoprior.priors.mean_field.base import Gaussian, MeanFieldPrior
from topoprior.priors.mean_field.correlated import CorrelatedGaussian, CorrelatedPosterior
from topoprior.priors.mean_field.families import Laplace, LogUniform, ScaleMixture, StudentT
from topoprior.priors.mean_field.posterior import MeanFieldPosterior

__all__ = [
    "CorrelatedGaussian",
    "CorrelatedPosterior",
    "Gaussian",
    "Laplace",
    "LogUniform",
    "MeanFieldPosterior",
    "MeanFieldPrior",
    "ScaleMixture",
    "StudentT",
]
