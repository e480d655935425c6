"""Laws on spaces, their densities and divergences."""

from topoprior.distributions.divergences import cover_kl, register_cover_kl
from topoprior.distributions.kappa import kappa
from topoprior.distributions.power_spherical import PowerSpherical
from topoprior.distributions.pushforward import Pushforward
from topoprior.distributions.quadrature import wrapped_normal_nodes
from topoprior.distributions.theta import log_wrapped_normal
from topoprior.distributions.uniform import UniformOn
from topoprior.distributions.wrapped_normal import WrappedNormal

__all__ = [
    "PowerSpherical",
    "Pushforward",
    "UniformOn",
    "WrappedNormal",
    "cover_kl",
    "kappa",
    "log_wrapped_normal",
    "register_cover_kl",
    "wrapped_normal_nodes",
]
