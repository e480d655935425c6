"""Flat manifolds: R^n modulo any discrete group of isometries that acts freely."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from topoprior.spaces.covering import Covering, safe_sqrt
from topoprior.spaces.deck import DeckGroup, affine
from topoprior.spaces.embedding import _GRID, _LEAST_SLOPE, _MOST_FEATURES, _Slopes, nearest_point
from topoprior.spaces.flat.generate import generate_group
from topoprior.spaces.flat.group import FlatGroup
from topoprior.spaces.flat.harmonics import Harmonics
from topoprior.spaces.flat.lattices import short_vectors
from topoprior.utils.plain import found_once, own, plain
from topoprior.utils.real_module import check_dtype

_MOST_LOW = 120  # harmonics that are looked at, eigenspace by eigenspace


def embedding_harmonics(space: FlatManifold) -> Harmonics:
    """A small set of low harmonics (constant left out) whose map is an immersion and injective.

    Open coordinates are measured so that their slope is that of a wave of the longest period.
    """
    periods = space.lattice.norm(dim=0)
    steepness = 2 * math.pi / periods.max().item() if space.rank else 1.0
    points = torch.cat([_grid(space, 256, 3 / steepness), _random(space, 344, 1 / steepness)])
    lowest = Harmonics(space, 1 + _MOST_FEATURES, coordinates=space.rank < space.dim)
    lowest = lowest.select(slice(1, None)).steeper(steepness)
    least = _LEAST_SLOPE * steepness
    columns = _Slopes(space, lowest, points, 0.1 * periods.min().item(), least).select()
    if columns is None:
        raise ValueError(f"no embedding of {space!r} by {_MOST_FEATURES} harmonics was found")
    return lowest.select(columns)


def _random(space: FlatManifold, count: int, width: float = 1.0) -> Tensor:
    generator = np.random.default_rng(0)
    cell = torch.from_numpy(generator.random((count, space.rank)))
    open_part = width * torch.from_numpy(generator.standard_normal((count, space.dim - space.rank)))
    return cell @ space.lattice.T + open_part @ space.across_basis.T


def _grid(space: FlatManifold, count: int, reach: float) -> Tensor:
    """About ``count`` points: a regular grid of the lattice cell, and of [-reach, reach] across it."""
    side = max(4, 2 * round(count ** (1 / space.dim) / 2))
    lines = [torch.arange(side, dtype=torch.float64) / side] * space.rank
    lines += [torch.linspace(-reach, reach, side, dtype=torch.float64)] * (space.dim - space.rank)
    points = torch.cartesian_prod(*lines).reshape(-1, space.dim)
    return points[:, : space.rank] @ space.lattice.T + points[:, space.rank :] @ space.across_basis.T


def nearest_flat_point(space: FlatManifold, y: Tensor) -> Tensor:
    """:func:`nearest_point` on a regular grid of the lattice cell."""
    return nearest_point(space, y, space._search_grid, 0.1 * space.lattice.norm(dim=0).min().item())


Isometry = tuple["Tensor | Sequence[Sequence[float]]", "Tensor | Sequence[float]"]


class FlatManifold(Covering):
    r"""R^n / Gamma with :math:`\Gamma = \{x \mapsto A_j x + t_j + B k : k \in Z^r\}`.

    Args:
        lattice: B, shape (n, r), columns are the translations of Gamma; r < n leaves directions open.
        holonomy: the cosets (A_j, t_j) of the lattice in Gamma, A_j orthogonal (n, n), t_j (n,);
            the identity may be left out. Default: the lattice alone (a torus).

    Raises:
        ValueError: when Gamma is not a group, A_j is not orthogonal or does not preserve the lattice,
            or an element has a fixed point; the message names the element.

    Attributes:
        group: Gamma, a :class:`~topoprior.spaces.flat.group.FlatGroup`.
        lattice, linear, shift: B (n, r), all A_j (m, n, n) and t_j (m, n), the identity first; float64.
        periods: the period along each axis (``inf`` where open), or None if the lattice is not along axes.

    Volume |det B| / m. Features are the lowest deck-invariant harmonics that embed the space;
    :class:`KleinBottle` and the other named spaces have closed forms.

    Example:
        >>> # the Klein bottle from its glide reflection (u, v) -> (u + 1, -v)
        >>> K = FlatManifold([[2.0, 0.0], [0.0, 1.0]], [([[1.0, 0.0], [0.0, -1.0]], [1.0, 0.0])])
        >>> K.volume, K.num_sheets
        (1.0, 2)
        >>> K.distance(torch.tensor([0.1, 0.3]), torch.tensor([1.1, -0.3])).item() < 1e-6
        True
    """

    @plain
    def __init__(
        self,
        lattice: Tensor | Sequence[Sequence[float]],
        holonomy: Sequence[Isometry] = (),
    ) -> None:
        cosets = [(own("holonomy", a), own("holonomy", t)) for a, t in holonomy]
        self.group = group = FlatGroup(own("lattice", lattice), cosets)
        self.lattice, self.linear, self.shift = group.lattice, group.linear, group.shift
        self.dim = self.cover_dim = group.dim
        self.rank, self.num_sheets = group.rank, group.num_sheets
        self.open_dim = self.dim - self.rank
        self.across_basis, self.periods = group.across_basis, group.periods
        gram = self.lattice.T @ self.lattice
        self.volume = gram.det().sqrt().item() / self.num_sheets if self.rank == self.dim else math.inf
        # As Python numbers, which compiled code sees as constants.
        self._cosets = list(zip(self.linear.tolist(), self.shift.tolist(), strict=True))
        self._columns = self.lattice.T.tolist()
        self._bounds = group.dual.norm(dim=0).tolist()
        # A bound for |A_j p + t_j - p| over points p of the centred cell: it is greatest at a corner.
        moves = group.corners() @ (self.linear - self.linear[0]).transpose(-1, -2) + self.shift.unsqueeze(1)
        self._moves = moves.norm(dim=-1).amax(-1).tolist()
        self._periods = None if self.periods is None else self.periods.tolist()

    @classmethod
    @plain
    def from_generators(cls, generators: Sequence[Isometry]) -> FlatManifold:
        r"""The quotient of R^n by the group that the isometries x -> A x + t generate.

        Args:
            generators: pairs (A, t), A orthogonal (n, n), t (n,).

        Raises:
            ValueError: the group is not discrete, has more than 200 linear parts, or has an element
                with a fixed point.

        Example:
            >>> glide = ([[1.0, 0.0], [0.0, -1.0]], [1.0, 0.0])
            >>> shift = ([[1.0, 0.0], [0.0, 1.0]], [0.0, 1.0])
            >>> FlatManifold.from_generators([glide, shift]).volume  # the Klein bottle
            1.0
        """
        pairs = [(own("generators", a), own("generators", t)) for a, t in generators]
        lattice, cosets = generate_group(pairs)
        return FlatManifold(lattice, cosets[1:])

    def wrap(self, x: Tensor) -> Tensor:
        """``x`` modulo the lattice, lattice coordinates in [-1/2, 1/2]."""
        return self.group.wrap(self._check_lift(x))

    def sheets(self, x: Tensor) -> Tensor:
        """A_j x + t_j for every coset j, (..., n) -> (..., m, n)."""
        return self.group.sheets(x)

    # --- the space ---------------------------------------------------------------------------

    def project(self, x: Tensor) -> Tensor:
        """The lift with the lexicographically least lattice coordinates in [0, 1)^r."""
        x = self._check_lift(x)
        images = self.sheets(x)
        coordinates = self.group.lattice_coordinates(images)
        cell = coordinates.floor()
        cell = torch.where(coordinates - cell >= 1, cell + 1, cell)  # -1e-9 rounds up to 1
        images = images - cell @ self.lattice.T.to(x)
        coordinates = coordinates - cell
        allowed = torch.ones(coordinates.shape[:-1], dtype=torch.bool, device=x.device)
        slack = 8 * torch.finfo(x.dtype).eps
        for axis in range(self.rank):
            key = torch.where(allowed, coordinates[..., axis], math.inf)
            allowed = allowed & (key <= key.amin(-1, keepdim=True) + slack)
        best = allowed.to(torch.uint8).argmax(-1)
        index = best[..., None, None].expand(*best.shape, 1, self.cover_dim)
        return images.gather(-2, index).squeeze(-2)

    def lifts(self, x: Tensor, radius: float) -> Tensor:
        x = self._check_lift(x)
        wrapped = self.wrap(x)
        parts = []
        for image, bound in zip(self.sheets(wrapped).unbind(-2), self._moves, strict=True):
            vectors = self._short_vectors(radius + bound)
            parts.append(image.unsqueeze(-2) + torch.tensor(vectors, dtype=x.dtype, device=x.device))
        return torch.cat(parts, -2) + (x - wrapped).unsqueeze(-2)

    def _short_vectors(self, radius: float) -> list[list[float]]:
        if self.rank == 0:
            return [[0.0] * self.dim]
        return short_vectors(self._columns, self._bounds, radius)

    def difference(self, x: Tensor, y: Tensor) -> Tensor:
        """The shortest vector from ``x`` to a lift of the point of ``y``, (..., n)."""
        x = self._check_lift(x)
        y = self._check_lift(y, "y")
        vectors = self.wrap(self.sheets(y) - x.unsqueeze(-2))
        if self.periods is None:  # rounding is exact along axes; else the nearest is among neighbours
            vectors = (vectors.unsqueeze(-2) + self._neighbours.to(x)).flatten(-3, -2)
        best = vectors.square().sum(-1).argmin(-1)
        return vectors.gather(-2, best[..., None, None].expand(*best.shape, 1, self.dim)).squeeze(-2)

    @found_once
    def _neighbours(self) -> Tensor:
        """Lattice vectors b, 0 first, to which some point p of the centred cell is nearer than to 0 (L, n):
        |p - b| < |p| where p . b > |b|^2 / 2, and p . b is greatest at a corner of the cell."""
        corners = self.group.corners()
        vectors = corners.new_tensor(self._short_vectors(2 * corners.norm(dim=1).max().item()))
        length = vectors.square().sum(1)
        return vectors[((vectors @ corners.T).amax(1) > 0.5 * length * (1 + 1e-9)) | (length == 0)]

    def distance(self, x: Tensor, y: Tensor) -> Tensor:
        return safe_sqrt(self.difference(x, y).square().sum(-1))

    is_flat = True

    def metric_axes(self) -> list[list[int]]:
        mixed = (self.linear.abs() > 1e-9).any(0)
        groups: list[list[int]] = []
        for axis in range(self.dim):
            touched = [group for group in groups if any(mixed[axis, i] or mixed[i, axis] for i in group)]
            groups = [group for group in groups if group not in touched]
            groups.append(sorted([axis, *(i for group in touched for i in group)]))
        return sorted(groups)

    def sample_uniform(
        self,
        shape: torch.Size,
        dtype: torch.dtype,
        device: torch.device | None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        if self.volume == math.inf:
            raise ValueError(f"{self!r} is not compact: it carries no uniform distribution")
        check_dtype("dtype", dtype)
        cell = torch.rand(*shape, self.rank, dtype=dtype, device=device, generator=generator)
        return cell @ self.lattice.T.to(cell)

    def sample_window(self, count: int, reach: float, generator: torch.Generator | None = None) -> Tensor:
        unit = torch.rand(count, self.dim, dtype=torch.float64, device="cpu", generator=generator)
        across = reach * (2 * unit[:, self.rank :] - 1)
        return unit[:, : self.rank] @ self.lattice.T + across @ self.across_basis.T

    # --- loops -------------------------------------------------------------------------------

    @found_once
    def deck_group(self) -> DeckGroup:
        return DeckGroup(self.lattice, self.linear, self.shift)

    @found_once
    def shortest_loop(self) -> float:
        return self.group.shortest_loop()

    def generic_points(self, count: int) -> Tensor:
        return _random(self, count, 0.1)

    def nearest_deck(self, x: Tensor, y: Tensor) -> Tensor:
        x, y, unknown = self._known_pair(x, y)
        away = (x + self.difference(x, y)).unsqueeze(-2) - self.sheets(y)
        sheet = self.wrap(away).square().sum(-1).argmin(-1)  # the one that a lattice vector leads to
        away = away.gather(-2, sheet[..., None, None].expand(*sheet.shape, 1, self.dim)).squeeze(-2)
        cells = self.group.lattice_coordinates(away).round() @ self.lattice.T
        return affine(self.linear[sheet], self.shift[sheet] + cells) + unknown

    def cover_path(self, x: Tensor, y: Tensor, s: Tensor) -> Tensor:
        return x + s.to(x).unsqueeze(1) * (y - x)

    # --- features by harmonics ---------------------------------------------------------------

    @found_once
    def _harmonics(self) -> Harmonics:
        return embedding_harmonics(self)

    def low_harmonics(self, count: int) -> Harmonics:
        """The ``count`` lowest; where directions are open, harmonics times one open coordinate are among them."""
        return Harmonics(self, count + 1, coordinates=self.open_dim > 0).select(slice(1, None))

    def eigenspaces(self) -> Iterator[Harmonics]:
        lowest = self.low_harmonics(_MOST_LOW)
        for count in range(1, _MOST_LOW):
            if lowest.eigenvalues[count] > lowest.eigenvalues[count - 1] * (1 + 1e-6):
                yield lowest.select(slice(0, count))

    @found_once
    def _search_grid(self) -> Tensor:
        return _grid(self, _GRID, 3 * self.lattice.norm(dim=0).max().item() / (2 * math.pi))

    @property
    def num_features(self) -> int:  # type: ignore[override]
        return self._harmonics.num_features

    def embed(self, x: Tensor) -> Tensor:
        x = self._check_lift(x)
        return self._harmonics(x)

    def retract(self, y: Tensor) -> Tensor:
        """Nearest point of the embedded space, by a grid search and Gauss-Newton steps."""
        y = self._check_features(y)
        return nearest_flat_point(self, y)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, FlatManifold):
            return NotImplemented
        return self.group == other.group

    def __hash__(self) -> int:
        return hash(self.group)

    def __repr__(self) -> str:
        return f"FlatManifold(dim={self.dim}, rank={self.rank}, num_sheets={self.num_sheets})"
