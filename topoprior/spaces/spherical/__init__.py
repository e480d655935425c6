"""S^n modulo a finite group of isometries: spheres, projective spaces, rotations, lens spaces."""

from topoprior.spaces.spherical.harmonics import SphericalHarmonics
from topoprior.spaces.spherical.manifold import Sphere, SphericalSpaceForm
from topoprior.spaces.spherical.named import LensSpace, RealProjectiveSpace, RotationGroup

__all__ = [
    "LensSpace",
    "RealProjectiveSpace",
    "RotationGroup",
    "Sphere",
    "SphericalHarmonics",
    "SphericalSpaceForm",
]
