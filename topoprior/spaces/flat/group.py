"""Groups of isometries of R^n: the value that a flat manifold has, and what makes it a group that acts freely."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from topoprior.spaces.flat.lattices import _TOL, short_vectors, solvable


class FlatGroup:
    """A discrete group of isometries { x -> A_j x + t_j + B k : k in Z^r } of R^n that acts freely: a value.

    Args:
        lattice: B, (n, r), columns are the translations; r < n leaves directions open.
        cosets: of the lattice, pairs of A_j (n, n) and t_j (n,), float64. The identity may be left out.

    Attributes:
        lattice, linear, shift, integer_linear: B, all A_j (m, n, n) and t_j (m, n), the identity first, and the A_j in
            the lattice basis, integers (m, r, r).
        across_basis: orthonormal, of the open directions, (n, n - r).
        periods: the period along each axis (``inf`` where open), or None if the lattice is not along axes.

    Raises:
        ValueError: no group, A_j not orthogonal or does not preserve the lattice, an element with a fixed
            point; the message names it.

    Example:
        >>> eye = torch.eye(2).double()
        >>> group = FlatGroup(eye, [])  # of the torus
        >>> group.wrap(torch.tensor([0.75, 2.0])), group.coset_of(eye, eye[0]), group.num_sheets
        (tensor([-0.2500,  0.0000]), 0, 1)
    """

    def __init__(self, lattice: Tensor, cosets: Sequence[tuple[Tensor, Tensor]]) -> None:
        if lattice.dim() != 2 or lattice.shape[0] < lattice.shape[1]:
            raise ValueError(f"lattice: expected shape (n, r) with r <= n, found {tuple(lattice.shape)}")
        self.lattice = lattice
        self.dim, self.rank = n, _ = lattice.shape
        identity = (torch.eye(n, dtype=torch.float64), torch.zeros(n, dtype=torch.float64))
        linear, shift = zip(identity, *cosets, strict=True)
        self.linear, self.shift, self.integer_linear = check_group(lattice, list(linear), list(shift))
        self.num_sheets = len(self.shift)
        self.across_basis = torch.linalg.qr(lattice, mode="complete").Q[:, self.rank :]
        self.dual = torch.linalg.pinv(lattice).T  # columns: the dual basis
        self.periods = _periods(lattice)

    def across_coordinates(self, x: Tensor) -> Tensor:
        """Coordinates of ``x`` along the open directions, (..., n - r)."""
        return x @ self.across_basis.to(x)

    def lattice_coordinates(self, x: Tensor) -> Tensor:
        """Coordinates of ``x`` in the lattice basis, B^+ x, (..., r)."""
        return x @ self.dual.to(x)

    def wrap(self, x: Tensor) -> Tensor:
        """``x`` modulo the lattice, lattice coordinates in [-1/2, 1/2]."""
        return x - self.lattice_coordinates(x).round() @ self.lattice.T.to(x)

    def sheets(self, x: Tensor) -> Tensor:
        """A_j x + t_j for every coset j, (..., n) -> (..., m, n)."""
        return torch.einsum("jab,...b->...ja", self.linear.to(x), x) + self.shift.to(x)

    def coset_of(self, a: Tensor, t: Tensor) -> int | None:
        """The coset to which x -> a x + t belongs, None if it is not in the group."""
        cosets = list(zip(self.linear, self.shift, strict=True))
        return find_coset(cosets, a, t, self.lattice, self.dual.T)

    def corners(self) -> Tensor:
        """The corners of the centred cell of the lattice, (2^r, n)."""
        signs = list(itertools.product((-0.5, 0.5), repeat=self.rank))
        return self.lattice.new_tensor(signs).reshape(2**self.rank, self.rank) @ self.lattice.T

    def shortest_loop(self) -> float:
        """Least length by which any element but the identity moves a point, ``inf`` if there are no others.

        An element (A, t), A of order o, moves points by |v| / o at least, v the lattice vector that its o-th
        power translates by.
        """
        if not self.rank:
            return math.inf
        inverse, columns = self.dual.T, self.lattice.T.tolist()
        bounds = inverse.norm(dim=1).tolist()
        best = self.lattice.norm(dim=0).min().item()
        if self.periods is None:  # along axes the shortest column is the shortest vector
            best = math.hypot(*short_vectors(columns, bounds, best)[1])
        eye = self.linear[0]
        for a, t in zip(self.linear[1:], self.shift[1:], strict=True):
            order, power, total = 1, a, eye
            while (power - eye).abs().max() > _TOL:
                order, total, power = order + 1, total + power, power @ a
            rows = (inverse @ total @ self.lattice).round().long().tolist()
            for vector in short_vectors(columns, bounds, order * best):
                rest = inverse @ (torch.tensor(vector, dtype=a.dtype) - total @ t)
                if solvable(rows, rest.round().long().tolist()):
                    best = min(best, math.hypot(*vector) / order)
                    break  # they come by length
        return best

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, FlatGroup):
            return NotImplemented
        mine, others = (self.lattice, self.linear, self.shift), (other.lattice, other.linear, other.shift)
        return all(a.shape == b.shape and torch.allclose(a, b) for a, b in zip(mine, others, strict=True))

    def __hash__(self) -> int:
        return hash((self.dim, self.rank, self.num_sheets))


def check_group(
    lattice: Tensor, linear: list[Tensor], shift: list[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Check that x -> A_j x + t_j + B k form a group of isometries acting freely; drop repeated cosets.

    Returns:
        linear (m, n, n), shift (m, n) and the integer matrices of A_j in the lattice basis (m, r, r);
        element 0 is the identity.
    """
    n, r = lattice.shape
    if not lattice.isfinite().all():
        raise ValueError("lattice: expected finite entries")
    if r and torch.linalg.matrix_rank(lattice) < r:
        raise ValueError("lattice: the columns are linearly dependent")
    inverse = torch.linalg.pinv(lattice)
    kept: list[tuple[Tensor, Tensor]] = []
    matrices: list[Tensor] = []
    for j, (a, t) in enumerate(zip(linear, shift, strict=True)):
        name = f"holonomy element {j - 1}"
        if a.shape != (n, n) or t.shape != (n,):
            raise ValueError(
                f"{name}: expected shapes ({n}, {n}) and ({n},), "
                f"found {tuple(a.shape)} and {tuple(t.shape)}"
            )
        if not torch.allclose(a @ a.T, torch.eye(n, dtype=a.dtype), atol=_TOL):
            raise ValueError(f"{name}: A is not orthogonal")
        integer = inverse @ a @ lattice
        if not torch.allclose(lattice @ integer.round(), a @ lattice, atol=_TOL):
            raise ValueError(f"{name}: A does not map the lattice to itself")
        if find_coset(kept, a, t, lattice, inverse) is not None:
            continue
        kept.append((a, t))
        matrices.append(integer.round().long())
    for i, (a, t) in enumerate(kept):
        for j, (b, s) in enumerate(kept):
            if find_coset(kept, a @ b, a @ s + t, lattice, inverse) is None:
                raise ValueError(
                    f"holonomy: not a group, the product of cosets {i} and {j} "
                    "(0 is the identity) is missing"
                )
        if i and _fixes_a_point(a, t, lattice, inverse):
            raise ValueError(
                f"holonomy: not free, an element of coset {i} (0 is the identity) fixes a point"
            )
    return (
        torch.stack([a for a, _ in kept]),
        torch.stack([t for _, t in kept]),
        torch.stack(matrices),
    )


def find_coset(
    cosets: list[tuple[Tensor, Tensor]], a: Tensor, t: Tensor, lattice: Tensor, inverse: Tensor
) -> int | None:
    """The place in ``cosets`` of the one to which x -> a x + t belongs, None if it belongs to none."""
    for j, (b, s) in enumerate(cosets):
        gap = t - s
        if torch.allclose(a, b, atol=_TOL) and torch.allclose(
            lattice @ (inverse @ gap).round(), gap, atol=_TOL
        ):
            return j
    return None


def _fixes_a_point(a: Tensor, t: Tensor, lattice: Tensor, inverse: Tensor) -> bool:
    """Whether x = A x + t + B k has a solution for some k in Z^r.

    With o the order of A, it has one iff sum_{i<o} A^i (t + B k) = 0: a question about integers.
    """
    n, r = lattice.shape
    power, total = a, torch.eye(n, dtype=a.dtype)
    while not torch.allclose(power, torch.eye(n, dtype=a.dtype), atol=_TOL):
        total, power = total + power, power @ a
    target = -(total @ t)
    if not torch.allclose(lattice @ (inverse @ target), target, atol=_TOL):
        return False  # a translation along an open direction
    coordinates = inverse @ target
    if not torch.allclose(coordinates, coordinates.round(), atol=_TOL):
        return False
    rows = (inverse @ total @ lattice).round().long().tolist() if r else []
    return solvable(rows, coordinates.round().long().tolist())


def _periods(lattice: Tensor) -> Tensor | None:
    """The period along each axis, ``inf`` where there is none; None if the lattice is not along axes."""
    if ((lattice.abs() > 1e-12).sum(0) > 1).any():
        return None
    periods = lattice.abs().sum(1)
    return torch.where(periods > 0, periods, math.inf)
