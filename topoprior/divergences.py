r"""Kullback-Leibler divergences through coverings, in nats.

Data processing: KL(pi* q || pi* p) <= KL(q || p), with equality iff q / p is constant on fibres. The
*cover bound* is the right-hand side, computed on a finite cover, where a uniform law exists; it
exceeds the exact value by at most log(number of sheets).

The trap: log vol - h(q) with q the normal on R^n is a *lower* bound on the KL to the uniform law of the
quotient, since pushing down can only lose entropy, h(pi* q) <= h(q). It is no training objective.

`torch.distributions.kl_divergence` is exact; the bound has its own name, `cover_kl`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, MultivariateNormal, kl_divergence, register_kl

from topoprior.coverings import Covering
from topoprior.distributions import UniformOn, WrappedNormal

# Below these stds the wrapped normal's entropy is the normal's to rounding (the gap is about Q(1 / 2s)).
NARROW = {torch.float32: 0.085, torch.float64: 0.066}
_DEGREE = {torch.float32: 16, torch.float64: 42}
# From these stds on, r = exp(-(2 pi s)^2) is 0 and its square root is not.
_UNIFORM = {torch.float32: 2.0, torch.float64: 4.5}


def kappa(scale: Tensor) -> Tensor:
    r"""KL from the normal of std s wrapped on the circle of length 1 to the uniform law.

    .. math:: \kappa(s) = \sum_{n \ge 1} \log(1 - r^n)
              - 2 \sum_{n \ge 1} \frac{(-1)^n}{n} \frac{r^{n (n + 1) / 2}}{1 - r^n},
              \qquad r = e^{-(2 \pi s)^2}

    and -log(2 pi e s^2) / 2 where s is small. Nonnegative, decreasing, and 0 in the limit of large s.
    Evaluated as r times a polynomial in r that interpolates the series.

    Args:
        scale: positive stds in periods, any shape.

    Example:
        >>> kappa(torch.tensor([0.1, 0.2, 0.8], dtype=torch.float64))
        tensor([8.8365e-01, 2.2491e-01, 1.0642e-11], dtype=torch.float64)
    """
    known = scale if scale.dtype in NARROW else scale.float()
    if known.requires_grad and torch.is_grad_enabled():
        value = _KappaAndSlope.apply(known)[0]
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


def _then(x: Tensor, operation: str, *arguments: Any) -> Tensor:
    """x.operation(*arguments), in place where nothing is differentiated: allocating a tensor costs more
    than the arithmetic on it. For tensors that the caller has made."""
    return getattr(x, operation if torch.is_grad_enabled() else operation + "_")(*arguments)


def _horner(w: Tensor, coefficients: list[float]) -> Tensor:
    value = torch.full_like(w, coefficients[-1])
    for c in reversed(coefficients[:-1]):
        value = _then(_then(value, "mul", w), "add", c)
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
    half = _then(half, "mul", -2 * math.pi**2)
    r = half.exp()
    r = _then(r, "mul", r)
    w = _then(r * (2 / r_max), "sub", 1)
    found: list[Tensor] = []
    for order in orders:
        value = _then(_horner(w, polynomials[order]), "mul", r)
        if order == 0:
            bits = _then((scale * (2 / narrow)).clamp(max=2), "log2")
            value = _then(value, "sub", _then(_then(bits, "sub", 1), "mul", math.log(2)))
        else:  # d r / d s = 4 r half / s; the polynomial holds the 4
            value = _then(_then(value, "mul", half), "div", scale)
        found.append(value)
    return found


class _KappaAndSlope(torch.autograd.Function):
    """Value and derivative from one polynomial each: a third of the work of differentiating Horner."""

    generate_vmap_rule = True

    @staticmethod
    def forward(scale: Tensor) -> tuple[Tensor, Tensor]:
        value, slope = _kappa_and_slope(scale, (0, 1))
        return value, slope

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*inputs, output[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor | None) -> Tensor:
        scale, slope = ctx.saved_tensors
        if torch.is_grad_enabled():  # to be differentiated again: as a function of the scale
            (slope,) = _kappa_and_slope(scale, (1,))
        return grad * slope


def cover_kl(q: Distribution, p: Distribution) -> Tensor:
    r"""Closed-form upper bound on KL(q || p) on the base: the KL between laws on a cover, in nats.

    - ``WrappedNormal`` against ``UniformOn`` (a compact flat manifold): the KL on the torus that covers
      it. With a diagonal scale along the axes, :math:`\sum_i \kappa(\sigma_i / P_i)`; the gap to the
      exact value is between 0 and log(sheets). With a full covariance, the chain rule in triangular
      coordinates, :math:`\sum_i \kappa(1 / R_{ii})` with L^-1 B = QR: conditioning on an unwrapped
      coordinate can only increase a KL, so it is still an upper bound.
    - two ``WrappedNormal``: the KL of the normals on R^n, from q to the nearest lifts of p.
    - ``UniformOn`` against itself: 0.
    - ``Pushforward`` from a sphere against ``UniformOn``, and two ``Pushforward``: the KL of the bases,
      where torch knows it.

    Raises:
        TypeError: no closed form is known for this pair.
        ValueError: the two live on different spaces.

    Example:
        >>> import topoprior as tp
        >>> K = tp.KleinBottle()
        >>> q = tp.WrappedNormal(K, torch.tensor([0.3, 0.2]), torch.tensor([0.2, 0.2]))
        >>> bool(cover_kl(q, tp.UniformOn(K)) >= torch.distributions.kl_divergence(q, tp.UniformOn(K)))
        True
    """
    _check_same_space(q, p)
    for (kind_q, kind_p), bound in _COVER_KL.items():
        if isinstance(q, kind_q) and isinstance(p, kind_p):
            return bound(q, p)
    raise TypeError(f"cover_kl: no closed form for {type(q).__name__} against {type(p).__name__}")


_COVER_KL: dict[tuple[type, type], Callable[[Any, Any], Tensor]] = {}


def register_cover_kl(
    kind_q: type, kind_p: type
) -> Callable[[Callable[[Any, Any], Tensor]], Callable[[Any, Any], Tensor]]:
    """Decorator: what :func:`cover_kl` computes for these types, once they live on one space."""

    def register(bound: Callable[[Any, Any], Tensor]) -> Callable[[Any, Any], Tensor]:
        _COVER_KL[kind_q, kind_p] = bound
        return bound

    return register


@register_cover_kl(UniformOn, UniformOn)
def _zero(q: UniformOn, p: UniformOn) -> Tensor:
    return torch.zeros_like(q.entropy()).expand(_batch_shape(q, p))


@register_cover_kl(WrappedNormal, UniformOn)
def _torus_kl_uniform(q: WrappedNormal, p: UniformOn) -> Tensor:
    return _torus_kl(q).expand(_batch_shape(q, p))


def _batch_shape(q: Distribution, p: Distribution) -> torch.Size:
    return torch.broadcast_shapes(q.batch_shape, p.batch_shape)


def _torus_kl(q: WrappedNormal) -> Tensor:
    periods = q.covering.periods
    if q.is_diagonal and periods is not None:
        return kappa(q.scale / periods.to(q.scale)).sum(-1)
    # In float64: in float32 a covariance with stds 1e-3 and 1e3 has no digits left here.
    lattice = q.covering.lattice.to(q.loc.device)
    whitened = torch.linalg.solve_triangular(
        q.scale_tril.double(), lattice.expand(*q.batch_shape, *lattice.shape), upper=False
    )
    lengths = torch.linalg.qr(whitened).R.diagonal(dim1=-2, dim2=-1).abs()
    return kappa(1 / lengths).sum(-1).to(q.loc.dtype)


@register_cover_kl(WrappedNormal, WrappedNormal)
def _normal_kl(q: WrappedNormal, p: WrappedNormal) -> Tensor:
    space = q.covering
    # The images of N(loc, L L^T) are N(A_j loc + t_j, A_j L L^T A_j^T); take the nearest of each sheet.
    # Triangular factor of A_j L: the R of a QR decomposition of (A_j L)^T, transposed. In float64.
    loc, scale_tril = p.loc.double(), p.scale_tril.double()
    centers = space.wrap(space.sheets(loc) - q.loc.double().unsqueeze(-2))
    moved = space.linear.to(loc) @ scale_tril.unsqueeze(-3)
    factor = torch.linalg.qr(moved.transpose(-1, -2)).R.transpose(-1, -2)
    factor = factor * factor.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)
    image = MultivariateNormal(centers, scale_tril=factor, validate_args=False)
    upstairs = MultivariateNormal(
        torch.zeros_like(q.loc, dtype=loc.dtype).unsqueeze(-2),
        scale_tril=q.scale_tril.double().unsqueeze(-3),
        validate_args=False,
    )
    return kl_divergence(upstairs, image).amin(-1).to(torch.promote_types(q.loc.dtype, p.loc.dtype))


def _check_same_space(q: Distribution, p: Distribution) -> None:
    spaces = [getattr(d, "covering", None) for d in (q, p)]
    if not all(isinstance(s, Covering) for s in spaces):
        raise TypeError(
            f"expected distributions on a covering, found {type(q).__name__} and {type(p).__name__}"
        )
    # The same object first: comparing lattices cannot be compiled.
    if spaces[0] is not spaces[1] and spaces[0] != spaces[1]:
        raise ValueError(f"q lives on {spaces[0]!r}, p on {spaces[1]!r}: expected the same space")


@register_kl(WrappedNormal, UniformOn)
def _kl_wrapped_normal_uniform(q: WrappedNormal, p: UniformOn) -> Tensor:
    """Exact: log vol - h(q). One sheet and a diagonal scale have a closed form; else quadrature."""
    _check_same_space(q, p)
    if q.covering.num_sheets == 1 and q.is_diagonal and q.covering.periods is not None:
        return _torus_kl_uniform(q, p)
    return (math.log(q.covering.volume) - q.entropy()).expand(_batch_shape(q, p))


@register_kl(UniformOn, UniformOn)
def _kl_uniform_uniform(q: UniformOn, p: UniformOn) -> Tensor:
    _check_same_space(q, p)
    return torch.zeros(_batch_shape(q, p), dtype=q.dtype, device=q.device)
