r"""E|w| and E log sqrt(w^2 + k^2) of a normal variable in closed form, with their gradients.

Every function here is elementwise: w ~ N(loc, exp(log_scale)^2) for tensors ``loc`` and ``log_scale`` of
one shape. The gradients are computed with the value, in place, and again as differentiable functions
where they are themselves to be differentiated.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from topoprior.utils.autograd import in_blocks, then, with_slopes

_DEGREE = {torch.float32: 18, torch.float64: 36}  # truncation below 4e-8 and 1e-13


@with_slopes
def _mean_abs(loc: Tensor, log_scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """With d/dm E|w| = erf(z) and d/dlog s E|w| = s sqrt(2 / pi) exp(-z^2), z = m / (s sqrt 2)."""
    z = then(loc * (-log_scale).exp(), "mul", math.sqrt(0.5))
    of_loc = z.erf()
    # exp2, as exp of what underflows takes a CPU 30 times as long
    exponent = then(then(z * z, "neg"), "add", log_scale)
    bell = then(then(exponent, "mul", math.log2(math.e)), "exp2")
    of_log_scale = then(bell, "mul", math.sqrt(2 / math.pi))
    return torch.addcmul(of_log_scale, loc, of_loc), of_loc, of_log_scale


def mean_abs(loc: Tensor, log_scale: Tensor) -> Tensor:
    r"""E\|w\| = s sqrt(2 / pi) exp(-m^2 / 2 s^2) + m erf(m / (s sqrt 2)): the folded normal's mean, exact.

    Example:
        >>> mean_abs(torch.tensor([-3.0, 0.0]), torch.tensor([-5.0, 0.0]))
        tensor([3.0000, 0.7979])
    """
    return _mean_abs(loc, log_scale)


def mean_log_hypot(loc: Tensor, log_scale: Tensor, knee: float) -> Tensor:
    r"""E log sqrt(w^2 + k^2), k >= 0, to 1e-13 in float64 and to rounding in float32, gradients included.

    It is E log\|w + ik\|, a harmonic function of (m, k) on the half plane k > 0 that grows like
    log\|m + ik\|. Its derivative in m + ik is Faddeeva's function, which Weideman (SIAM J. Numer. Anal.
    31:1497, 1994) expands in powers of Z = (L + iz) / (L - iz), z = (m + ik) / (s sqrt 2), \|Z\| <= 1.
    That expansion integrates term by term: with D = L s sqrt 2 + k - im,

    .. math:: E \log|w + ik| = \log|D| + \mathrm{Re}\,[Q(Z) - Q(-1)]

    with a real polynomial Q that is right on the whole half plane. T = (1 - (1 + Z) Q'(Z)) / D has the
    derivatives: Im T in m, Re T in k, and 1 - m Im T - k Re T in log s, for the function is homogeneous.

    Args:
        knee: k, at least 0.

    Example: E log|w|, and E log(1 + w^2) for a wide normal.
        >>> mean_log_hypot(torch.tensor([0.0, 20.0]), torch.tensor([0.0, -2.0]), 0.0)
        tensor([-0.6352,  2.9957])
        >>> 2 * mean_log_hypot(torch.zeros(1), torch.tensor([math.log(10)]), 1.0)
        tensor([3.5759])
    """
    return _mean_log_hypot(loc, log_scale, knee=float(knee))


def _expansion(degree: int) -> tuple[float, float, list[tuple[float, float]]]:
    """L, Q(-1), and the coefficients of Q and of (1 + Z) Q', by degree."""
    length = 2**-0.25 * math.sqrt(degree)
    angle = np.arange(-1023, 1024) * (math.pi / 1024)
    t = length * np.tan(angle / 2)
    n = np.arange(1, degree + 1)
    waves = np.cos(n[:, None] * angle)  # Fourier coefficients of an even function
    fourier = (waves * np.exp(-t * t) * (length**2 + t * t)).sum(-1) / 2048
    value = np.polynomial.Polynomial([0.0, *(-math.sqrt(math.pi) / length * fourier / n)])
    slope = value.deriv() * np.polynomial.Polynomial([1.0, 1.0])
    return length, float(value(-1.0)), list(zip(value.coef.tolist(), slope.coef.tolist(), strict=True))


# Built once, at import (milliseconds), so that compiled code sees constants.
_EXPANSIONS = {dtype: _expansion(degree) for dtype, degree in _DEGREE.items()}


@with_slopes
@in_blocks
def _mean_log_hypot(loc: Tensor, log_scale: Tensor, *, knee: float) -> tuple[Tensor, Tensor, Tensor]:
    """E log|w + ik| and its derivatives in loc and log_scale."""
    length, at_minus_one, coefficients = _EXPANSIONS.get(loc.dtype) or _EXPANSIONS[torch.float32]
    h = then(log_scale.exp(), "mul", length * math.sqrt(2))
    u = h + knee  # D = u - im
    square = torch.addcmul(u * u, loc, loc)
    of_u, of_m = u / square, loc / square  # 1 / D = of_u + i of_m
    x, y = then(then(of_u * h, "mul", 2), "sub", 1), then(of_m * h, "mul", 2)  # Z = 2 h / D - 1
    real, imaginary = _two_polynomials(coefficients, x, y)
    value = then(then(then(square, "log"), "mul", 0.5), "add", real[0])
    # T = (1 - (1 + Z) Q'(Z)) / D
    a, b = 1 - real[1], imaginary[1]
    of_loc = then(a * of_m, "sub", b * of_u)
    of_log_scale = then(of_loc * loc, "neg")
    if knee:
        of_knee = then(a * of_u, "addcmul", b, of_m)
        of_log_scale = then(of_log_scale, "sub", of_knee, alpha=knee)
    return then(value, "sub", at_minus_one), of_loc, then(of_log_scale, "add", 1)


def _two_polynomials(
    coefficients: list[tuple[float, float]], x: Tensor, y: Tensor
) -> tuple[Tensor, Tensor]:
    """Real and imaginary parts, (2, *shape), of two polynomials at x + iy, |x + iy| <= 1.

    Division by (Z - x)^2 + y^2 instead of Horner's scheme: three real operations a degree.
    """
    columns = x.new_tensor(coefficients).reshape(-1, 2, *[1] * x.dim())
    minus_norm = then(torch.addcmul(x * x, y, y), "neg")
    twice = 2 * x
    ones = torch.ones_like(torch.stack([twice, twice]))
    last, now = torch.zeros_like(ones), ones * columns[-1]
    for column in columns[:-1].flip(0).unbind():
        last, now = now, then(then(then(last, "mul", minus_norm), "addcmul", twice, now), "add", column)
    # now = c_0 + 2x b_1 - |Z|^2 b_2, and the value is c_0 + Z b_1 - |Z|^2 b_2
    return then(now, "sub", x * last), y * last
