"""KL of a wrapped normal to the uniform law of the circle, and its slope."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from topoprior.distributions.arguments import tensors
from topoprior.utils.autograd import then, with_slopes

# Below these stds the wrapped normal's entropy is the normal's to rounding (the gap is about Q(1 / 2s)).
NARROW = {torch.float32: 0.085, torch.float64: 0.066}
_DEGREE = {torch.float32: 16, torch.float64: 42}
# From these stds on, r = exp(-(2 pi s)^2) is 0 and its square root is not.
_UNIFORM = {torch.float32: 2.0, torch.float64: 4.5}


def kappa(scale: Tensor | float) -> Tensor:
    r"""KL from the normal of std s wrapped on the circle of length 1 to the uniform law.

    .. math:: \kappa(s) = \sum_{n \ge 1} \log(1 - r^n)
              - 2 \sum_{n \ge 1} \frac{(-1)^n}{n} \frac{r^{n (n + 1) / 2}}{1 - r^n},
              \qquad r = e^{-(2 \pi s)^2}

    and -log(2 pi e s^2) / 2 where s is small. Nonnegative, decreasing, and 0 in the limit of large s.
    Evaluated as r times a polynomial in r that interpolates the series.

    Args:
        scale: positive stds in periods, any shape; a number stands for a tensor, integers for real numbers.

    Raises:
        TypeError: neither.

    Example:
        >>> kappa(torch.tensor([0.1, 0.2, 0.8], dtype=torch.float64))
        tensor([8.8365e-01, 2.2491e-01, 1.0642e-11], dtype=torch.float64)
    """
    if not isinstance(scale, Tensor) or not scale.is_floating_point():
        (scale,) = tensors(scale=scale)
    known = scale if scale.dtype in NARROW else scale.float()
    if known.requires_grad and torch.is_grad_enabled():
        value = _differentiable(known)
    else:
        value = _kappa_and_slope(known, (0,))[0]
    return value.to(scale.dtype)


def kappa_and_slope(scale: Tensor) -> tuple[Tensor, Tensor]:
    """:func:`kappa` and its derivative, for code that differentiates by hand; float32 or float64."""
    value, slope = _kappa_and_slope(scale, (0, 1))
    return value, slope


def kappa_series(scale: Tensor, terms: int = 40) -> Tensor:
    """The series of :func:`kappa` summed as it stands, for s above about 0.05 in float64."""
    r = (-(2 * math.pi * scale).square()).exp()
    n = torch.arange(1, terms + 1, dtype=scale.dtype, device=scale.device)
    r = r.unsqueeze(-1)
    sign = 1 - 2 * (n % 2)
    # The first sum converges like r^n, slowly: extend it.
    many = torch.arange(1, 40 * terms + 1, dtype=scale.dtype, device=scale.device)
    return (-(r**many)).log1p().sum(-1) - 2 * (sign / n * r ** (n * (n + 1) / 2) / (1 - r**n)).sum(-1)


def _polynomials(dtype: torch.dtype) -> tuple[float, list[float], list[float]]:
    """Largest r, and in w = 2 r / r_max - 1 the coefficients of kappa / r and of 4 d kappa / dr.

    Chebyshev interpolation converges like 3^-n (float32) and 2.3^-n (float64), as the singularity
    nearest to [0, r_max] is at r = 1. The power basis is safe: the series in w converges on |w| <= 1.
    """
    r_max = math.exp(-((2 * math.pi * NARROW[dtype]) ** 2))
    to_r = np.polynomial.Polynomial([r_max / 2, r_max / 2])

    def ratio(w: Any) -> Any:
        r = torch.from_numpy(np.maximum(to_r(w), 1e-300))
        return (kappa_series((-r.log()).sqrt() / (2 * math.pi)) / r).numpy()

    fit = np.polynomial.Polynomial(
        np.polynomial.chebyshev.cheb2poly(np.polynomial.chebyshev.chebinterpolate(ratio, _DEGREE[dtype]))
    )
    slope = (fit * to_r).deriv() * (8 / r_max)
    return r_max, fit.coef.tolist(), slope.coef.tolist()


# Built once, at import (a few milliseconds), so that compiled code sees constants.
_POLYNOMIALS = {dtype: _polynomials(dtype) for dtype in NARROW}


def _horner(w: Tensor, coefficients: list[float]) -> Tensor:
    value = torch.full_like(w, coefficients[-1])
    for c in reversed(coefficients[:-1]):
        value = then(then(value, "mul", w), "add", c)
    return value


def _kappa_and_slope(scale: Tensor, orders: tuple[int, ...]) -> list[Tensor]:
    """kappa (order 0) and its derivative (order 1), those that are asked for.

    With N the narrow std and m = max(s, N): kappa(s) = kappa(m) - log min(s / N, 1), as below N the
    derivative is -1 / s, and so kappa'(s) = kappa'(m) m / s.

    Written for speed on a CPU: `torch.where` costs more than `exp` and `log` together, `exp` of what
    underflows ten times an `exp` that does not, and `log` of exactly 1 as much; log2(2) is exact.
    """
    narrow = NARROW[scale.dtype]
    r_max, *polynomials = _POLYNOMIALS[scale.dtype]
    half = scale.clamp(narrow, _UNIFORM[scale.dtype]).square()
    half = then(half, "mul", -2 * math.pi**2)
    r = half.exp()
    r = then(r, "mul", r)
    w = then(r * (2 / r_max), "sub", 1)
    found: list[Tensor] = []
    for order in orders:
        value = then(_horner(w, polynomials[order]), "mul", r)
        if order == 0:
            bits = then((scale * (2 / narrow)).clamp(max=2), "log2")
            value = then(value, "sub", then(then(bits, "sub", 1), "mul", math.log(2)))
        else:  # d r / d s = 4 r half / s; the polynomial holds the 4
            value = then(then(value, "mul", half), "div", scale)
        found.append(value)
    return found


@with_slopes
def _differentiable(scale: Tensor) -> tuple[Tensor, ...]:
    """One polynomial each: a third of the work of differentiating Horner."""
    return tuple(_kappa_and_slope(scale, (0, 1)))
