"""Posterior inference beyond the variational: samplers on the cover, and their diagnostics."""

from topoprior.inference.chains import Chain, Sampler, run_chain
from topoprior.inference.cyclical import cyclical
from topoprior.inference.diagnostics import Diagnostics, diagnose
from topoprior.inference.geometry import StateSpace
from topoprior.inference.hmc import HMC
from topoprior.inference.langevin import BAOAB
from topoprior.inference.natural import NaturalGradient
from topoprior.inference.potential import Potential, log_joint, log_prior
from topoprior.inference.samples import PosteriorSamples, Samples
from topoprior.inference.sampling import Plan, SamplingError, sample_density, sample_posterior

__all__ = [
    "BAOAB",
    "Chain",
    "Diagnostics",
    "HMC",
    "NaturalGradient",
    "Plan",
    "PosteriorSamples",
    "Potential",
    "Sampler",
    "Samples",
    "SamplingError",
    "StateSpace",
    "cyclical",
    "diagnose",
    "log_joint",
    "log_prior",
    "run_chain",
    "sample_density",
    "sample_posterior",
]
