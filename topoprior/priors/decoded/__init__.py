"""Kernels decoded from points of a space: the topological weight prior."""

from topoprior.priors.decoded.checkpoints import pretrained_names, register_decoder
from topoprior.priors.decoded.decoder import KernelDecoder
from topoprior.priors.decoded.euclidean import EuclideanDecoderPrior
from topoprior.priors.decoded.family import PriorFamily
from topoprior.priors.decoded.fixed import FixedKernels, FixedKernelsPosterior
from topoprior.priors.decoded.harmonic import HarmonicDecoder
from topoprior.priors.decoded.linear import LinearDecoder, linear_decoder
from topoprior.priors.decoded.network import FrozenMLP, NetworkDecoder
from topoprior.priors.decoded.posterior import DecoderPosterior, EuclideanDecoderPosterior
from topoprior.priors.decoded.prior import DecoderPrior
from topoprior.priors.decoded.training import train_prior

__all__ = [
    "DecoderPosterior",
    "DecoderPrior",
    "EuclideanDecoderPosterior",
    "EuclideanDecoderPrior",
    "FixedKernels",
    "FixedKernelsPosterior",
    "FrozenMLP",
    "HarmonicDecoder",
    "KernelDecoder",
    "LinearDecoder",
    "NetworkDecoder",
    "PriorFamily",
    "linear_decoder",
    "pretrained_names",
    "register_decoder",
    "train_prior",
]
