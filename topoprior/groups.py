"""Integer arithmetic of crystallographic groups: validation, lattice points."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

_TOL = 1e-6


def check_group(
    lattice: Tensor, linear: list[Tensor], shift: list[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Check that x -> A_j x + t_j + B k form a group of isometries acting freely; drop repeated cosets.

    Returns:
        linear (m, n, n), shift (m, n) and the integer matrices of A_j in the lattice basis (m, r, r);
        element 0 is the identity.
    """
    n, r = lattice.shape
    if r and torch.linalg.matrix_rank(lattice) < r:
        raise ValueError("lattice: the columns are linearly dependent")
    inverse = torch.linalg.pinv(lattice)
    kept: list[tuple[Tensor, Tensor]] = []
    matrices: list[Tensor] = []
    for j, (a, t) in enumerate(zip(linear, shift, strict=True)):
        name = f"holonomy element {j - 1}"
        if a.shape != (n, n) or t.shape != (n,):
            raise ValueError(
                f"{name}: expected shapes ({n}, {n}) and ({n},), found {tuple(a.shape)} and {tuple(t.shape)}"
            )
        if not torch.allclose(a @ a.T, torch.eye(n, dtype=a.dtype), atol=_TOL):
            raise ValueError(f"{name}: A is not orthogonal")
        integer = inverse @ a @ lattice
        if not torch.allclose(lattice @ integer.round(), a @ lattice, atol=_TOL):
            raise ValueError(f"{name}: A does not map the lattice to itself")
        if _find(kept, a, t, lattice, inverse) is not None:
            continue
        kept.append((a, t))
        matrices.append(integer.round().long())
    for i, (a, t) in enumerate(kept):
        for j, (b, s) in enumerate(kept):
            if _find(kept, a @ b, a @ s + t, lattice, inverse) is None:
                raise ValueError(
                    f"holonomy: not a group, the product of cosets {i} and {j} (0 is the identity) is missing"
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


def _find(
    cosets: list[tuple[Tensor, Tensor]], a: Tensor, t: Tensor, lattice: Tensor, inverse: Tensor
) -> int | None:
    """The coset to which x -> a x + t belongs."""
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


def neighbour_offsets(lattice: Tensor, radius: float | Tensor) -> Tensor:
    """All k in Z^r with |B k| <= radius, (L, r) float64, 0 first."""
    r = lattice.shape[1]
    if r == 0:
        return torch.zeros(1, 0, dtype=torch.float64)
    bounds = torch.linalg.pinv(lattice).norm(dim=1) * radius  # |k_i| <= |row i of B^+| |B k|
    ranges = [range(-math.floor(b + _TOL), math.floor(b + _TOL) + 1) for b in bounds.tolist()]
    box = torch.tensor(list(itertools.product(*ranges)), dtype=torch.float64)
    lengths = (box @ lattice.T).norm(dim=1)
    order = lengths.argsort(stable=True)
    return box[order][lengths[order] <= float(radius) + _TOL]
