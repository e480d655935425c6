"""Lattices: reduced bases, short vectors, integer linear algebra."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import torch
from torch import Tensor

from topoprior.utils.tracing import is_known_false

_TOL = 1e-6


def solvable(matrix: list[list[int]], target: list[int]) -> bool:
    """Whether ``matrix`` k = ``target`` has an integer solution, by column (Hermite) elimination."""
    columns = [list(c) for c in zip(*matrix, strict=True)]
    target = list(target)
    for row in range(len(target)):
        active = [c for c in columns if c[row]]
        while len(active) > 1:  # Euclid's algorithm on this row's entries
            pivot = min(active, key=lambda c: abs(c[row]))
            for c in active:
                if c is not pivot:
                    q = c[row] // pivot[row]
                    c[:] = [x - q * y for x, y in zip(c, pivot, strict=True)]
            active = [c for c in active if c[row]]
        if active:
            pivot = active[0]
            if target[row] % pivot[row]:
                return False
            q = target[row] // pivot[row]
            target = [x - q * y for x, y in zip(target, pivot, strict=True)]
            columns = [c for c in columns if c is not pivot]
        elif target[row]:
            return False
    return True


def short_vectors(columns: list[list[float]], bounds: list[float], radius: float) -> list[list[float]]:
    """All lattice vectors B k of length up to ``radius``, 0 first, then by length.

    In Python numbers, so that a search with a given radius can be traced by `torch.compile`.

    Args:
        columns: of B, r lists of n numbers.
        bounds: the lengths of the rows of B^+, as |k_i| <= |row i| |B k|.
    """
    ranges = [range(-math.floor(b * radius + _TOL), math.floor(b * radius + _TOL) + 1) for b in bounds]
    found = []
    for k in itertools.product(*ranges):
        vector = [sum(c * i for c, i in zip(row, k, strict=True)) for row in zip(*columns, strict=True)]
        length = math.sqrt(sum(v * v for v in vector))
        if length <= radius + _TOL:
            found.append((length, vector))
    found.sort(key=lambda pair: pair[0])
    return [vector for _, vector in found]


def lattice_basis(vectors: list[Tensor], most: int = 100) -> Tensor:
    """Reduced basis, as columns (n, r), of the lattice that possibly dependent ``vectors`` span.

    Raises:
        ValueError: they span no lattice: some coordinate in terms of independent ones among them is
            no fraction with a denominator up to ``most``.
    """
    n = len(vectors[0])
    frame = torch.zeros(n, 0, dtype=torch.float64)
    rest = sorted((v for v in vectors if v.norm() > _TOL), key=lambda v: v.norm().item())
    for v in rest:  # the shortest independent ones: small denominators
        if (v - frame @ (torch.linalg.pinv(frame) @ v)).norm() > _TOL * v.norm():
            frame = torch.cat([frame, v.unsqueeze(1)], 1)
    if not rest:
        return frame
    coordinates = (torch.linalg.pinv(frame) @ torch.stack(rest, 1)).T.tolist()
    fractions = [[Fraction(c).limit_denominator(most) for c in row] for row in coordinates]
    for row, exact in zip(coordinates, fractions, strict=True):
        if any(abs(c - f) > _TOL for c, f in zip(row, exact, strict=True)):
            raise ValueError("generators: the translations are not discrete")
    scale = math.lcm(*(f.denominator for row in fractions for f in row))
    integers = hermite_basis([[int(f * scale) for f in row] for row in fractions])
    basis = frame @ torch.tensor(integers, dtype=torch.float64).T / scale
    basis = reduce_basis(basis)
    basis = torch.where(basis.abs() < 1e-12, 0.0, basis)
    first = basis.gather(0, (basis != 0).to(torch.uint8).argmax(0, keepdim=True))
    return basis * first.sign()


def hermite_basis(rows: list[list[int]]) -> list[list[int]]:
    """Independent rows with the same integer span, by row (Hermite) elimination."""
    rows = [list(row) for row in rows if any(row)]
    found: list[list[int]] = []
    for column in range(len(rows[0]) if rows else 0):
        active = [row for row in rows if row[column]]
        while len(active) > 1:
            pivot = min(active, key=lambda row: abs(row[column]))
            for row in active:
                if row is not pivot:
                    q = row[column] // pivot[column]
                    row[:] = [x - q * y for x, y in zip(row, pivot, strict=True)]
            active = [row for row in active if row[column]]
        if active:
            found.append(active[0])
            rows = [row for row in rows if row is not active[0]]
    return found


_SWEEPS = 48  # enough for lengths that differ by a factor of 1e6; most bases need a few


def reduce_basis(basis: Tensor) -> Tensor:
    """LLL-reduced bases (columns) of the lattices spanned by ``basis``, (..., n, r) -> (..., n, r).

    Afterwards the Gram-Schmidt lengths of the columns fall by no more than a factor 0.86 a column,
    which is what bounds the number of terms in :func:`log_lattice_normal`.
    """
    if basis.shape[-1] < 2:
        return basis
    return basis @ unimodular(torch.linalg.qr(basis).R).to(basis)


def unimodular(r: Tensor) -> Tensor:
    """The integer matrices Z for which R Z is LLL-reduced, (..., r, r) -> (..., r, r).

    Works on the entries of the triangular factor, a Givens rotation a swap. At most ``_SWEEPS`` passes,
    and fewer where values may be looked at, which is not so under `vmap` and `torch.compile`.
    """
    rank = r.shape[-1]
    rows = [[r[..., i, j] for j in range(rank)] for i in range(rank)]
    one, zero = torch.ones_like(r[..., 0, 0]), torch.zeros_like(r[..., 0, 0])
    change = [[one if i == j else zero for j in range(rank)] for i in range(rank)]
    for _ in range(_SWEEPS if rank > 1 else 0):
        swapped = torch.zeros_like(zero, dtype=torch.bool)
        for i in range(1, rank):
            for j in reversed(range(i)):  # shorten column i by those before it
                k = (rows[j][i] / rows[j][j]).round()
                for table in (rows, change):
                    for row in table:
                        row[i] = row[i] - k * row[j]
            a, b = rows[i - 1][i], rows[i][i]
            length = torch.hypot(a, b)
            swap = length.square() < 0.99 * rows[i - 1][i - 1].square()
            swapped = swapped | swap
            for table in (rows, change):
                for row in table:
                    row[i - 1], row[i] = (
                        torch.where(swap, row[i], row[i - 1]),
                        torch.where(swap, row[i - 1], row[i]),
                    )
            cos, sin = torch.where(swap, a / length, 1.0), torch.where(swap, b / length, 0.0)
            for j in range(i - 1, rank):
                top, low = rows[i - 1][j], rows[i][j]
                rows[i - 1][j], rows[i][j] = cos * top + sin * low, cos * low - sin * top
        if is_known_false(swapped):
            break
    return torch.stack([torch.stack(row, -1) for row in change], -2)
