"""Embedding of a flat manifold by its harmonics, and the nearest-point retraction, for any group."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from topoprior.harmonics import Harmonics

if TYPE_CHECKING:
    from topoprior.coverings import FlatManifold

_GRID = 4096  # points of the search grid, whatever the dimension
_MOST_FEATURES = 64
_LEAST_SLOPE = 0.4  # in the flattest direction, beside the slope of a wave of the longest period
_STARTS = 8
_CHUNK = 4096  # queries searched at a time, to bound memory


def embedding_harmonics(space: FlatManifold) -> Harmonics:
    """A small set of low harmonics (constant left out) whose map is an immersion and injective.

    The lowest ones are added until both hold, then those that are not needed are dropped, highest
    first, down to Whitney's 2 dim + 1 features (fewer may pass the check and still cross themselves).
    Both are checked on a grid that contains the symmetric points of the cell, where either fails
    first, and on random points.
    """
    points = torch.cat([_grid(space, 256), _random(space, 344)])
    i, j = torch.triu_indices(len(points), len(points), 1)
    distance = space.distance(points[i], points[j])
    far = distance > 0.1 * space.lattice.norm(dim=0).min()
    i, j, distance = i[far], j[far], distance[far].unsqueeze(-1)
    lowest = Harmonics(space, 1 + _MOST_FEATURES, coordinates=space.rank < space.dim)
    lowest = lowest.select(slice(1, None))
    features = lowest(points)
    jacobian = torch.func.vmap(torch.func.jacfwd(lowest))(points)
    slopes = ((features[i] - features[j]) / distance).square()

    least = _LEAST_SLOPE * 2 * math.pi / space.lattice.norm(dim=0).max()

    def embeds(columns: list[int]) -> bool:
        if slopes[:, columns].sum(-1).min() < least**2:
            return False
        return bool(torch.linalg.svdvals(jacobian[:, columns])[:, -1].min() > least)

    columns = list(range(2 * space.dim + 1))
    while not embeds(columns):
        if len(columns) == _MOST_FEATURES:
            raise ValueError(f"no embedding of {space!r} by {_MOST_FEATURES} harmonics was found")
        columns.append(len(columns))
    for column in reversed(columns.copy()):
        rest = [c for c in columns if c != column]
        if len(rest) > 2 * space.dim and embeds(rest):
            columns = rest
    return lowest.select(columns)


def _random(space: FlatManifold, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    cell = torch.rand(count, space.rank, generator=generator, dtype=torch.float64)
    open_part = torch.randn(count, space.dim - space.rank, generator=generator, dtype=torch.float64)
    return cell @ space.lattice.T + open_part @ space.across_basis.T


def _grid(space: FlatManifold, count: int) -> Tensor:
    """About ``count`` points: a regular grid of the lattice cell, and of [-3, 3] across it."""
    side = max(4, 2 * round(count ** (1 / space.dim) / 2))
    lines = [torch.arange(side, dtype=torch.float64) / side] * space.rank
    lines += [torch.linspace(-3, 3, side, dtype=torch.float64)] * (space.dim - space.rank)
    points = torch.cartesian_prod(*lines).reshape(-1, space.dim)
    return points[:, : space.rank] @ space.lattice.T + points[:, space.rank :] @ space.across_basis.T


def nearest_point(space: FlatManifold, y: Tensor, steps: int = 6) -> Tensor:
    """argmin_x |embed(x) - y|: Gauss-Newton steps from the best grid points, then from the best of them.

    Only the last step is differentiated: at the solution its derivative, the pseudo-inverse of the
    Jacobian, is that of the exact map for every y on the embedded space.
    """
    grid = _grid(space, _GRID).to(y)
    features = space.embed(grid)
    flat = y.reshape(-1, y.shape[-1])
    with torch.no_grad():
        x = torch.cat([_search(space, grid, features, part) for part in flat.split(_CHUNK)])
        for _ in range(steps):
            x = _gauss_newton(space, x, flat)
    return _gauss_newton(space, x, flat).reshape(*y.shape[:-1], space.dim)


def _search(space: FlatManifold, grid: Tensor, features: Tensor, y: Tensor) -> Tensor:
    nearest = torch.cdist(y, features).topk(_STARTS, largest=False).indices
    y = y.unsqueeze(1).expand(-1, _STARTS, -1)
    x = grid[nearest].flatten(0, 1)
    longest = 0.1 * space.lattice.norm(dim=0).min().item()
    for _ in range(3):  # short steps: the search must not leave the basin it starts in
        step = _gauss_newton(space, x, y.flatten(0, 1)) - x
        x = x + step * (longest / step.norm(dim=-1, keepdim=True).clamp_min(longest))
    x = x.unflatten(0, (-1, _STARTS))
    best = (space.embed(x) - y).square().sum(-1).argmin(-1)
    return x[torch.arange(len(x), device=x.device), best]


def _gauss_newton(space: FlatManifold, x: Tensor, y: Tensor) -> Tensor:
    jacobian = torch.func.vmap(torch.func.jacfwd(space.embed))(x)
    residual = (y - space.embed(x)).unsqueeze(-1)
    normal = jacobian.transpose(-1, -2) @ jacobian
    damping = 1e-9 * normal.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]  # y far off the image
    normal = normal + damping * torch.eye(space.dim, dtype=y.dtype, device=y.device)
    return x + torch.linalg.solve(normal, jacobian.transpose(-1, -2) @ residual).squeeze(-1)
