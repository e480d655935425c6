"""Coverings: a space is given as cover / deck group, and its points as lifts, points of the cover."""

from topoprior.spaces.config import covering_from_config, covering_to_config
from topoprior.spaces.covering import Covering
from topoprior.spaces.flat import (
    Circle,
    Cylinder,
    Euclidean,
    FlatManifold,
    HalfTurnManifold,
    HantzscheWendt,
    Harmonics,
    KleinBottle,
    MoebiusBand,
    ProductWaves,
    Torus,
)
from topoprior.spaces.product import FlatProduct, Product
from topoprior.spaces.spherical import (
    LensSpace,
    RealProjectiveSpace,
    RotationGroup,
    Sphere,
    SphericalHarmonics,
    SphericalSpaceForm,
)

__all__ = [
    "Circle",
    "Covering",
    "Cylinder",
    "Euclidean",
    "FlatManifold",
    "FlatProduct",
    "HalfTurnManifold",
    "HantzscheWendt",
    "Harmonics",
    "KleinBottle",
    "LensSpace",
    "MoebiusBand",
    "Product",
    "ProductWaves",
    "RealProjectiveSpace",
    "RotationGroup",
    "Sphere",
    "SphericalHarmonics",
    "SphericalSpaceForm",
    "Torus",
    "covering_from_config",
    "covering_to_config",
]
