"""Deck-invariant Fourier modes on flat manifolds.

On R^n / Gamma, Gamma = { x -> A_j x + t_j + B k }, the average of a plane wave over the cosets,

    f(x) = 1/m sum_j chi_j exp(2 pi i kappa . (A_j x + t_j)),     kappa in the dual lattice,

is invariant under every deck transformation (for a character chi = +-1: it changes sign with chi).
These averages span L2 of the quotient, so a function that is linear in them is continuous on the
quotient by construction: it has no seams. On the Klein bottle they are e^{imb} cos(na) for even m
and e^{imb} sin(na) for odd m, with b = pi u and a = 2 pi v.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from topoprior.spaces.flat.group import FlatGroup
from topoprior.utils.checks import check_int
from topoprior.utils.plain import plain
from topoprior.utils.precision import without_autocast


class HasGroup(Protocol):
    group: FlatGroup  # all that is asked of a space


# A term is a plane wave, k in Z^r, times a coordinate along which the space is not periodic (or 1: None).
_Term = tuple[tuple[int, ...], "int | None"]
_TOL = 1e-9


class Harmonics:
    r"""The ``num_features`` lowest real harmonics of a flat manifold, orthonormal under the uniform law.

    Sorted by Laplace eigenvalue :math:`|2 \pi \kappa|^2`; the first one is the constant 1 (for the
    trivial character). ``Harmonics(K, n)(x)`` maps lifts (..., cover_dim) to values (..., n), and any
    lift of a point gives the same values.

    Args:
        covering: a :class:`~topoprior.spaces.flat.manifold.FlatManifold`.
        num_features: how many.
        character: one sign a coset of the lattice, ``len(covering.shift)`` of them, for functions that
            change sign with the sheet. Default: all +1.
        coordinates: also use waves times one non-periodic coordinate (cylinder, Moebius band).

    Raises:
        TypeError: no flat manifold, or a number that is no int.
        ValueError: if the space has no periodic direction, or ``character`` has the wrong length, other
            entries than +1 and -1, or signs that do not multiply as the cosets do.

    Example:
        >>> import topoprior as tp
        >>> K = tp.KleinBottle()
        >>> x = torch.tensor([0.3, 0.2])
        >>> same = torch.tensor([1.3, -0.2])  # another lift of the same point
        >>> h = Harmonics(K, 8)
        >>> torch.allclose(h(x), h(same), atol=1e-6)
        True
    """

    @plain
    def __init__(
        self,
        covering: HasGroup,
        num_features: int,
        *,
        character: Sequence[int] | None = None,
        coordinates: bool = False,
    ) -> None:
        num_features = check_int("num_features", num_features)
        group = getattr(covering, "group", None)
        if not isinstance(group, FlatGroup):
            raise TypeError(f"covering: expected a flat manifold, found {covering!r}")
        if group.rank == 0:
            raise ValueError(f"covering: {covering!r} has no periodic direction, so no harmonics")
        signs = list(character) if character is not None else [1] * group.num_sheets
        if len(signs) != group.num_sheets:
            raise ValueError(
                f"character: expected {group.num_sheets} signs, one a coset, found {len(signs)}"
            )
        _check_character(group, signs)
        self.covering: Any = covering
        self.character = tuple(signs)
        found = _lowest(group, num_features, signs, coordinates)
        terms = sorted({term for _, modes in found for term in modes}, key=_term_key)
        weights = torch.zeros(2, len(terms), len(found), dtype=torch.float64)
        for column, (_, modes) in enumerate(found):
            for term, value in modes.items():
                # Re(c (cos + i sin)) = Re c cos - Im c sin
                pair = (value.real, -value.imag)
                weights[:, terms.index(term), column] = torch.tensor(pair, dtype=torch.float64)
        self.eigenvalues = torch.tensor([eigenvalue for eigenvalue, _ in found], dtype=torch.float64)
        self._frequencies = torch.tensor([k for k, _ in terms]).reshape(-1, group.rank)
        self._order = int(self._frequencies.abs().max())
        self._coordinates = [c for _, c in terms]
        self._weights = weights
        self.columns = list(range(len(found)))  # which of the lowest harmonics these are

    @property
    def num_features(self) -> int:
        return self._weights.shape[-1]

    @plain
    def select(self, columns: Tensor | Sequence[int] | slice) -> Harmonics:
        """The harmonics of the given columns, waves that none of them uses left out."""
        chosen = copy.copy(self)
        weights = self._weights[..., columns]
        used = (weights.abs().sum((0, 2)) > 0).nonzero().squeeze(-1)
        chosen._weights = weights[:, used]
        chosen._frequencies = self._frequencies[used]
        chosen._order = int(chosen._frequencies.abs().max()) if len(used) else 0
        chosen._coordinates = [self._coordinates[i] for i in used.tolist()]
        chosen.eigenvalues = self.eigenvalues[columns]
        chosen.columns = torch.tensor(self.columns)[columns].tolist()
        return chosen

    def steeper(self, factor: float) -> Harmonics:
        """The same, those with a coordinate among their factors times ``factor``."""
        changed = copy.copy(self)
        rows = torch.tensor([c is not None for c in self._coordinates], device="cpu")
        columns = (self._weights[:, rows].abs().sum((0, 1)) > 0).to(torch.float64)
        changed._weights = self._weights * (1 + (factor - 1) * columns)
        return changed

    def plane_waves(self, coefficients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """h(x) @ coefficients as sum_t C_t cos(2 pi k_t . y) + S_t sin(2 pi k_t . y), y in lattice coordinates.

        Returns:
            k (T, rank) integers, C and S (T, outputs), for ``coefficients`` (num_features, outputs).
        """
        if any(c is not None for c in self._coordinates):
            raise ValueError("plane_waves: not available for harmonics with coordinate factors")
        weights = self._weights.to(coefficients)
        return self._frequencies, weights[0] @ coefficients, weights[1] @ coefficients

    def __repr__(self) -> str:
        return f"Harmonics({self.covering!r}, {self.num_features})"

    @without_autocast
    def __call__(self, x: Tensor) -> Tensor:
        weights = self._weights.to(x)
        cos, sin = self._waves(x)
        return cos @ weights[0] + sin @ weights[1]

    @without_autocast
    def mean(self, loc: Tensor, scale: Tensor) -> Tensor:
        """E[h(x)] for x ~ N(loc, diag(scale^2)): each wave shrinks by exp(-2 pi^2 kappa^T Sigma kappa).

        Exact, and by invariance the mean under the wrapped normal too. No coordinate factors.
        """
        if any(c is not None for c in self._coordinates):
            raise ValueError("mean: not available for harmonics with coordinate factors")
        weights = self._weights.to(loc)
        kappa = self._frequencies.to(loc) @ self.covering.group.dual.T.to(loc)
        decay = (-2 * math.pi**2 * scale.square() @ kappa.square().T).exp()
        cos, sin = self._waves(loc)
        return (cos * decay) @ weights[0] + (sin * decay) @ weights[1]

    def _waves(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Real and imaginary part of every term. Two trigonometric calls a dimension; the powers
        e^{ikt} follow by the Chebyshev recurrence and the waves by complex products."""
        angle = 2 * math.pi * self.covering.group.lattice_coordinates(x)
        frequencies = self._frequencies.to(x.device)
        cosines = [torch.ones_like(angle), angle.cos()]
        sines = [torch.zeros_like(angle), angle.sin()]
        for _ in range(2, self._order + 1):
            cosines.append(2 * cosines[1] * cosines[-1] - cosines[-2])
            sines.append(2 * cosines[1] * sines[-1] - sines[-2])
        cos_powers, sin_powers = torch.stack(cosines, -1), torch.stack(sines, -1)
        real = imag = None
        for axis in range(self.covering.group.rank):
            k = frequencies[:, axis]
            c = cos_powers[..., axis, :].index_select(-1, k.abs())
            s = sin_powers[..., axis, :].index_select(-1, k.abs()) * k.sign().to(x.dtype)
            if real is None or imag is None:
                real, imag = c, s
            else:
                real, imag = real * c - imag * s, real * s + imag * c
        assert real is not None
        assert imag is not None
        if any(c is not None for c in self._coordinates):
            across = self.covering.group.across_coordinates(x)
            ones = torch.ones_like(across[..., :1])
            index = [0 if c is None else c + 1 for c in self._coordinates]
            factor = torch.cat([ones, across], -1)[..., index]
            real, imag = real * factor, imag * factor
        return real, imag


def _check_character(group: FlatGroup, signs: Sequence[int]) -> None:
    """A character is a homomorphism: the sign of a product is the product of the signs."""
    for i, sign in enumerate(signs):
        if sign not in (1, -1):
            raise ValueError(f"character: expected +1 or -1, found {sign!r} for coset {i}")
    if all(sign == 1 for sign in signs):
        return
    cosets = list(zip(group.linear, group.shift, strict=True))
    for i, (a, t) in enumerate(cosets):
        for j, (b, s) in enumerate(cosets):
            product = group.coset_of(a @ b, a @ s + t)
            assert product is not None  # checked when the space was made
            if signs[product] != signs[i] * signs[j]:
                raise ValueError(
                    f"character: coset {i} times coset {j} is coset {product}, but their signs are "
                    f"{signs[i]}, {signs[j]} and {signs[product]}: no character of the group"
                )


def _term_key(term: _Term) -> tuple:
    return (term[1] is not None, term[1] or 0, term[0])


def _lowest(
    group: FlatGroup, count: int, signs: list[int], coordinates: bool
) -> list[tuple[float, dict[_Term, complex]]]:
    """The ``count`` lowest independent real harmonics with their eigenvalues."""
    factors: list[int | None] = [None]
    if coordinates:
        factors += list(range(group.dim - group.rank))
    order = 2
    while True:
        box = list(itertools.product(range(-order, order + 1), repeat=group.rank))
        # Every kappa shorter than this lies in the box: |k_i| <= |B_i| |kappa|.
        reach = (order + 1) / group.lattice.norm(dim=0).max().item()
        lengths = (torch.tensor(box, dtype=torch.float64) @ group.dual.T).norm(dim=-1).tolist()
        shells = sorted((round(length, 9), k) for length, k in zip(lengths, box, strict=True))
        found: list[tuple[float, dict[_Term, complex]]] = []
        done: set[_Term] = set()
        for length, k in shells:
            if length >= reach:
                break
            for factor in factors:
                if (k, factor) in done:
                    continue
                average = _average(group, k, factor, signs)
                done.update(average)
                done.update((tuple(-i for i in key), c) for key, c in average)
                for mode in _independent(average):
                    found.append(((2 * math.pi * length) ** 2, mode))
            if len(found) >= count:
                return found[:count]
        order *= 2


def _average(
    group: FlatGroup, k: tuple[int, ...], factor: int | None, signs: list[int]
) -> dict[_Term, complex]:
    """1/m sum_j chi_j w(A_j x + t_j) for the wave w = [x_factor] exp(2 pi i k . B^+ x), as terms."""
    terms: dict[_Term, complex] = {}
    for j, sign in enumerate(signs):
        moved = tuple(int(i) for i in (group.integer_linear[j].T @ torch.tensor(k)).tolist())
        turns = group.lattice_coordinates(group.shift[j]) @ torch.tensor(k, dtype=torch.float64)
        value = sign / len(signs) * complex(math.cos(2 * math.pi * turns), math.sin(2 * math.pi * turns))
        pieces: list[tuple[int | None, float]] = [(None, 1.0)]
        if factor is not None:
            row = (group.across_basis.T @ group.linear[j] @ group.across_basis)[factor]
            pieces = list(enumerate(row.tolist()))
            pieces.append((None, group.across_coordinates(group.shift[j])[factor].item()))
        for coordinate, weight in pieces:
            if abs(weight) > _TOL:
                key = (moved, coordinate)
                terms[key] = terms.get(key, 0j) + weight * value
    return terms


def _independent(average: dict[_Term, complex]) -> list[dict[_Term, complex]]:
    """Real and imaginary part of the average as Re(sum c w), orthonormalized; none where it vanishes."""
    found: list[dict[_Term, complex]] = []
    for rotation in (1, -1j):
        mode: dict[_Term, complex] = {}
        for (k, factor), value in average.items():
            value = value * rotation
            first = next((i for i in k if i), 0)
            if first < 0:  # Re(c e^{-i t}) = Re(conj(c) e^{i t}): one representative of k and -k
                k, value = tuple(-i for i in k), value.conjugate()
            mode[k, factor] = mode.get((k, factor), 0j) + value
        mode = {t: (c if any(t[0]) else complex(c.real)) for t, c in mode.items()}
        for other in found:
            overlap = _inner(mode, other)
            mode = {t: mode.get(t, 0j) - overlap * other.get(t, 0j) for t in {**mode, **other}}
        norm = math.sqrt(_inner(mode, mode))
        if norm > 1e-6:
            found.append({t: c / norm for t, c in mode.items() if abs(c) > _TOL * norm})
    return found


def _inner(f: dict[_Term, complex], g: dict[_Term, complex]) -> float:
    """E[f g] under the uniform law: E[Re(c w) Re(d w)] = Re(c conj(d)) / 2, or c d for the constant."""
    return sum(
        (value * g.get(term, 0j).conjugate()).real * (0.5 if any(term[0]) else 1.0)
        for term, value in f.items()
    )
