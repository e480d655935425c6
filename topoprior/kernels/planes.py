"""The nearest kernel where one latent only mixes two: on every other latent's value the kernels are a plane."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

_POINTS = 12  # of the grid, a turn of the fastest wave of F
_OFF = 0.3  # steps of the grid: where A or B vanishes is a multiple of some turn as a rule
_STEPS = 4
_SLACK = 1e-5  # of F, rounding
_CLOSE = 0.01  # of F, by which the highest parabola may be the wrong one
_FLAT = 1e-12  # differences of F that are none
_BLOCK = 4096  # kernels: their rows, and those of the grid, stay in a processor's cache


class MixesTwo(Protocol):
    """What the search needs of a decoder g of points (a, b), or (b,) alone, of a torus."""

    periods: list[float]
    orders: list[int]  # of the fastest waves
    mixing_axis: int | None
    """Of b, where g is linear in cos and sin of 2 pi b / P, and beside it at most one other."""

    def linearize(self, x: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
        """basis^T g, (r, N), and its derivatives, (dim, r, N), at points ``x`` (dim, N), for ``basis`` (k, r)."""


class PlaneSearch:
    r"""The z that minimize :math:`|w - \alpha g(z) - \beta 1|^2` where :math:`g(a, b) = \cos b\, A(a) + \sin b\, B(a)`.

    Then alpha g(a, .) is any vector of the plane of A(a) and B(a), and only a is searched for: what the plane explains
    of w is :math:`F(a) = h^T G^{-1} h`, with h = (A, B)^T w and the Gram matrix G of A and B, which are trigonometric
    polynomials in a. The highest of the parabolas through a grid's maxima is the start of steps of the secant method on
    :math:`F' = 2 c^T h' - c^T G' c, c = G^{-1} h`. So the least distance is found, not only one that is least around it.

    Args:
        decoder: g.
        like: of the dtype and device, and with the number of pixels, of the kernels.
        offset: whether the constant is free; else beta = 0.
    """

    block = _BLOCK

    def __init__(self, decoder: MixesTwo, like: Tensor, offset: bool) -> None:
        assert decoder.mixing_axis is not None
        self.offset, self.dim, self.axis = offset, len(decoder.periods), decoder.mixing_axis
        others = [d for d in range(self.dim) if d != self.axis]
        self.radians = [period / (2 * math.pi) for period in decoder.periods]  # their length along the axes
        self.order = decoder.orders[others[0]] if others else 0
        count = _POINTS * 2 * self.order or 1
        angles = torch.arange(count, dtype=torch.float64, device=like.device) + _OFF
        angles *= 2 * math.pi / count
        points = angles.new_zeros(self.dim, count)
        for d in others:
            points[d] = angles * self.radians[d]
        basis = torch.eye(like.shape[-1], dtype=torch.float64, device=like.device)
        if offset:  # what is left to g beside the constant
            basis = basis - 1 / len(basis)
        value, slopes = decoder.linearize(points, basis)
        pair = torch.stack([value, slopes[self.axis] * self.radians[self.axis]])  # A and B at b = 0
        first, second = pair.mT
        gram = torch.stack([(x * y).sum(1) for x, y in ((first, first), (first, second), (second, second))])
        eps, largest = torch.finfo(like.dtype).eps, float(gram.abs().amax())
        # An energy that is 0 but for rounding, and a determinant whose rounding does not matter.
        self.least, self.least_det = 16 * eps * largest, 1e3 * eps * largest**2
        # Trigonometric polynomials through the values on the grid are the functions themselves.
        waves = self._waves(angles, self.order)[0].pinverse()
        self.pair = (pair @ waves).mT.flatten(0, 1).to(like)  # (2 (2 order + 1), k)
        self.gram = (gram @ self._waves(angles, 2 * self.order)[0].pinverse()).to(like)  # (3, 4 order + 1)
        first = self._scaled(first)
        second = self._scaled(second - (second * first).sum(1, keepdim=True) * first)
        planes = torch.stack([first, second])  # orthonormal
        half = count // 2
        # Where the second half of the circle has the planes of the first, as on the Klein bottle, the first is enough.
        turned = torch.einsum("ink,jnk->nij", planes[:, :half], planes[:, half : 2 * half])
        if half and (turned.square().sum((1, 2)) > 2 - 1e-6).all():
            planes, count = planes[:, :half], half
        self.count, self.step = count, 2 * math.pi / len(angles)
        self.short = 4 * math.sqrt(eps) * self.step
        self.planes = planes.flatten(0, 1).T.to(like)  # (k, 2 count)

    def _scaled(self, rows: Tensor) -> Tensor:
        energy = rows.square().sum(1, keepdim=True)
        return rows * energy.masked_fill(energy <= self.least, torch.inf).rsqrt()

    def _waves(self, angles: Tensor, order: int) -> tuple[Tensor, Tensor]:
        """1, cos a, sin a, cos 2a, ..., (2 order + 1, N), and their derivatives."""
        values, slopes = [torch.ones_like(angles)], [torch.zeros_like(angles)]
        cosine = c = angles.cos()
        sine = s = angles.sin()
        for k in range(1, order + 1):
            values += [c, s]
            slopes += [-k * s, k * c]
            c, s = c * cosine - s * sine, s * cosine + c * sine
        return torch.stack(values), torch.stack(slopes)

    def __call__(self, kernels: Tensor) -> Tensor:
        if self.offset:
            kernels = kernels - kernels.mean(-1, keepdim=True)
        tiny = torch.finfo(kernels.dtype).tiny
        # First by the largest number: its square may be more than the dtype has, or 0.
        unit = kernels / kernels.abs().amax(-1, keepdim=True).clamp_min(tiny)
        unit = unit / unit.norm(dim=-1, keepdim=True).clamp_min(tiny)
        of_planes = (unit @ self.planes).square_().unflatten(1, (2, -1)).sum(1)
        rows = (self.pair @ unit.T).unflatten(0, (2, -1))
        heights, places = self._peaks(of_planes).topk(min(2, self.count), 1)
        best = self._climb(rows, of_planes, places[:, 0])
        rivals = (heights[:, -1] > heights[:, 0] - _CLOSE).nonzero().flatten()
        second = self._climb(rows[..., rivals], of_planes[rivals], places[rivals, -1])
        best[:, rivals] = torch.where(second[1] > best[1, rivals], second, best[:, rivals])
        angle, _, c1, c2 = best
        z = [angle] * self.dim
        z[self.axis] = torch.atan2(c2, c1)
        return torch.stack([x * length for x, length in zip(z, self.radians, strict=True)], -1)

    def _peaks(self, of_planes: Tensor) -> Tensor:
        """How high the parabolas through three points of the grid are over its maxima; -1 elsewhere, (N, count)."""
        left, right = of_planes.roll(1, 1), of_planes.roll(-1, 1)
        bend = (2 * of_planes - left - right).clamp_min_(_FLAT)
        top = (of_planes >= left) & (of_planes >= right)
        return torch.addcdiv(of_planes, (right - left).square_(), bend, value=0.125).masked_fill_(~top, -1)

    def _climb(self, rows: Tensor, of_planes: Tensor, place: Tensor) -> Tensor:
        """The angle where F' is 0 beside a maximum of the grid, F and c there: (4, N)."""
        near = torch.stack([place - 1, place, place + 1], 1) % self.count
        left, at, right = of_planes.gather(1, near).unbind(1)
        curve = -(2 * at - left - right).clamp_min(_FLAT)  # F'' times the step's square
        middle, reach = (place.to(rows) + _OFF) * self.step, self.step
        angle = middle + ((left - right) / (2 * curve)).clamp(-0.5, 0.5) * reach
        bend = curve = curve / reach**2
        slope, found, c1, c2 = self._slope(rows, angle)
        for _ in range(_STEPS):
            to = (angle - slope / bend).clamp(middle - reach, middle + reach)
            new_slope, new_found, n1, n2 = self._slope(rows, to)
            # Where A or B vanishes a step may lead astray.
            good = (new_found >= found - _SLACK) & (new_found <= 1 + _SLACK)
            moved = to - angle
            secant = (new_slope - slope) / moved
            # Short steps say nothing of F'' but rounding.
            known = (moved.abs() > self.short) & (secant < 0.1 * curve)
            bend = torch.where(good, torch.where(known, secant, bend), 4 * bend)
            pairs = (angle, to), (slope, new_slope), (found, new_found), (c1, n1), (c2, n2)
            angle, slope, found, c1, c2 = (torch.where(good, new, old) for old, new in pairs)
        return torch.stack([angle, found, c1, c2])

    def _slope(self, rows: Tensor, angle: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """F', F and c for what kernels are on A and B, (2, 2 order + 1, N), at angles (N,)."""
        waves, turned = self._waves(angle, 2 * self.order)
        (h1, h2), (t1, t2) = ((rows * w[: rows.shape[1]]).sum(1) for w in (waves, turned))
        (g11, g12, g22), (t11, t12, t22) = self.gram @ waves, self.gram @ turned
        det = torch.addcmul(g11 * g22, g12, g12, value=-1).clamp_min(self.least_det)
        c1, c2 = (g22 * h1 - g12 * h2) / det, (g11 * h2 - g12 * h1) / det
        slope = 2 * (c1 * t1 + c2 * t2) - (c1 * (c1 * t11 + 2 * c2 * t12) + c2.square() * t22)
        return slope, c1 * h1 + c2 * h2, c1, c2
