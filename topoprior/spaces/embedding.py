"""Embedding of a quotient by its lowest harmonics, and the nearest-point retraction, for any group."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from topoprior.spaces.covering import Covering


_GRID = 4096  # points of the search grid, whatever the dimension
_MOST_FEATURES = 64
_LEAST_SLOPE = 0.4  # in the flattest direction, beside the slope of a wave of the longest period
_MOST_MONOMIALS = 6000
_STARTS = 8
_MOST_CURVED = 0.95  # of the way to a centre of curvature
_CHUNK = 4096  # queries searched at a time, to bound memory


class _Slopes:
    """What decides whether features embed: their slopes between points, and at points.

    Args:
        space, features: the space and the candidate features.
        points: where to look: lifts of the symmetric points, where either property fails first, and
            random ones.
        apart: pairs nearer than this are left to the derivative.
        least: the least slope that counts, everywhere.
    """

    def __init__(
        self,
        space: Covering,
        features: Callable[[Tensor], Tensor],
        points: Tensor,
        apart: float,
        least: float,
    ) -> None:
        i, j = torch.triu_indices(len(points), len(points), 1)
        distance = space.distance(points[i], points[j])
        far = distance > apart
        i, j, distance = i[far], j[far], distance[far]
        values = features(points).T.contiguous()
        self.dim, self.least = space.dim, least
        self.jacobian = _differences(space, features, points, 1e-4 * apart)
        self.between = (
            (values[:, i] - values[:, j]) / distance
        ).square()  # a row a feature: rows are added

    def embed(self, columns: list[int]) -> bool:
        """Whether these features are an immersion, and injective."""
        if self.between[columns].sum(0).min() < self.least**2:
            return False
        return bool(torch.linalg.svdvals(self.jacobian[:, columns])[:, self.dim - 1].min() > self.least)

    def select(self) -> list[int] | None:
        """The lowest features are added until they embed, then those that are not needed are dropped,
        highest first, down to Whitney's 2 dim + 1 (fewer may pass the check and still cross themselves).
        None if all of them do not embed.
        """
        most = len(self.between)
        columns = list(range(min(2 * self.dim + 1, most)))
        while not self.embed(columns):
            if len(columns) == most:
                return None
            columns.append(len(columns))
        for column in reversed(columns.copy()):
            rest = [c for c in columns if c != column]
            if len(rest) > 2 * self.dim and self.embed(rest):
                columns = rest
        return columns


def _jacobian(space: Covering, features: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Derivative of the features along tangent vectors at every row of x, (N, F, cover_dim)."""

    def along(v: Tensor, at: Tensor) -> Tensor:
        return features(space._move(at, v))

    # Backward, though jacfwd would do less: torch.compile cannot trace it here.
    return torch.func.vmap(torch.func.jacrev(along))(torch.zeros_like(x), x)


def _differences(space: Covering, features: Callable[[Tensor], Tensor], x: Tensor, step: float) -> Tensor:
    """The same by central differences: enough for a search, and many features cost as little as few."""
    eye = step * torch.eye(space.cover_dim, dtype=x.dtype, device=x.device)
    both = [features(space._move(x, v)) - features(space._move(x, -v)) for v in eye]
    return torch.stack(both, -1) / (2 * step)


def nearest_point(space: Covering, y: Tensor, grid: Tensor, reach: float, steps: int = 6) -> Tensor:
    """argmin_x |embed(x) - y|: Gauss-Newton steps from the best points of ``grid``, then from the best
    of them; the first steps are no longer than ``reach``.

    Only the last step is differentiated, a Newton step: at the solution its derivative is that of the nearest
    point by the implicit function theorem, H^-1 J^T with H the Hessian of |embed(x) - y|^2 / 2, also off the
    embedded space. Where H is not positive (beyond a centre of curvature) it is that of Gauss and Newton.
    """
    grid = grid.to(y)
    features = space.embed(grid)
    flat = y.reshape(-1, y.shape[-1])
    with torch.no_grad():
        x = torch.cat([_search(space, grid, features, part, reach) for part in flat.split(_CHUNK)])
        for _ in range(steps):
            x = space._move(x, _gauss_newton(space, x, flat))
    step = _gauss_newton(space, x, flat, curvature=_curvature(space, x, flat.detach()))
    return space._move(x, step).reshape(*y.shape[:-1], space.cover_dim)


def _curvature(space: Covering, x: Tensor, y: Tensor) -> Tensor:
    """What the Hessian of |embed(x) - y|^2 / 2 has besides J^T J, (N, cover_dim, cover_dim)."""

    def along(v: Tensor, at: Tensor, residual: Tensor) -> Tensor:
        return residual @ space.embed(space._move(at, v))

    if not len(x):  # vmap of second derivatives takes no empty batches
        return x.new_zeros(0, space.cover_dim, space.cover_dim)
    with torch.no_grad():
        second = torch.func.vmap(torch.func.jacrev(torch.func.grad(along)))
        return second(torch.zeros_like(x), x, space.embed(x) - y)


def _search(space: Covering, grid: Tensor, features: Tensor, y: Tensor, reach: float) -> Tensor:
    nearest = torch.cdist(y, features).topk(_STARTS, largest=False).indices
    y = y.unsqueeze(1).expand(-1, _STARTS, -1)
    x = grid[nearest].flatten(0, 1)
    for _ in range(3):  # short steps: the search must not leave the basin it starts in
        step = _gauss_newton(space, x, y.flatten(0, 1))
        x = space._move(x, step * (reach / step.norm(dim=-1, keepdim=True).clamp_min(reach)))
    x = x.unflatten(0, (-1, _STARTS))
    best = (space.embed(x) - y).square().sum(-1).argmin(-1)
    return x[torch.arange(len(x), device=x.device), best]


def _gauss_newton(space: Covering, x: Tensor, y: Tensor, curvature: Tensor | None = None) -> Tensor:
    """The tangent vector at x that leads nearest to y, in the linear approximation; or in the quadratic one."""
    jacobian = _jacobian(space, space.embed, x)
    residual = (y - space.embed(x)).unsqueeze(-1)
    normal = jacobian.transpose(-1, -2) @ jacobian
    size = normal.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
    eye = torch.eye(space.cover_dim, dtype=y.dtype, device=y.device)
    normal = normal + 1e-9 * size * eye  # y far off the image
    if space.cover_dim > space.dim:  # across the sphere there is no derivative: any number keeps it regular
        normal = normal + size * x.unsqueeze(-1) * x.unsqueeze(-2)
    if curvature is not None:
        factor = torch.linalg.cholesky_ex(normal)[0]
        inner = torch.linalg.solve_triangular(factor, curvature, upper=False)
        inner = torch.linalg.solve_triangular(factor, inner.mT, upper=False)
        broken = ~inner.isfinite().all(-1).all(-1)[..., None, None]  # a row of NaN must not stop the others
        lowest = torch.linalg.eigvalsh(torch.where(broken, 0.0, inner))[..., :1, None]
        normal = normal + torch.where(lowest > -_MOST_CURVED, curvature, 0.0)
    return torch.linalg.solve(normal, jacobian.transpose(-1, -2) @ residual).squeeze(-1)
