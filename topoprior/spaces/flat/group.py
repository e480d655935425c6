"""Groups of isometries: validation, generation, and the integer arithmetic of lattices."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from topoprior.spaces.flat.lattices import _TOL, lattice_basis, short_vectors, solvable


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


def shortest_loop(lattice: Tensor, linear: Tensor, shift: Tensor) -> float:
    """Least length by which any x -> A_j x + t_j + B k but the identity moves a point, ``inf`` if there are none.

    An element (A, t), A of order o, moves points by |v| / o at least, v the lattice vector that its o-th
    power translates by.
    """
    if not lattice.shape[1]:
        return math.inf
    columns = lattice.T.tolist()
    dual = torch.linalg.pinv(lattice)
    bounds = dual.norm(dim=1).tolist()
    best = lattice.norm(dim=0).min().item()
    if ((lattice.abs() > 1e-12).sum(0) > 1).any():  # along axes the shortest column is the shortest vector
        best = math.hypot(*short_vectors(columns, bounds, best)[1])
    eye = torch.eye(len(lattice), dtype=lattice.dtype)
    for a, t in zip(linear[1:], shift[1:], strict=True):
        order, power, total = 1, a, eye
        while (power - eye).abs().max() > _TOL:
            order, total, power = order + 1, total + power, power @ a
        rows = (dual @ total @ lattice).round().long().tolist()
        for vector in short_vectors(columns, bounds, order * best):
            rest = dual @ (torch.tensor(vector, dtype=a.dtype) - total @ t)
            if solvable(rows, rest.round().long().tolist()):
                best = min(best, math.hypot(*vector) / order)
                break  # they come by length
    return best


# --- groups from generators --------------------------------------------------------------------


def generate_group(
    generators: list[tuple[Tensor, Tensor]], most: int = 200
) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """Lattice of translations and coset representatives of the group that isometries generate.

    Breadth-first search over the linear parts; every product that lands on a known linear part
    leaves a translation behind, and by Schreier's lemma these generate the whole lattice.

    Args:
        generators: pairs (A, t), A orthogonal (n, n), t (n,), float64.
        most: the largest number of linear parts.

    Returns:
        lattice (n, r) and the cosets, the identity first, each t in the centred cell of the lattice.

    Raises:
        ValueError: a generator is no isometry, the linear parts do not close, or the translations
            come arbitrarily close to 0.
    """
    if not generators:
        raise ValueError("generators: expected at least one, found none")
    n = generators[0][1].numel()
    for i, (a, t) in enumerate(generators):
        if a.shape != (n, n) or t.shape != (n,):
            raise ValueError(
                f"generator {i}: expected shapes ({n}, {n}) and ({n},), "
                f"found {tuple(a.shape)} and {tuple(t.shape)}"
            )
        if not torch.allclose(a @ a.T, torch.eye(n, dtype=a.dtype), atol=_TOL):
            raise ValueError(f"generator {i}: A is not orthogonal")
    cosets = [(torch.eye(n, dtype=torch.float64), torch.zeros(n, dtype=torch.float64))]
    translations: list[Tensor] = []
    for a, t in cosets:  # grows while it is read
        for b, s in generators:
            product, moved = a @ b, a @ s + t
            for known, origin in cosets:
                if torch.allclose(product, known, atol=_TOL):
                    translations.append(moved - origin)
                    break
            else:
                if len(cosets) == most:
                    raise ValueError(
                        f"generators: more than {most} linear parts, is one of infinite order?"
                    )
                cosets.append((product, moved))
    lattice = lattice_basis(translations)
    inverse = torch.linalg.pinv(lattice)
    return lattice, [(a, t - lattice @ (inverse @ t).round()) for a, t in cosets]
