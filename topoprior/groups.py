"""Groups of isometries: validation, generation, and the integer arithmetic of lattices."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import torch
from torch import Tensor

from topoprior.lattice import reduce_basis

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


# --- finite groups of orthogonal matrices --------------------------------------------------------


def check_spherical_group(elements: list[Tensor]) -> Tensor:
    """Check that matrices form a group acting freely on the sphere; drop repeated ones.

    Returns:
        (m, d, d), the identity first.
    """
    d = elements[0].shape[-1]
    eye = torch.eye(d, dtype=torch.float64)
    kept = eye.unsqueeze(0)
    for i, a in enumerate(elements):
        if a.shape != (d, d):
            raise ValueError(f"element {i}: expected shape ({d}, {d}), found {tuple(a.shape)}")
        if not torch.allclose(a @ a.T, eye, atol=_TOL):
            raise ValueError(f"element {i}: not orthogonal")
        if (kept - a).abs().amax((-2, -1)).min() < _TOL:
            continue
        if torch.linalg.svdvals(a - eye)[-1] < _TOL:
            raise ValueError(f"element {i}: has the eigenvalue 1, so it fixes a point of the sphere")
        kept = torch.cat([kept, a.unsqueeze(0)])
    for a in kept:
        products = a @ kept
        gaps = (products.unsqueeze(1) - kept).abs().amax((-2, -1)).amin(1)
        if gaps.max() > _TOL:
            j = int(gaps.argmax())
            raise ValueError(
                f"elements: not a group, the product of {_named(elements, a)} and "
                f"{_named(elements, kept[j])} is missing"
            )
    return kept


def _named(elements: list[Tensor], a: Tensor) -> str:
    """How the caller knows a matrix: by its place in the list."""
    for i, b in enumerate(elements):
        if torch.allclose(a, b, atol=_TOL):
            return f"element {i}"
    return "the identity"
