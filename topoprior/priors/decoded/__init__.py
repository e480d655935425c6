"""Kernels decoded from points of a space: the topological weight prior."""

from topoprior.priors.decoded.fixed import FixedKernels, FixedKernelsPosterior
from topoprior.priors.decoded.posterior import DecoderPosterior, EuclideanDecoderPosterior
from topoprior.priors.decoded.prior import DecoderPrior, EuclideanDecoderPrior, pretrained_names
from topoprior.priors.decoded.training import train_prior

__all__ = [
    "DecoderPosterior",
    "DecoderPrior",
    "EuclideanDecoderPosterior",
    "EuclideanDecoderPrior",
    "FixedKernels",
    "FixedKernelsPosterior",
    "pretrained_names",
    "train_prior",
]
