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
        self._turn = [2 * math.pi / p for p in self.periods]
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
        # Every product as places in the table of waves, and the same of its derivative along every axis.
        starts = [2 * sum(self.orders[:d]) for d in range(len(self.periods))]

        def places(waves: tuple[_Wave, ...]) -> tuple[int, ...]:
            return tuple(
                start + 2 * (k - 1) + sine for start, (k, sine) in zip(starts, waves, strict=True) if k
            )

        self._values = [(p, 1.0, places(waves)) for p, waves in enumerate(self.products)]
        self._slopes = []
        for d, period in enumerate(self.periods):
            terms = []
            for p, waves in enumerate(self.products):
                k, sine = waves[d]
                if k:  # cos' = -k sin, sin' = k cos
                    factor = k * 2 * math.pi / period * (1 if sine else -1)
                    terms.append((p, factor, places((*waves[:d], (k, not sine), *waves[d + 1 :]))))
            self._slopes.append(terms)

    def rows(self, x: Sequence[Tensor]) -> list[Tensor]:
        """The products at coordinates ``x``, a tensor (or row of one) an axis: P tensors of the same shape."""
        table = self._table(x)
        return [_product(table, places, x[0]) for _, _, places in self._values]

    def gradient(self, x: Sequence[Tensor], weights: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """sum_p w_p product_p, and its derivatives in every coordinate, for ``weights`` (P rows)."""
        table = self._table(x)
        value, *slopes = (_weighted(table, terms, weights, x[0]) for terms in (self._values, *self._slopes))
        return value, slopes

    def values_and_slopes(self, x: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The products (..., P), and their derivatives in every coordinate, (..., P) each."""
        table = self._table(x)
        slopes = []
        for terms in self._slopes:
            rows = [torch.zeros_like(x[0])] * len(self.products)
            for p, factor, places in terms:
                rows[p] = factor * _product(table, places, x[0])
            slopes.append(torch.stack(rows, -1))
        return torch.stack([_product(table, places, x[0]) for *_, places in self._values], -1), slopes

    def decay(self, scale: Sequence[Tensor]) -> list[Tensor]:
        """E[product(x + s eps)] / product(x) for normal eps: exp(-(2 pi k s / P)^2 / 2) over the axes."""
        squared = [(2 * math.pi / p * s).square() / 2 for p, s in zip(self.periods, scale, strict=True)]
        return [
            (-sum((order**2 * t for (order, _), t in zip(w, squared, strict=True)), squared[0] * 0)).exp()
            for w in self.products
        ]

    def _table(self, x: Sequence[Tensor]) -> list[Tensor]:
        """cos(k t) and sin(k t) for k = 1 ... order, axis by axis: one pair of calls, then sums of angles."""
        table: list[Tensor] = []
        for row, turn, order in zip(x, self._turn, self.orders, strict=True):
            axis: list[Tensor] = []
            if order:
                angle = row * turn
                axis = [angle.cos(), angle.sin()]
            for k in range(2, order + 1):
                half, rest = 2 * (k // 2 - 1), 2 * (k - k // 2 - 1)
                (c1, s1), (c2, s2) = axis[half : half + 2], axis[rest : rest + 2]
                axis.append(torch.addcmul(c1 * c2, s1, s2, value=-1))
                axis.append(torch.addcmul(s1 * c2, c1, s2))
            table += axis
        return table


def _product(table: list[Tensor], places: tuple[int, ...], like: Tensor) -> Tensor:
    if not places:
        return torch.ones_like(like)
    result = table[places[0]]
    for place in places[1:]:
        result = result * table[place]
    return result


def _weighted(
    table: list[Tensor],
    terms: Sequence[tuple[int, float, tuple[int, ...]]],
    weights: Sequence[Tensor],
    like: Tensor,
) -> Tensor:
    """sum over terms (p, f, places) of f w_p times the product."""
    total = None
    for p, factor, places in terms:
        row = _product(table, places, like)
        if total is None:
            total = row * weights[p]
            total = total if factor == 1 else total.mul_(factor)
        else:
            total = total.addcmul_(row, weights[p], value=factor)
    return torch.zeros_like(like) if total is None else total
