r"""Spherical harmonics that are invariant under a finite group, as polynomials.

On the homogeneous polynomials of degree d in n + 1 variables take the basis
:math:`\sqrt{d! / \alpha!}\, x^\alpha`. An orthogonal matrix acts on it by an orthogonal matrix, and the
harmonic polynomials are the orthogonal complement of |x|^2 times those of degree d - 2. So averaging
over the group is an orthogonal projector, and its image among the harmonic ones is found without a
single integral.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from topoprior.utils.plain import plain

_TOL = 1e-6


class SphericalHarmonics:
    """Polynomials on R^(n+1), evaluated at (..., n + 1): values (..., num_features).

    Args:
        exponents: of the monomials, integers (M, n + 1).
        weights: of the monomials in every polynomial, (M, num_features).

    Example:
        >>> xy = SphericalHarmonics(torch.tensor([[1, 1]]), torch.tensor([[2.0]]))
        >>> xy(torch.tensor([3.0, 5.0]))
        tensor([30.])
    """

    def __init__(self, exponents: Tensor, weights: Tensor) -> None:
        self._exponents, self._weights = exponents, weights
        self._degree = int(exponents.max())  # here, as it cannot be read off a tensor in compiled code

    @property
    def num_features(self) -> int:
        return self._weights.shape[-1]

    @plain
    def select(self, columns: list[int]) -> SphericalHarmonics:
        """The polynomials of the given columns, monomials that none of them uses left out."""
        weights = self._weights[:, columns]
        used = weights.abs().amax(1) > 0
        return SphericalHarmonics(self._exponents[used], weights[used])

    def __call__(self, x: Tensor) -> Tensor:
        return _monomials(x, self._exponents, self._degree) @ self._weights.to(x)

    @staticmethod
    @plain
    def join(parts: list[SphericalHarmonics]) -> SphericalHarmonics:
        """The polynomials of all ``parts``, one after the other."""
        exponents = torch.cat([part._exponents for part in parts])
        return SphericalHarmonics(exponents, torch.block_diag(*(part._weights for part in parts)))


def _monomials(x: Tensor, exponents: Tensor, degree: int) -> Tensor:
    """x^alpha for every row alpha of ``exponents``, none of them above ``degree``: (..., d) -> (..., M)."""
    powers = [torch.ones_like(x)]
    for _ in range(degree):
        powers.append(powers[-1] * x)
    table = torch.stack(powers, -1)
    exponents = exponents.to(x.device)
    product = table[..., 0, :].index_select(-1, exponents[:, 0])
    for axis in range(1, x.shape[-1]):
        product = product * table[..., axis, :].index_select(-1, exponents[:, axis])
    return product


def _exponents(variables: int, degree: int) -> Tensor:
    """All exponents of the given degree, (M, variables), in a fixed order."""
    bars = itertools.combinations(range(degree + variables - 1), variables - 1)
    rows = []
    for places in bars:
        edges = (-1, *places, degree + variables - 1)
        rows.append([edges[i + 1] - edges[i] - 1 for i in range(variables)])
    return torch.tensor(rows)


def _norms(exponents: Tensor) -> Tensor:
    """sqrt(d! / alpha!)."""
    e = exponents.double()
    return (0.5 * (torch.lgamma(e.sum(1) + 1) - torch.lgamma(e + 1).sum(1))).exp()


@plain
def invariant_harmonics(elements: Tensor, degree: int) -> SphericalHarmonics | None:
    r"""Real harmonics of one degree invariant under ``elements`` (m, d, d), or None if there are none.

    Orthonormal under the uniform law of the sphere. The basis is found by Gram-Schmidt on averaged
    monomials in a fixed order, so it is the same on every machine.

    Example:
        >>> antipodes = torch.stack([torch.eye(3), -torch.eye(3)]).double()
        >>> invariant_harmonics(antipodes, 1) is None
        True
        >>> invariant_harmonics(antipodes, 2).num_features
        5
    """
    variables = elements.shape[-1]
    exponents = _exponents(variables, degree)
    norms = _norms(exponents)
    projector = _harmonic_projector(exponents, norms)
    dimension = projector.trace()
    # The action of an element in this basis follows from its values at enough points.
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(2 * len(exponents) + 8, variables, generator=generator, dtype=torch.float64)
    points = points / points.norm(dim=1, keepdim=True)
    here = _monomials(points, exponents, degree) * norms
    there = sum(
        (_monomials(points @ a.T, exponents, degree) * norms for a in elements), torch.zeros_like(here)
    )
    average = torch.linalg.lstsq(here, there / len(elements)).solution
    projector = projector @ average @ projector
    count = int(projector.trace().round())
    found: list[Tensor] = []
    for column in projector.T:
        for _ in range(2):
            for other in found:
                column = column - (column @ other) * other
        if len(found) < count and column.norm() > _TOL:
            found.append(column / column.norm())
    if not found:
        return None
    # sum_k f_k^2 over a full basis of H_d is constant on the sphere: its value is dim H_d E[f^2].
    pole = _monomials(torch.eye(variables, dtype=torch.float64)[0], exponents, degree) * norms
    mean_square = (_harmonic_projector(exponents, norms) @ pole) @ pole / dimension
    weights = torch.stack(found, 1) * norms.unsqueeze(1) / mean_square.sqrt()
    return SphericalHarmonics(exponents, torch.where(weights.abs() < 1e-9, 0.0, weights))


def _harmonic_projector(exponents: Tensor, norms: Tensor) -> Tensor:
    """Orthogonal projector onto the harmonic polynomials, in the normalized monomial basis (M, M)."""
    eye = torch.eye(len(exponents), dtype=torch.float64)
    degree, variables = int(exponents[0].sum()), exponents.shape[1]
    if degree < 2:
        return eye
    lower = _exponents(variables, degree - 2)
    place = {tuple(row): i for i, row in enumerate(exponents.tolist())}
    multiples = torch.zeros(len(exponents), len(lower), dtype=torch.float64)  # |x|^2 x^alpha
    for column, row in enumerate(lower.tolist()):
        for axis in range(variables):
            target = place[tuple(e + 2 * (axis == i) for i, e in enumerate(row))]
            multiples[target, column] = 1 / norms[target]
    q = torch.linalg.qr(multiples).Q
    return eye - q @ q.T
