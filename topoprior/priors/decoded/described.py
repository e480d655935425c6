"""Harmonics written out, so that a checkpoint says what it decodes without this library.

A harmonic is a list of waves ``[f_1, ..., f_dim, c, s]``, its value at a lift z the sum of

    c cos(2 pi f . z) + s sin(2 pi f . z),

f in turns per unit of the cover's coordinates.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from topoprior.spaces.flat.harmonics import Harmonics
from topoprior.spaces.flat.manifold import FlatManifold

_MOST = 4096  # of the lowest harmonics, among which those of a checkpoint are looked for
_TOL = 1e-6


def describe(harmonics: Harmonics) -> list[list[list[float]]]:
    """Every harmonic as its waves.

    Example:
        >>> from topoprior import Circle
        >>> [[[round(x, 4) for x in wave] for wave in waves] for waves in describe(Harmonics(Circle(), 3))]
        [[[0.0, 1.0, 0.0]], [[1.0, 1.4142, 0.0]], [[1.0, 0.0, -1.4142]]]
    """
    eye = torch.eye(harmonics.num_features, dtype=torch.float64)
    orders, cosine, sine = harmonics.plane_waves(eye)
    turns = orders.double() @ torch.linalg.pinv(harmonics.covering.lattice)
    found = []
    for c, s in zip(cosine.T, sine.T, strict=True):
        used = ((c.abs() + s.abs()) > _TOL).nonzero().squeeze(-1)
        waves = torch.cat([turns[used], c[used, None], s[used, None]], 1)
        found.append([[round(x, 15) + 0.0 for x in wave] for wave in waves.tolist()])  # no 1e-16, no -0.0
    return found


def find(space: FlatManifold, described: Any) -> tuple[Harmonics, Tensor]:
    """The harmonics that :func:`describe` wrote, and the sign that each has here: those of a space are fixed up to it.

    Raises:
        ValueError: what is described are no different, orthonormal harmonics of the space, or too high ones.
    """
    if not isinstance(described, list) or not 0 < len(described) <= _MOST:
        raise ValueError(f"harmonics: expected a list of 1 to {_MOST} harmonics")
    lattice = space.lattice.tolist()
    wanted = [_waves(lattice, waves) for waves in described]
    orders = torch.tensor([k for waves in wanted for k in waves], dtype=torch.float64)
    highest = float((2 * math.pi * orders @ torch.linalg.pinv(space.lattice)).square().sum(1).max())
    count = 2 + 2 * len(wanted)
    known = Harmonics(space, count)
    while float(known.eigenvalues[-1]) <= highest * (1 + _TOL) and count < _MOST:
        count *= 2
        known = Harmonics(space, count)
    theirs = [_waves(lattice, waves) for waves in describe(known)]
    by_wave: dict[tuple[int, ...], list[int]] = {}
    for column, waves in enumerate(theirs):
        for k in waves:
            by_wave.setdefault(k, []).append(column)
    columns, signs = [], []
    for index, waves in enumerate(wanted):
        near = sorted({column for k in waves for column in by_wave.get(k, [])})
        products = {column: _inner(waves, theirs[column]) for column in near}
        best = max(near, key=lambda column: abs(products[column]), default=-1)
        off = 1.0 if best < 0 else abs(abs(products[best]) - 1) + abs(_inner(waves, waves) - 1)
        if off > 1e-4 or best in columns:
            raise ValueError(
                f"harmonics: number {index} is none of the lowest {count} of {space!r}, or there twice"
            )
        columns.append(best)
        signs.append(math.copysign(1.0, products[best]))
    return known.select(columns), torch.tensor(signs, dtype=torch.float64)


_Waves = dict[tuple[int, ...], tuple[float, float]]


def _waves(lattice: list[list[float]], waves: Any) -> _Waves:
    """By orders along the lattice, of k and -k the one whose first entry is positive."""
    if not isinstance(waves, list) or not 0 < len(waves) <= _MOST:
        raise ValueError("harmonics: expected every one as a list of waves")
    found: _Waves = {}
    for wave in waves:
        numbers = [float(x) for x in wave] if isinstance(wave, list) else []
        if len(numbers) != len(lattice) + 2 or not all(map(math.isfinite, numbers)):
            raise ValueError(f"harmonics: expected waves of {len(lattice) + 2} finite numbers")
        *frequency, c, s = numbers
        turns = [
            sum(f * b for f, b in zip(frequency, row, strict=True)) for row in zip(*lattice, strict=True)
        ]
        if any(abs(t) > _MOST or abs(t - round(t)) > 1e-4 for t in turns):
            raise ValueError("harmonics: a wave is not periodic under the lattice")
        k = tuple(round(t) for t in turns)
        if next((i for i in k if i), 0) < 0:
            k, s = tuple(-i for i in k), -s
        before = found.get(k, (0.0, 0.0))
        found[k] = before[0] + c, before[1] + s
    return found


def _inner(f: _Waves, g: _Waves) -> float:
    """E[f g] under the uniform law."""
    return sum((c * g[k][0] + s * g[k][1]) * (0.5 if any(k) else 1.0) for k, (c, s) in f.items() if k in g)
