"""Products of coverings: points side by side, features side by side."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from topoprior.spaces.covering import Covering, safe_sqrt
from topoprior.spaces.deck import DeckGroup, block_diagonal
from topoprior.spaces.flat.manifold import FlatManifold
from topoprior.utils.plain import found_once, plain


class _Parts(Covering):
    """What the coordinates and features of every product have in common."""

    parts: tuple[Covering, ...]

    @property
    def num_features(self) -> int:  # type: ignore[override]
        return sum(part.num_features for part in self.parts)

    def split(self, x: Tensor) -> tuple[Tensor, ...]:
        """The lifts of the factors, (..., cover_dim) -> one tensor a factor."""
        x = self._check_lift(x)
        return x.split([part.cover_dim for part in self.parts], -1)

    def _each(self, method: str, x: Tensor, *rest: Any) -> Tensor:
        parts = zip(self.parts, self.split(x), strict=True)
        return torch.cat([getattr(part, method)(piece, *rest) for part, piece in parts], -1)

    def embed(self, x: Tensor) -> Tensor:
        return self._each("embed", x)

    def retract(self, y: Tensor) -> Tensor:
        y = self._check_features(y)
        pieces = y.split([part.num_features for part in self.parts], -1)
        return torch.cat([part.retract(piece) for part, piece in zip(self.parts, pieces, strict=True)], -1)

    def __repr__(self) -> str:
        return f"Product({', '.join(map(repr, self.parts))})"


class Product(_Parts):
    """The product of coverings, with the product metric.

    Lifts and features of the factors stand side by side: distance^2 is the sum of the squares, the
    volume the product. A product of flat manifolds is itself a :class:`FlatManifold`, so that
    `WrappedNormal` lives on it.

    Args:
        coverings: at least one.

    Raises:
        TypeError: something else among them.
        ValueError: none.

    Example:
        >>> import topoprior as tp
        >>> pose = Product(tp.RotationGroup(), tp.Euclidean(3))  # where a solid body is
        >>> pose.dim, pose.cover_dim, pose.num_features
        (6, 7, 12)
        >>> flat = Product(tp.KleinBottle(), tp.Circle())
        >>> isinstance(flat, tp.FlatManifold), flat.num_features
        (True, 7)
    """

    def __new__(cls, *coverings: Covering) -> Any:
        if not coverings:
            raise ValueError("coverings: expected at least one, found none")
        for covering in coverings:
            if not isinstance(covering, Covering):
                raise TypeError(f"coverings: expected Coverings, found {type(covering).__name__}")
        if all(isinstance(covering, FlatManifold) for covering in coverings):
            return FlatProduct(*coverings)  # type: ignore[arg-type]
        return super().__new__(cls)

    def __getnewargs__(self) -> tuple[Covering, ...]:
        return self.parts

    def __init__(self, *coverings: Covering) -> None:
        self.parts = coverings
        self.dim = sum(part.dim for part in coverings)
        self.cover_dim = sum(part.cover_dim for part in coverings)
        self.num_sheets = math.prod(part.num_sheets for part in coverings)
        self.volume = math.prod(part.volume for part in coverings)
        self.open_dim = sum(part.open_dim for part in coverings)
        self.has_finite_group = all(part.has_finite_group for part in coverings)

    def project(self, x: Tensor) -> Tensor:
        return self._each("project", x)

    def lifts(self, x: Tensor, radius: float = math.inf) -> Tensor:
        """Every combination of lifts of the factors."""
        parts = zip(self.parts, self.split(x), strict=True)
        found = [part.lifts(piece, radius) for part, piece in parts]
        counts = [lifts.shape[-2] for lifts in found]
        index = torch.cartesian_prod(*[torch.arange(n, device=x.device) for n in counts])
        columns = index.reshape(-1, len(found)).unbind(-1)
        return torch.cat([f.index_select(-2, i) for f, i in zip(found, columns, strict=True)], -1)

    def distance(self, x: Tensor, y: Tensor) -> Tensor:
        x = self._check_lift(x)
        y = self._check_lift(y, "y")
        pairs = zip(self.parts, self.split(x), self.split(y), strict=True)
        squared = torch.stack([part.distance(a, b).square() for part, a, b in pairs], -1).sum(-1)
        return safe_sqrt(squared)

    @found_once
    def deck_group(self) -> DeckGroup:
        groups = [part.deck_group for part in self.parts]
        lattice = _block_lattice([group.lattice for group in groups])
        return DeckGroup(lattice, *_block_cosets([(group.linear, group.shift) for group in groups]))

    @found_once
    def shortest_loop(self) -> float:
        return min(part.shortest_loop for part in self.parts)

    def generic_points(self, count: int) -> Tensor:
        return torch.cat([part.generic_points(count) for part in self.parts], -1)

    def nearest_deck(self, x: Tensor, y: Tensor) -> Tensor:
        pairs = zip(self.parts, self.split(x), self.split(y), strict=True)
        return block_diagonal([part.nearest_deck(a, b) for part, a, b in pairs])

    def cover_path(self, x: Tensor, y: Tensor, s: Tensor) -> Tensor:
        pairs = zip(self.parts, self.split(x), self.split(y), strict=True)
        return torch.cat([part.cover_path(a, b, s) for part, a, b in pairs], -1)

    def _move(self, x: Tensor, v: Tensor) -> Tensor:
        moves = zip(self.parts, self.split(x), self.split(v), strict=True)
        return torch.cat([part._move(a, b) for part, a, b in moves], -1)

    def tangent(self, x: Tensor, v: Tensor) -> Tensor:
        parts = zip(self.parts, self.split(x), self.split(v), strict=True)
        return torch.cat([part.tangent(a, b) for part, a, b in parts], -1)

    def geodesic(self, x: Tensor, v: Tensor, t: float) -> tuple[Tensor, Tensor]:
        parts = zip(self.parts, self.split(x), self.split(v), strict=True)
        points, velocities = zip(*[part.geodesic(a, b, t) for part, a, b in parts], strict=True)
        return torch.cat(points, -1), torch.cat(velocities, -1)

    def metric_axes(self) -> list[list[int]]:
        groups, first = [], 0
        for part in self.parts:
            groups += [[first + axis for axis in group] for group in part.metric_axes()]
            first += part.cover_dim
        return groups

    def sample_uniform(
        self,
        shape: torch.Size,
        dtype: torch.dtype,
        device: torch.device | None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        parts = [part.sample_uniform(shape, dtype, device, generator) for part in self.parts]
        return torch.cat(parts, -1)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Product) and self.parts == other.parts

    def __hash__(self) -> int:
        return hash(self.parts)


class FlatProduct(_Parts, FlatManifold):
    """A product of flat manifolds: block matrices for the group, the features of the factors."""

    @plain
    def __init__(self, *coverings: FlatManifold) -> None:
        self.parts = coverings
        linear, shift = _block_cosets([(part.linear, part.shift) for part in coverings])
        super().__init__(
            _block_lattice([part.lattice for part in coverings]),
            list(zip(linear[1:], shift[1:], strict=True)),
        )


def _block_cosets(parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Every combination of isometries (A (m, d, d), t (m, d)) of the factors, the first of all first."""
    block: Callable[..., Tensor] = torch.block_diag
    choices = list(itertools.product(*(zip(linear, shift, strict=True) for linear, shift in parts)))
    linear = torch.stack([block(*(a for a, _ in choice)) for choice in choices])
    return linear, torch.stack([torch.cat([t for _, t in choice]) for choice in choices])


def _block_lattice(lattices: list[Tensor]) -> Tensor:
    """Block diagonal; torch.block_diag would give a lattice of rank 0 a row of the wrong length."""
    rows, columns = sum(b.shape[0] for b in lattices), sum(b.shape[1] for b in lattices)
    result = torch.zeros(rows, columns, dtype=torch.float64)
    row = column = 0
    for b in lattices:
        result[row : row + b.shape[0], column : column + b.shape[1]] = b
        row, column = row + b.shape[0], column + b.shape[1]
    return result
