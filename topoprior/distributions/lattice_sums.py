"""Gaussian sums over any lattice, for any covariance: reduction, then the direct and the dual sum.

Everything here is computed in float64. A normal with stds 1e-3 and 1e3 along tilted axes winds a
thousand times around a torus: an error of 1e-16 in one entry of L^-1 B moves its far strands by 1e-10
of their width. So products with the lattice are computed with twice the digits (`whiten`).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from topoprior.distributions.theta import CROSSOVER
from topoprior.spaces.flat.lattices import unimodular
from topoprior.utils.tracing import is_known_false

_LOG_2PI = math.log(2 * math.pi)
_DIRECT, _DUAL = 3, 4  # terms a side


# --- twice the digits ----------------------------------------------------------------------------


def _two_product(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """a b = p + e exactly (Dekker 1971), for float64."""
    p = a * b
    c, d = 134217729.0 * a, 134217729.0 * b  # 2^27 + 1 splits the digits into halves
    a_high, b_high = c - (c - a), d - (d - b)
    a_low, b_low = a - a_high, b - b_high
    return p, ((a_high * b_high - p) + a_high * b_low + a_low * b_high) + a_low * b_low


def accurate_product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b as if in twice the precision, then rounded (Ogita, Rump & Oishi 2005, Dot2), for float64."""
    total, rest = _two_product(a[..., :, :1], b[..., :1, :])
    for k in range(1, a.shape[-1]):
        p, e = _two_product(a[..., :, k : k + 1], b[..., k : k + 1, :])
        new = total + p
        part = new - total
        rest = rest + (((total - (new - part)) + (p - part)) + e)
        total = new
    return total + rest


def whiten(scale_tril: Tensor, vectors: Tensor, weights: Tensor) -> Tensor:
    """L^-1 (V w) to rounding error, however ill-conditioned L: (..., n, n), (..., n, k), (..., k, j).

    One step of iterative refinement, its residual in twice the precision. Differentiable in L and V.
    """
    first = torch.linalg.solve_triangular(scale_tril, vectors @ weights, upper=False)
    with torch.no_grad():
        batch = torch.broadcast_shapes(scale_tril.shape[:-2], vectors.shape[:-2])
        left = torch.cat([m.expand(*batch, *m.shape[-2:]) for m in (vectors, -scale_tril)], -1)
        batch = first.shape[:-2]
        right = torch.cat([weights.expand(*batch, *weights.shape[-2:]), first], -2)
        residual = accurate_product(left, right)
        correction = torch.linalg.solve_triangular(scale_tril, residual, upper=False)
    return first + correction


# --- the sum ---------------------------------------------------------------------------------------


def whitened_basis(scale_tril: Tensor, lattice: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """QR factors (Q, R) of a reduced basis L^-1 B Z, with the diagonal of R positive; and Z. In float64.

    The integer change of basis Z is piecewise constant, so gradients flow through L^-1 B alone.
    """
    scale_tril, lattice = scale_tril.double(), lattice.double()
    with torch.no_grad():
        whitened = torch.linalg.solve_triangular(
            scale_tril, lattice.expand(*scale_tril.shape[:-2], *lattice.shape), upper=False
        )
        change = unimodular(torch.linalg.qr(whitened).R)
    q, r = torch.linalg.qr(whiten(scale_tril, lattice, change))
    sign = torch.where(r.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).to(r.dtype)
    return q * sign.unsqueeze(-2), r * sign.unsqueeze(-1), change


def count_wide(r: Tensor) -> Tensor:
    """How many leading columns are summed over the dual lattice: up to the last short one. (...)."""
    is_wide = r.diagonal(dim1=-2, dim2=-1) < 1 / CROSSOVER
    return (is_wide * torch.arange(1, r.shape[-1] + 1, device=r.device)).amax(-1)


def log_lattice_normal(x: Tensor, scale_tril: Tensor, lattice: Tensor) -> Tensor:
    r"""Log of :math:`\sum_{k \in Z^r} N(x + B k; 0, L L^T)` for any lattice B and any covariance.

    In whitened coordinates a reduced basis of the lattice is brought to triangular form R. Leading
    columns that are short (the normal is wide along them) are summed over the dual lattice, the
    others directly; reduction orders the columns so that this split exists for every covariance.
    The number of terms is at most 9^r, for every batch.

    Computed in float64: for stds between 1e-3 and 1e3 periods, on any axes, the density is exact to
    1e-12 of its peak (or of 1, if that is more), as a function of the arguments as they are stored.

    Args:
        x: (..., n).
        scale_tril: lower triangular with positive diagonal, (..., n, n), broadcastable with ``x``.
        lattice: (n, r) with r <= n; columns are the periods.

    Returns:
        (...), in the type of ``x``.
    """
    return log_lattice_normal_of_sum(x.unsqueeze(-1), scale_tril, lattice)


def log_lattice_normal_of_sum(terms: Tensor, scale_tril: Tensor, lattice: Tensor) -> Tensor:
    """:func:`log_lattice_normal` at the sum over the last axis of ``terms`` (..., n, c).

    The sum is taken in twice the precision: the difference of a far lift and the center loses no digits.
    """
    dtype = terms.dtype
    terms, scale_tril, lattice = terms.double(), scale_tril.double(), lattice.double()
    dim, rank = lattice.shape
    log_norm = scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1) + 0.5 * dim * _LOG_2PI
    ones = terms.new_ones(terms.shape[-1], 1)
    if rank == 0:
        y = whiten(scale_tril, terms, ones).squeeze(-1)
        return (-0.5 * y.square().sum(-1) - log_norm).to(dtype)
    q, r, change = whitened_basis(scale_tril, lattice)
    with torch.no_grad():  # about the lattice vector to the lift that is nearest to the center
        y = torch.linalg.solve_triangular(scale_tril, terms @ ones, upper=False)
        steps = -torch.linalg.solve_triangular(r, q.transpose(-1, -2) @ y, upper=True).round()
        moves = change @ steps
        weights = torch.cat([ones.expand(*moves.shape[:-2], *ones.shape), moves], -2)
    batch = terms.shape[:-2]
    y = whiten(scale_tril, torch.cat([terms, lattice.expand(*batch, dim, rank)], -1), weights)
    along = q.transpose(-1, -2) @ y
    across = (y - q @ along).squeeze(-1).square().sum(-1)
    along = along.squeeze(-1)
    num_wide = count_wide(r)
    total = torch.zeros_like(across)
    for wide in range(rank + 1):
        chosen = num_wide == wide
        if is_known_false(chosen):
            continue
        # Elsewhere a harmless stand-in, so that gradients of what is not chosen stay finite.
        safe = torch.where(chosen[..., None, None], r, torch.eye(rank, dtype=r.dtype, device=r.device))
        total = torch.where(chosen, _log_sum(along, safe, wide), total)
    return (total - 0.5 * across - log_norm).to(dtype)


def _offsets(terms: int, width: int, like: Tensor) -> Tensor:
    """All integer vectors with entries in -terms..terms, ((2 terms + 1)^width, width)."""
    line = torch.arange(-terms, terms + 1, dtype=like.dtype, device=like.device)
    if width == 0:
        return line.new_zeros(1, 0)
    return torch.cartesian_prod(*[line] * width).reshape(-1, width)


def _log_sum(p: Tensor, r: Tensor, wide: int) -> Tensor:
    """log sum_k exp(-|p + R k|^2 / 2), the first ``wide`` columns by Poisson summation."""
    rank = r.shape[-1]
    offsets = _offsets(_DIRECT, rank - wide, p)
    r = r.unsqueeze(-3)
    p = p.unsqueeze(-2).expand(*p.shape[:-1], len(offsets), rank)
    for i in reversed(range(wide, rank)):  # row i sees only columns i, i + 1, ...: centre k_i last to first
        k = (-p[..., i] / r[..., i, i]).detach()
        k = k.round() + offsets[:, i - wide]
        p = p + k.unsqueeze(-1) * r[..., :, i]
    log_terms = -0.5 * p[..., wide:].square().sum(-1)
    if wide:
        log_terms = log_terms + log_dual_sum(p[..., :wide], r[..., :wide, :wide])
    return log_terms.logsumexp(-1)


def log_dual_sum(p: Tensor, r: Tensor) -> Tensor:
    """log sum_k exp(-|p + R k|^2 / 2), as the log of the sum over dual vectors m of
    (2 pi)^(w/2) / det R exp(-2 pi^2 |R^-T m|^2) cos(2 pi m . R^-1 p)."""
    width = r.shape[-1]
    offsets = _offsets(_DUAL, width, p)
    inverse = torch.linalg.inv(r)
    dual = (
        torch.zeros_like(inverse[..., 0, :]).unsqueeze(-2).expand(*inverse.shape[:-2], len(offsets), width)
    )  # R^-T m, lower triangular: row i is centred on what rows 0..i-1 have chosen
    frequencies = []
    for i in range(width):
        diagonal = inverse[..., i, i].unsqueeze(-1)
        m = (-dual[..., i] / diagonal).detach().round() + offsets[:, i]
        dual = dual + m.unsqueeze(-1) * inverse[..., i, :].unsqueeze(-2)
        frequencies.append(m)
    phase = (inverse @ p.unsqueeze(-1)).squeeze(-1)
    angle = (torch.stack(frequencies, -1) * phase.unsqueeze(-2)).sum(-1)
    total = ((-2 * math.pi**2 * dual.square().sum(-1)).exp() * (2 * math.pi * angle).cos()).sum(-1)
    log_det = r.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return total.clamp_min(torch.finfo(total.dtype).tiny).log() + 0.5 * width * _LOG_2PI - log_det
