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
from topoprior.spaces.spherical.harmonics import SphericalHarmonics, invariant_harmonics
from topoprior.spaces.spherical.manifold import SphericalSpaceForm
from topoprior.utils.plain import plain

_MOST = 120
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
    if isinstance(space, FlatManifold):
        lowest = Harmonics(space, count + 1, coordinates=space.rank < space.dim)
        return lowest.select(slice(1, None))
    if not isinstance(space, SphericalSpaceForm):
        raise TypeError(f"space: expected a flat manifold or a spherical space form, found {space!r}")
    parts: list[SphericalHarmonics] = []
    degree = 1
    while sum(part.num_features for part in parts) < count:
        part = invariant_harmonics(space.elements, degree)
        if part is not None:
            parts.append(part)
        degree += 1
    return SphericalHarmonics.join(parts)


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
    open_part = isinstance(space, FlatManifold) and space.rank < space.dim
    reach = math.sqrt(3) * open_scale

    def sample(num: int, generator: torch.Generator | None = None) -> Tensor:
        if not open_part:
            return space.sample_uniform(torch.Size([num]), torch.float64, torch.device("cpu"), generator)
        assert isinstance(space, FlatManifold)
        unit = torch.rand(num, space.dim, dtype=torch.float64, device="cpu", generator=generator)
        cell = unit[:, : space.rank] @ space.lattice.T
        across = 2 * unit[:, space.rank :] - 1
        return cell + reach * across @ space.across_basis.T

    generator = torch.Generator().manual_seed(0)
    if open_part:
        assert isinstance(space, FlatManifold)
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
    if isinstance(space, SphericalSpaceForm):
        count = space.dim + 1
        while True:
            lowest = low_harmonics(space, count)
            if _tells_apart(lowest(points), i, j, distance):
                return lowest
            count = lowest.num_features + 1
    assert isinstance(space, FlatManifold)
    harmonics = Harmonics(space, _MOST + 1).select(slice(1, None))
    values, eigenvalues = harmonics(points), harmonics.eigenvalues
    for count in range(space.dim + 1, _MOST):
        whole = eigenvalues[count] > eigenvalues[count - 1] * (1 + 1e-6)
        if whole and _tells_apart(values[:, :count], i, j, distance):
            return harmonics.select(slice(0, count))
    raise ValueError(f"space: no embedding of {space!r} by its {_MOST} lowest harmonics was found")


def _tells_apart(values: Tensor, i: Tensor, j: Tensor, distance: Tensor) -> bool:
    slope = (values[i] - values[j]).norm(dim=1) / distance
    return bool(slope.min() > _LEAST_SLOPE * slope.max())
