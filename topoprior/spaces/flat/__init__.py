"""R^n modulo a discrete group of isometries: the torus, the Klein bottle, and any Bieberbach group."""

from topoprior.spaces.flat.harmonics import Harmonics
from topoprior.spaces.flat.manifold import FlatManifold
from topoprior.spaces.flat.named import (
    Circle,
    Cylinder,
    Euclidean,
    HalfTurnManifold,
    HantzscheWendt,
    KleinBottle,
    MoebiusBand,
    Torus,
)
from topoprior.spaces.flat.waves import ProductWaves

__all__ = [
    "Circle",
    "Cylinder",
    "Euclidean",
    "FlatManifold",
    "HalfTurnManifold",
    "HantzscheWendt",
    "Harmonics",
    "KleinBottle",
    "MoebiusBand",
    "ProductWaves",
    "Torus",
]
