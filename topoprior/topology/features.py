"""The lowest harmonics of any space, flat or spherical: what decoders read and graph Laplacians show."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from topoprior.spaces.covering import Covering
from topoprior.spaces.flat.harmonics import Harmonics
from topoprior.spaces.flat.manifold import FlatManifold
from topoprior.spaces.spherical.harmonics import SphericalHarmonics
from topoprior.utils.plain import plain

_SAMPLES = 20_000
_LEAST_SLOPE = 0.25  # of an embedding, beside the slope of its lowest harmonic


def low_harmonics(space: Covering, count: int) -> Harmonics | SphericalHarmonics:
    """At least ``count`` of the lowest real invariant harmonics, the constant left out.

    On spherical space forms whole degrees are taken, so there may be more; on open flat manifolds
    harmonics times one open coordinate are among them.

    Raises:
        ValueError: Euclidean space, which has none.
        TypeError: a space that is neither flat nor spherical.

    Example:
        >>> import topoprior as tp
        >>> h = low_harmonics(tp.RealProjectiveSpace(2), 10)
        >>> h.num_features  # 5 of degree 2 and 9 of degree 4
        14
    """
    return space.low_harmonics(count)


class SpectralFeatures(NamedTuple):
    """Features that embed a space, uncorrelated and of unit variance under its uniform law.

    Attributes:
        features: lifts (..., cover_dim) -> (..., num).
        num: how many.
        sample: how many points -> lifts, uniform (on open directions, uniform within a standard width).
    """

    features: Callable[[Tensor], Tensor]
    num: int
    sample: Callable[..., Tensor]


@plain
def spectral_features(space: Covering, open_scale: float = 1.0) -> SpectralFeatures:
    """The lowest Laplace eigenfunctions that embed ``space``: those that a graph of data on it shows.

    An open direction is cut to an interval of standard deviation ``open_scale``, on which the lowest
    function that a graph sees is a sine, not the coordinate; products of two sines are features too.
    """
    reach = math.sqrt(3) * open_scale

    def sample(num: int, generator: torch.Generator | None = None) -> Tensor:
        return space.sample_window(num, reach, generator)

    generator = torch.Generator().manual_seed(0)
    if isinstance(space, FlatManifold) and space.open_dim:
        basis = space.across_basis

        def bent(x: Tensor) -> Tensor:
            across = x @ basis.to(x)
            sines = (across * (math.pi / 2 / reach)).sin()
            products = [sines[..., i : i + 1] * sines[..., i + 1 :] for i in range(basis.shape[1])]
            return torch.cat([space.embed(x + (sines - across) @ basis.T.to(x)), *products], -1)

        raw: Callable[[Tensor], Tensor] = bent
    else:
        raw = _lowest_embedding(space, sample(200, generator))
    values = raw(sample(_SAMPLES, generator))
    center = values.mean(0)
    variances, axes = torch.linalg.eigh((values - center).T @ (values - center) / len(values))
    whiten = axes / variances.sqrt()

    def features(x: Tensor) -> Tensor:
        return (raw(x) - center.to(x)) @ whiten.to(x)

    return SpectralFeatures(features, len(center), sample)


def _lowest_embedding(space: Covering, points: Tensor) -> Callable[[Tensor], Tensor]:
    """The fewest lowest harmonics, whole eigenspaces, that tell the given points apart."""
    i, j = torch.triu_indices(len(points), len(points), 1)
    distance = space.distance(points[i], points[j])
    for lowest in space.eigenspaces():
        if lowest.num_features > space.dim and _tells_apart(lowest(points), i, j, distance):
            return lowest
    raise ValueError(f"space: no embedding of {space!r} by its lowest harmonics was found")


def _tells_apart(values: Tensor, i: Tensor, j: Tensor, distance: Tensor) -> bool:
    slope = (values[i] - values[j]).norm(dim=1) / distance
    return bool(slope.min() > _LEAST_SLOPE * slope.max())
