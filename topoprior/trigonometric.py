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

import torch
from torch import Tensor

from topoprior.harmonics import Harmonics

# One axis of a product: (order k, is it the sine), with (0, False) for the constant 1.
_Wave = tuple[int, bool]
_TOL = 1e-9


class ProductWaves:
    r"""g(x) = sum_p c_p prod_d f_pd(2 pi x_d / P_d) with every f = 1, cos(k t) or sin(k t).

    Args:
        harmonics: on a compact flat manifold whose lattice lies along the axes.
        coefficients: (harmonics.num_features, k), g(x) = harmonics(x) @ coefficients.
    """

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

    def rows(self, x: Sequence[Tensor]) -> list[Tensor]:
        """The products at coordinates ``x``, one tensor an axis: P tensors of the same shape."""
        tables = self._tables(x)
        return [self._product(tables, waves, x[0]) for waves in self.products]

    def gradient(self, x: Sequence[Tensor], weights: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """sum_p w_p product_p, and its derivatives in every coordinate, for ``weights`` (P rows)."""
        tables = self._tables(x)
        value, slopes = torch.zeros_like(x[0]), [torch.zeros_like(x[0]) for _ in x]
        for waves, weight in zip(self.products, weights, strict=True):
            value = torch.addcmul(value, self._product(tables, waves, x[0]), weight)
            for d, (order, _) in enumerate(waves):
                if order:
                    slopes[d] = torch.addcmul(slopes[d], self._slope(tables, waves, d, x[0]), weight)
        return value, slopes

    def values_and_slopes(self, x: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The products (..., P), and their derivatives in every coordinate, (..., P) each."""
        tables = self._tables(x)
        value = torch.stack([self._product(tables, waves, x[0]) for waves in self.products], -1)
        slopes = [
            torch.stack([self._slope(tables, waves, d, x[0]) for waves in self.products], -1)
            for d in range(len(self.periods))
        ]
        return value, slopes

    def decay(self, scale: Sequence[Tensor]) -> list[Tensor]:
        """E[product(x + s eps)] / product(x) for normal eps: exp(-(2 pi k s / P)^2 / 2) over the axes."""
        squared = [(2 * math.pi / p * s).square() / 2 for p, s in zip(self.periods, scale, strict=True)]
        return [
            (-sum((order**2 * t for (order, _), t in zip(w, squared, strict=True)), squared[0] * 0)).exp()
            for w in self.products
        ]

    def _tables(self, x: Sequence[Tensor]) -> list[list[tuple[Tensor, Tensor]]]:
        """cos(k t) and sin(k t) for k = 1 ... order, an axis: one pair of calls, then double angles."""
        tables = []
        for row, period, order in zip(x, self.periods, self.orders, strict=True):
            table = []
            if order:
                angle = row * (2 * math.pi / period)
                table.append((angle.cos(), angle.sin()))
            for k in range(2, order + 1):
                (c1, s1), (c2, s2) = table[k // 2 - 1], table[k - k // 2 - 1]
                table.append((c1 * c2 - s1 * s2, s1 * c2 + c1 * s2))
            tables.append(table)
        return tables

    def _slope(
        self, tables: list[list[tuple[Tensor, Tensor]]], waves: tuple[_Wave, ...], axis: int, like: Tensor
    ) -> Tensor:
        """The product differentiated along an axis: cos' = -k sin, sin' = k cos."""
        order, is_sine = waves[axis]
        if order == 0:
            return torch.zeros_like(like)
        turned = (*waves[:axis], (order, not is_sine), *waves[axis + 1 :])
        factor = order * 2 * math.pi / self.periods[axis] * (1 if is_sine else -1)
        return self._product(tables, turned, like) * factor

    @staticmethod
    def _product(
        tables: list[list[tuple[Tensor, Tensor]]], waves: tuple[_Wave, ...], like: Tensor
    ) -> Tensor:
        result = None
        for table, (order, is_sine) in zip(tables, waves, strict=True):
            if order:
                wave = table[order - 1][is_sine]
                result = wave if result is None else result * wave
        return torch.ones_like(like) if result is None else result
