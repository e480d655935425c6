"""topoprior: Bayesian deep learning with topological weight priors."""

from topoprior.coverings import Circle, Covering, Euclidean, FlatManifold, KleinBottle, Torus
from topoprior.distributions import UniformOn, WrappedNormal
from topoprior.divergences import cover_kl, kappa

__all__ = [
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
