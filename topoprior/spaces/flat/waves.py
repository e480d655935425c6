"""Maps that are linear in deck-invariant harmonics, evaluated fast: sums of products of one-dimensional waves.

A harmonic is a sum of plane waves e^{i k . t}; where the lattice lies along the axes, plane waves are
products over the axes of cos(k t) and sin(k t), and most harmonics are a single such product (on the Klein
bottle all are: e^{imb} cos(na) or e^{imb} sin(na)). Coordinates come as rows, one contiguous tensor each,
so that every step is a plain vector operation.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from topoprior.spaces.flat.harmonics import Harmonics
from topoprior.utils.plain import plain

# One axis of a product: (order k, is it the sine), with (0, False) for the constant 1.
_Wave = tuple[int, bool]
_TOL = 1e-9


class ProductWaves:
    r"""g(x) = sum_p c_p prod_d f_pd(2 pi x_d / P_d) with every f = 1, cos(k t) or sin(k t).

    Args:
        harmonics: on a compact flat manifold whose lattice lies along the axes.
        coefficients: (harmonics.num_features, k), g(x) = harmonics(x) @ coefficients.
    """

    @plain
    def __init__(self, harmonics: Harmonics, coefficients: Tensor) -> None:
        periods = harmonics.covering.periods
        assert periods is not None
        self.periods: list[float] = periods.tolist()
        frequencies, cosine, sine = harmonics.plane_waves(coefficients.double().cpu())
        # A wave counts turns along the lattice vectors, which are the axes up to order and direction.
        turns = harmonics.covering.lattice.sign().long()
        frequencies = frequencies @ turns.T
        found: dict[tuple[_Wave, ...], Tensor] = {}
        for k, c, s in zip(frequencies.tolist(), cosine, sine, strict=True):
            for is_sine in itertools.product((False, True), repeat=len(k)):
                if any(b and order == 0 for b, order in zip(is_sine, k, strict=True)):
                    continue
                # e^{i k.t} = prod (cos |k|t + i sign(k) sin |k|t): collect the term, a power of i.
                count = sum(is_sine)
                sign = math.prod(-1 if b and order < 0 else 1 for b, order in zip(is_sine, k, strict=True))
                value = sign * (c, s, -c, -s)[count % 4]  # c cos + s sin = Re((c - i s) e^{i k.t})
                waves = tuple((abs(order), b) for order, b in zip(k, is_sine, strict=True))
                found[waves] = found.get(waves, torch.zeros_like(value)) + value
        largest = max(float(value.norm()) for value in found.values())
        kept = {waves: value for waves, value in found.items() if value.norm() > _TOL * largest}
        self.products = sorted(kept)
        self.matrix = torch.stack([kept[waves] for waves in self.products])  # (P, k), float64
        self.orders = [max(waves[d][0] for waves in self.products) for d in range(len(self.periods))]
        self._turn = [2 * math.pi / p for p in self.periods]
        self._tree = _tree(list(enumerate(self.products)), len(self.periods) - 1)

    def rows(self, x: Tensor | Sequence[Tensor], factor: Tensor | None = None) -> list[Tensor]:
        """The products at coordinates ``x``, one tensor an axis, times ``factor``: P tensors of one shape."""
        found: dict[int, Tensor] = {}
        _products(self._tree, self._tables(x), factor, found)
        return [found[p] if p in found else torch.ones_like(x[0]) for p in range(len(self.products))]

    def gradient(
        self, x: Tensor | Sequence[Tensor], weights: Sequence[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """sum_p w_p product_p, and its derivatives in every coordinate, for ``weights`` (P rows)."""
        value, slopes = _contract(self._tree, self._tables(x), weights, self._turn)
        return value, [torch.zeros_like(x[0]) if slope is None else slope for slope in slopes]

    def values_and_slopes(self, x: Tensor | Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The products (P, ...), and their derivatives in every coordinate (dim, P, ...)."""
        tables, one = self._tables(x), torch.ones_like(x[0])
        waves = [
            [table.get(wave, one) for table, wave in zip(tables, w, strict=True)] for w in self.products
        ]
        values = torch.stack([math.prod(factors[1:], start=factors[0]) for factors in waves])
        slopes = x[0].new_zeros(len(self.periods), *values.shape)
        for p, (factors, product) in enumerate(zip(waves, self.products, strict=True)):
            for d, (k, sine) in enumerate(product):
                if k:  # cos' = -k sin, sin' = k cos
                    slope = tables[d][k, not sine] * (k * self._turn[d] * (1 if sine else -1))
                    slopes[d, p] = math.prod(factors[:d] + factors[d + 1 :], start=slope)
        return values, slopes

    # --- what the search for the nearest kernel asks (kernels/nearest.py, kernels/planes.py) ------------

    extent = math.inf

    @property
    def mixing_axis(self) -> int | None:
        """An axis whose waves all have order 1, beside at most one other: g is linear in cos and sin of this coordinate."""
        axes = [d for d in range(len(self.periods)) if all(waves[d][0] == 1 for waves in self.products)]
        return axes[0] if axes and len(self.periods) <= 2 else None

    def linearize(self, x: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
        """basis^T g, (r, N), and its derivatives, (dim, r, N), at points ``x`` (dim, N)."""
        values, slopes = self.values_and_slopes(x)
        decoded = (self.matrix.to(basis) @ basis).T @ torch.cat([values[None], slopes])
        return decoded[0], decoded[1:]

    def cells(self) -> tuple[Tensor, Tensor]:
        """Centers of a regular grid, (G, dim), and its widths: 1/12 turn of the fastest wave of every axis."""
        counts = [12 * max(1, order) for order in self.orders]
        pairs = list(zip(self.periods, counts, strict=True))
        axes = [torch.arange(n, dtype=torch.float64) / n * period for period, n in pairs]
        grid = torch.cartesian_prod(*axes).reshape(-1, len(axes))
        return grid, torch.tensor([period / n for period, n in pairs], dtype=torch.float64)

    def apart(self, x: Tensor) -> Tensor:
        """Circles, on each of which 1/7 turn of its axis' fastest wave has about length 1: (G, 2 dim)."""
        orders = x.new_tensor([max(1, order) for order in self.orders])
        angle = x * x.new_tensor(self._turn)
        return orders.repeat(2) * torch.cat([angle.cos(), angle.sin()], -1) * (7 / (2 * math.pi))

    def decay(self, scale: Sequence[Tensor]) -> list[Tensor]:
        """E[product(x + s eps)] / product(x) for normal eps: exp(-(2 pi k s / P)^2 / 2) over the axes."""
        squared = [(2 * math.pi / p * s).square() / 2 for p, s in zip(self.periods, scale, strict=True)]
        return [
            (-sum((order**2 * t for (order, _), t in zip(w, squared, strict=True)), squared[0] * 0)).exp()
            for w in self.products
        ]

    def _tables(self, x: Tensor | Sequence[Tensor]) -> list[dict[_Wave, Tensor]]:
        """cos(k t) and sin(k t) for k = 1 ... order of every axis: one pair of calls, then sums of angles."""
        rows = x if isinstance(x, Tensor) else torch.stack(list(x))
        angle = rows * rows.new_tensor(self._turn).view(-1, *[1] * (rows.dim() - 1))
        tables = []
        for cosine, sine, order in zip(angle.cos(), angle.sin(), self.orders, strict=True):
            table: dict[_Wave, Tensor] = {(1, False): cosine, (1, True): sine} if order else {}
            for k in range(2, order + 1):
                i, j = k // 2, k - k // 2
                (c1, s1), (c2, s2) = ((table[n, False], table[n, True]) for n in (i, j))
                table[k, False] = torch.addcmul(c1 * c2, s1, s2, value=-1)
                table[k, True] = torch.addcmul(s1 * c2, c1, s2)
            tables.append(table)
        return tables


# Products by their wave along the last axis, those by the one along the axis before, ...: (axis, branches), and
# at the end the number of the product.
_Tree = tuple[int, "list[tuple[_Wave, _Tree | int]]"]


def _tree(products: list[tuple[int, tuple[_Wave, ...]]], axis: int) -> Any:
    if axis < 0:
        ((number, _),) = products
        return number
    waves = sorted({waves[axis] for _, waves in products})
    return axis, [(w, _tree([item for item in products if item[1][axis] == w], axis - 1)) for w in waves]


def _products(
    tree: Any, tables: list[dict[_Wave, Tensor]], factor: Tensor | None, found: dict[int, Tensor]
) -> None:
    """All products times ``factor``, by number; without a factor, the constant product is left out."""
    if isinstance(tree, int):
        if factor is not None:
            found[tree] = factor
        return
    axis, branches = tree
    for wave, branch in branches:
        here = tables[axis].get(wave)  # none for the constant
        together = factor if here is None else here if factor is None else here * factor
        _products(branch, tables, together, found)


def _contract(
    tree: Any, tables: list[dict[_Wave, Tensor]], weights: Sequence[Tensor], turn: list[float]
) -> tuple[Tensor, list[Tensor | None]]:
    """sum of weight times product over the tree, and its slopes along the axes up to the tree's."""
    if isinstance(tree, int):
        return weights[tree], []
    axis, branches = tree
    value: Tensor | None = None
    slopes: list[Tensor | None] = [None] * (axis + 1)
    for (k, sine), branch in branches:
        inner, inner_slopes = _contract(branch, tables, weights, turn)
        wave = tables[axis].get((k, sine))
        value = _plus(value, inner, wave)
        for d, slope in enumerate(inner_slopes):
            if slope is not None:
                slopes[d] = _plus(slopes[d], slope, wave)
        if k:  # cos' = -k sin, sin' = k cos
            turned = tables[axis][k, not sine]
            slopes[axis] = _plus(slopes[axis], inner, turned, k * turn[axis] * (1 if sine else -1))
    assert value is not None
    return value, slopes


def _plus(total: Tensor | None, a: Tensor, b: Tensor | None, factor: float = 1.0) -> Tensor:
    """total + factor a b, in place where total is a sum already; b = None stands for 1."""
    if b is None:
        return a if total is None else total + a
    if total is None:
        return a * b if factor == 1 else (a * b).mul_(factor)
    return torch.addcmul(total, a, b, value=factor)
