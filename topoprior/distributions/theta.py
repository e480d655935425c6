"""The wrapped normal density on the circle: p(x) = sum_{k in Z} N(x + k; 0, s^2).

The direct sum converges fast when the normal is narrow beside the period, the sum over Fourier modes
(Poisson summation) when it is wide. Where the two meet, a handful of terms reaches
rounding error, so the number of terms is a constant: it depends on the floating-point type alone.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from topoprior.utils.tracing import is_known_false

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
    is_narrow = scale < CROSSOVER
    if is_known_false(is_narrow):
        return _dual(x, scale, terms)
    if is_known_false(~is_narrow):
        return _direct(x, scale, terms)
    return torch.where(is_narrow, _direct(x, scale, terms), _dual(x, scale, terms))


def _direct(x: Tensor, scale: Tensor, terms: int) -> Tensor:
    """As N(x; 0, s^2) (1 + sum over k != 0 of exp(-(k^2 + 2 k x) / 2 s^2)), with
    k^2 - 2 k |x| = k (1 - 2 |x|) + k (k - 1): two exponentials serve every k, and none overflows."""
    narrow = scale.clamp(max=CROSSOVER)
    # Bounded: where 1 / s^2 overflows, 0 times it would be NaN, and no image but the nearest counts.
    half_precision = (0.5 / narrow.square()).clamp(max=1e30)
    near = ((2 * x.abs() - 1) * half_precision).exp()
    far = (-(2 * x.abs() + 1) * half_precision).exp()
    step = (-2 * half_precision).exp()
    images = near + far
    for k in range(2, terms + 1):
        images = images + (near**k + far**k) * step ** (k * (k - 1) // 2)
    return images.log1p() - 0.5 * (x / narrow).square() - narrow.log() - 0.5 * _LOG_2PI


def _dual(x: Tensor, scale: Tensor, terms: int) -> Tensor:
    """cos(2 pi n x) by the Chebyshev recurrence, so one cosine serves every n."""
    wide = scale.clamp(CROSSOVER, _FLAT)
    decay = (-2 * math.pi**2 * wide.square()).exp()
    first = (2 * math.pi * x).cos()
    previous, current = torch.ones_like(first), first
    modes = decay * current
    for n in range(2, terms + 1):
        previous, current = current, 2 * first * current - previous
        modes = modes + decay ** (n * n) * current
    return (2 * modes).log1p()
