"""The nearest decodable kernel: min over z, alpha, beta of |w - alpha g(z) - beta 1|^2, for many kernels at once."""

from __future__ import annotations

import math
from typing import Protocol, cast

import torch
from torch import Tensor
from tqdm import tqdm

from topoprior.kernels.planes import MixesTwo, PlaneSearch
from topoprior.utils.checks import check_values
from topoprior.utils.least_squares import levenberg_marquardt
from topoprior.utils.plain import on_cpu

_STARTS, _BEHIND = 4, 0.15  # basins that are tried, if their cosines are not so much less than the best
_SCREEN = 4  # steps in each of them: after two the best basin may still look worse than another
_STEPS, _ROUNDS = 4, 6  # so many times so many steps in the best one
_REGION, _BASIN = (
    8,
    0.5,
)  # cells of the grid are taken together, and how near others are that share their basins
_SETTLED = 3e-5  # of what is left over: what gains less has arrived
_BLOCK = 16384  # kernels: their rows stay in a processor's cache
_SCORES = 1 << 18  # kernels x grid points at a time, likewise
_LONG = 100_000  # kernels: a few seconds, from which on progress is shown
_SPLITS = 3  # how often a cell of the grid is halved where the decoder changes fast
_ALIKE = 0.95  # the cosine within a cell


class Decodes(Protocol):
    """What the search needs of a decoder g of points of a space."""

    extent: float  # latents beyond it are not tried: infinite on a compact space

    def linearize(self, x: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
        """basis^T g, (r, N), and its derivatives, (dim, r, N), at points ``x`` (dim, N), for ``basis`` (k, r)."""

    def cells(self) -> tuple[Tensor, Tensor]:
        """A grid: centers of cells (G, dim) and their widths (dim,), below the length on which g changes."""

    def apart(self, x: Tensor) -> Tensor:
        """Coordinates (G, m) of points (G, dim): two nearer than 1 may be in one basin."""


@on_cpu
def nearest_kernels(
    decoder: Decodes, kernels: Tensor, *, offset: bool = True, progress: bool = False
) -> Tensor:
    r"""The z that minimize |w - alpha g(z) - b 1|^2 for every kernel w (b = 0 without ``offset``), (N, dim).

    At a given z the best alpha and b are known (:func:`amplitudes`): what is left to maximize is the squared cosine
    of w and g(z), both less their means (variable projection, Golub and Pereyra 1973). From the best points of a grid
    that are not in each other's basins, a few Levenberg-Marquardt steps; from the best of these more of them. Where one
    latent only mixes two kernels, as on the analytic Klein bottle, the other one alone is searched for, and exactly
    (:class:`~topoprior.kernels.planes.PlaneSearch`).

    Args:
        kernels: (N, k), float32 or float64.
        progress: show a bar on a terminal if there are many.

    Example:
        >>> import topoprior as tp
        >>> prior = tp.get_prior("klein-3x3")
        >>> kernels = 2 * prior.decode(torch.rand(10, 2)).flatten(1) + 1
        >>> found = prior.decode(nearest_kernels(prior.waves, kernels)).flatten(1)
        >>> alpha, level = amplitudes(kernels, found).split(1, -1)
        >>> torch.allclose(alpha * found + level, kernels, atol=1e-3)
        True
    """
    check_values("kernels", kernels)
    search: PlaneSearch | _Search
    if getattr(decoder, "mixing_axis", None) is None:
        search = _Search(decoder, kernels, offset)
    else:
        search = PlaneSearch(cast(MixesTwo, decoder), kernels, offset)
    quiet = not progress or len(kernels) < _LONG
    blocks = tqdm(kernels.split(search.block), desc="nearest kernels", leave=False, disable=quiet or None)
    return torch.cat([search(block) for block in blocks])


def amplitudes(kernels: Tensor, decoded: Tensor, *, offset: bool = True) -> Tensor:
    """The (alpha, b) that minimize |w - alpha g - b 1|^2, (N, 2), for kernels w and g (N, k)."""
    across = decoded - decoded.mean(-1, keepdim=True) if offset else decoded
    # A kernel that is flat but for rounding explains nothing that the constant does not.
    energy, least = across.square().sum(-1), 1e-12 * decoded.square().sum(-1)
    alpha = (kernels * across).sum(-1) / energy.masked_fill(energy <= least, torch.inf)
    level = (kernels - alpha[:, None] * decoded).mean(-1)
    return torch.stack([alpha, level if offset else torch.zeros_like(level)], -1)


class _Search:
    """The grid and what is known of its kernels; pixels are coordinates in the span of all of them."""

    block = _BLOCK

    def __init__(self, decoder: Decodes, like: Tensor, offset: bool) -> None:
        self.decoder, self.offset = decoder, offset
        self.basis = torch.eye(like.shape[-1], dtype=like.dtype, device=like.device)
        if offset:  # what is left to g beside the constant
            self.basis = self.basis - 1 / len(self.basis)
        grid, widths = (t.to(like) for t in decoder.cells())
        decoded = self._decode(grid)
        _, sizes, rows = torch.linalg.svd(decoded, full_matrices=False)
        self.basis = rows[sizes > 1e-5 * sizes[0]].T
        self.least = 1e-12 * decoded.square().sum(-1).max()
        for level in range(_SPLITS):
            grid = self._split(grid, widths / 2**level)
        apart = decoder.apart(grid)
        regions = _regions(apart, torch.arange(len(grid), device=grid.device), _REGION)
        size = max(map(len, regions))  # the shorter ones, by one or so, are filled up with their first cell
        order = torch.stack([torch.cat([i, i[:1].expand(size - len(i))]) for i in regions], 1)
        self.grid = grid[order]  # (size, regions, dim)
        self.direction = self._direction(grid)[order]
        # In one basin: regions side by side, or with the same kernel, or its negative, at another point.
        near = (torch.cdist(apart, apart) < _BASIN) | (
            (self._direction(grid) @ self._direction(grid).T).abs() > 0.9999
        )
        between = near[order.flatten()][:, order.flatten()].unflatten(1, order.shape).any(1)
        self.elsewhere = (~between.unflatten(0, order.shape).any(0)).to(like)

    def _decode(self, points: Tensor) -> Tensor:
        return self.decoder.linearize(points.T, self.basis)[0].T

    def _direction(self, points: Tensor) -> Tensor:
        decoded = self._decode(points)
        energy = decoded.square().sum(-1, keepdim=True)
        return decoded * energy.clamp_min(self.least).rsqrt()

    def _split(self, grid: Tensor, widths: Tensor) -> Tensor:
        """The cells, halved along every axis where the decoder's direction turns within."""
        here, turns = self._direction(grid), torch.zeros_like(grid[:, 0], dtype=torch.bool)
        for side in (*torch.diag(widths / 2), *torch.diag(-widths / 2)):
            turns |= (here * self._direction(grid + side)).sum(-1).abs() < _ALIKE
        corners = (
            widths
            / 4
            * torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * len(widths))
            .reshape(-1, len(widths))
            .to(grid)
        )
        return torch.cat([grid[~turns], (grid[turns, None] + corners).flatten(0, 1)])

    def __call__(self, kernels: Tensor) -> Tensor:
        tiny = torch.finfo(kernels.dtype).tiny
        targets = (kernels / kernels.norm(dim=-1, keepdim=True).clamp_min(tiny)) @ self.basis
        start, scores = self._starts(targets)
        # A basin whose best point of the grid is far behind does not catch up.
        row, column = (scores >= (1 - _BEHIND) * scores[:, :1]).nonzero(as_tuple=True)
        tried, errors = self._refine(targets[row], start[row, column].T.contiguous(), _SCREEN)
        every = errors.new_full(scores.shape, torch.inf)
        every[row, column] = errors
        places = torch.zeros_like(scores, dtype=torch.long)
        places[row, column] = torch.arange(len(row), device=row.device)
        error, best = every.min(-1, keepdim=True)
        x, error = tried[:, places.gather(-1, best).squeeze(-1)], error.squeeze(-1)
        active = torch.arange(len(kernels), device=row.device)
        for _ in range(_ROUNDS):  # the last ones for the few that still move
            x[:, active], now = self._refine(targets[active], x[:, active], _STEPS)
            moving = error[active] - now > _SETTLED * now + 1e-9
            error[active] = now
            active = active[moving]
        return x.clamp(-self.decoder.extent, self.decoder.extent).T

    def _starts(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The best points of the grid, each outside of the basins of those before, and their cosines:
        (N, starts, dim) and (N, starts)."""
        size, count = self.grid.shape[:2]
        found = []
        for part in targets.split(max(1, _SCORES // (size * count))):
            cosines = (part @ self.direction.flatten(0, 1).T).abs_().unflatten(1, (size, count))
            of_regions = cosines.amax(1)
            regions: list[Tensor] = []
            while len(regions) < _STARTS:
                regions.append(of_regions.max(-1).indices)  # argmax is slower
                of_regions = of_regions * self.elsewhere[regions[-1]]
            region = torch.stack(regions, -1)  # (n, starts)
            value, place = cosines.gather(2, region[:, None].expand(-1, size, -1)).max(1)
            found.append((self.grid[place, region], value))
        points, values = (torch.cat(t) for t in zip(*found, strict=True))
        return points, values

    def _refine(self, targets: Tensor, x: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        rows, extent = targets.T.contiguous(), self.decoder.extent

        def linearize(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            g, slopes = self.decoder.linearize(x.clamp(-extent, extent), self.basis)
            energy = g.square().sum(0).clamp_min(self.least)
            alpha = (rows * g).sum(0) / energy
            residual = rows - alpha * g
            # Derivatives of the residual at the best alpha (Kaufman 1975): -alpha times the slope across g.
            inner = (slopes * g).sum(1)
            gradient = -alpha * (slopes * residual).sum(1)
            normal = [[(a * b).sum(0) for b in slopes] for a in slopes]
            products = torch.stack([torch.stack(row) for row in normal]) - inner[:, None] * inner / energy
            if math.isfinite(extent):  # at the border, along it
                inside = (x.abs() <= extent).to(x)
                gradient, products = gradient * inside, products * inside * inside[:, None]
            return residual.square().sum(0), gradient, alpha.square() * products

        return levenberg_marquardt(linearize, x, steps)


def _regions(points: Tensor, index: Tensor, most: int) -> list[Tensor]:
    """``index`` in parts of at most ``most`` points that are near one another: halved along the longest extent."""
    if len(index) <= most:
        return [index]
    extents = points[index].amax(0) - points[index].amin(0)
    ordered = index[points[index, extents.argmax()].argsort()]
    half = (len(index) + 1) // 2
    return _regions(points, ordered[:half], most) + _regions(points, ordered[half:], most)
