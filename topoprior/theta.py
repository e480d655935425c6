"""Gaussian sums over lattices: the density of a normal variable read modulo a lattice.

    p(x) = sum_{k in Z^r} N(x + B k; 0, L L^T)

The sum over the lattice converges fast when the normal is narrow beside the period, the sum over
the dual lattice (Poisson summation) when it is wide. Where the two meet, a handful of terms reaches
rounding error, so the number of terms is a constant: it depends on the floating-point type alone.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Below this std (in periods) sum over the lattice, above it over its dual. At the crossing the first
# omitted term is e^-22 (direct) or e^-24 (dual) of the leading one with N = 2, and e^-43 with N = 3.
CROSSOVER = 0.37
_LOG_2PI = math.log(2 * math.pi)
# Beyond this std (in periods) every Fourier mode underflows in float64: the density is flat.
_FLAT = 10.0


def num_terms(dtype: torch.dtype) -> int:
    """Terms a side that bring the truncation error of :func:`log_wrapped_normal` below rounding."""
    return 3 if dtype == torch.float64 else 2


def log_wrapped_normal(x: Tensor, scale: Tensor) -> Tensor:
    r"""Log density at ``x`` of a centered normal of std ``scale`` wrapped on the circle R/Z.

    .. math:: \log \sum_{k \in Z} N(x + k; 0, s^2) = \log\big(1 + 2 \sum_{n \ge 1}
              e^{-2 \pi^2 s^2 n^2} \cos(2 \pi n x)\big)

    Args:
        x: positions in periods, any shape.
        scale: positive stds in periods, broadcastable with ``x``.

    Example:
        >>> x, wide = torch.zeros(()), torch.tensor(5.0)
        >>> log_wrapped_normal(x, wide).item()  # a wide normal is uniform
        0.0
    """
    terms = num_terms(torch.promote_types(x.dtype, scale.dtype))
    x = x - x.round()

    # Direct sum, as N(x; 0, s^2) (1 + sum over k != 0 of exp(-(k^2 + 2 k x) / 2 s^2)), with
    # k^2 - 2 k |x| = k (1 - 2 |x|) + k (k - 1): two exponentials serve every k, and none overflows.
    narrow = scale.clamp(max=CROSSOVER)
    half_precision = 0.5 / narrow.square()
    near = ((2 * x.abs() - 1) * half_precision).exp()
    far = (-(2 * x.abs() + 1) * half_precision).exp()
    step = (-2 * half_precision).exp()
    images = near + far
    for k in range(2, terms + 1):
        images = images + (near**k + far**k) * step ** (k * (k - 1) // 2)
    direct = images.log1p() - x.square() * half_precision - narrow.log() - 0.5 * _LOG_2PI

    # Dual sum: cos(2 pi n x) by the Chebyshev recurrence, so one cosine serves every n.
    wide = scale.clamp(CROSSOVER, _FLAT)
    decay = (-2 * math.pi**2 * wide.square()).exp()
    first = (2 * math.pi * x).cos()
    previous, current = torch.ones_like(first), first
    modes = decay * current
    for n in range(2, terms + 1):
        previous, current = current, 2 * first * current - previous
        modes = modes + decay ** (n * n) * current
    dual = (2 * modes).log1p()
    return torch.where(scale < CROSSOVER, direct, dual)


# --- any lattice, any covariance ---------------------------------------------------------------


def reduce_basis(basis: Tensor, sweeps: int = 48) -> Tensor:
    """LLL-reduced bases (columns) of the lattices spanned by ``basis``, (..., n, r) -> (..., n, r).

    Afterwards the Gram-Schmidt lengths of the columns fall by no more than a factor 0.86 a column,
    which is what bounds the number of terms in :func:`log_lattice_normal`. The number of sweeps is
    fixed, so that it can be compiled; 48 are enough for lengths that differ by a factor of 1e6.
    """
    rank = basis.shape[-1]
    for _ in range(sweeps if rank > 1 else 0):
        for i in range(1, rank):
            columns = list(basis.unbind(-1))
            r = torch.linalg.qr(basis).R
            top = r[..., i]
            for j in reversed(range(i)):
                k = (top[..., j] / r[..., j, j]).round()
                top = top - k.unsqueeze(-1) * r[..., j]
                columns[i] = columns[i] - k.unsqueeze(-1) * columns[j]
            swap = top[..., i - 1 : i + 1].square().sum(-1) < 0.99 * r[..., i - 1, i - 1].square()
            swap = swap.unsqueeze(-1)
            first, second = columns[i - 1], columns[i]
            columns[i - 1] = torch.where(swap, second, first)
            columns[i] = torch.where(swap, first, second)
            basis = torch.stack(columns, -1)
    return basis


def whitened_basis(scale_tril: Tensor, lattice: Tensor) -> tuple[Tensor, Tensor]:
    """QR factors (Q, R) of a reduced basis of L^-1 B Z^r, with the diagonal of R positive.

    The integer change of basis is piecewise constant, so gradients flow through L^-1 B alone.
    """
    whitened = torch.linalg.solve_triangular(
        scale_tril, lattice.expand(*scale_tril.shape[:-2], *lattice.shape), upper=False
    )
    with torch.no_grad():
        double = whitened.double()
        change = torch.linalg.pinv(double) @ reduce_basis(double)
        change = change.round().to(whitened.dtype)
    q, r = torch.linalg.qr(whitened @ change)
    sign = torch.where(r.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).to(r.dtype)
    return q * sign.unsqueeze(-2), r * sign.unsqueeze(-1)


def log_lattice_normal(x: Tensor, scale_tril: Tensor, lattice: Tensor) -> Tensor:
    r"""Log of :math:`\sum_{k \in Z^r} N(x + B k; 0, L L^T)` for any lattice B and any covariance.

    In whitened coordinates a reduced basis of the lattice is brought to triangular form R. Leading
    columns that are short (the normal is wide along them) are summed over the dual lattice, the
    others directly; reduction orders the columns so that this split exists for every covariance.
    The number of terms is at most 9^r, for every batch.

    Args:
        x: (..., n).
        scale_tril: lower triangular with positive diagonal, (..., n, n), broadcastable with ``x``.
        lattice: (n, r) with r <= n; columns are the periods.
    """
    dim, rank = lattice.shape
    log_norm = scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1) + 0.5 * dim * _LOG_2PI
    y = torch.linalg.solve_triangular(scale_tril, x.unsqueeze(-1), upper=False).squeeze(-1)
    if rank == 0:
        return -0.5 * y.square().sum(-1) - log_norm
    q, r = whitened_basis(scale_tril, lattice)
    along = (q.transpose(-1, -2) @ y.unsqueeze(-1)).squeeze(-1)
    across = (y - (q @ along.unsqueeze(-1)).squeeze(-1)).square().sum(-1)
    is_wide = r.diagonal(dim1=-2, dim2=-1) < 1 / CROSSOVER
    num_wide = (is_wide * torch.arange(1, rank + 1, device=x.device)).amax(-1)  # up to the last one
    total = torch.zeros_like(across)
    for wide in range(rank + 1):
        chosen = num_wide == wide
        # Elsewhere a harmless stand-in, so that gradients of what is not chosen stay finite.
        safe = torch.where(chosen[..., None, None], r, torch.eye(rank, dtype=r.dtype, device=r.device))
        total = torch.where(chosen, _log_sum(along, safe, wide), total)
    return total - 0.5 * across - log_norm


def _offsets(terms: int, width: int, like: Tensor) -> Tensor:
    """All integer vectors with entries in -terms..terms, ((2 terms + 1)^width, width)."""
    line = torch.arange(-terms, terms + 1, dtype=like.dtype, device=like.device)
    if width == 0:
        return line.new_zeros(1, 0)
    return torch.cartesian_prod(*[line] * width).reshape(-1, width)


def _log_sum(p: Tensor, r: Tensor, wide: int) -> Tensor:
    """log sum_k exp(-|p + R k|^2 / 2), the first ``wide`` columns by Poisson summation."""
    rank = r.shape[-1]
    offsets = _offsets(3, rank - wide, p)
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
    offsets = _offsets(4 if r.dtype == torch.float64 else 3, width, p)
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
