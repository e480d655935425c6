r"""The power spherical law on spheres: to be pushed down to their quotients."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints, register_kl

from topoprior.distributions.arguments import at_least_single, finite_positive, tensors
from topoprior.distributions.uniform import UniformOn
from topoprior.spaces.spherical.manifold import SphericalSpaceForm
from topoprior.utils.checks import real_tensor
from topoprior.utils.precision import without_autocast


class _UnitVector(constraints.Constraint):
    """Vectors of length 1, up to rounding."""

    event_dim = 1

    def check(self, value: Tensor) -> Tensor:
        value = real_tensor("value", value)
        return (value.float().square().sum(-1) - 1).abs() < max(1e-4, 4 * torch.finfo(value.dtype).eps)

    def __repr__(self) -> str:
        return "UnitVector()"


unit_vector = _UnitVector()


class PowerSpherical(Distribution):
    r"""Power spherical law on S^(d-1): density proportional to :math:`(1 + \mu \cdot x)^\kappa`.

    De Cao & Aziz, The power spherical distribution, 2020. A stand-in for the von Mises-Fisher law with
    reparameterized samples without rejection: with alpha = (d - 1) / 2 + kappa and
    beta = (d - 1) / 2, (1 + mu . x) / 2 has the law Beta(alpha, beta). Sampling, density, entropy and
    their gradients hold for scales from 1e-3 to 1e4 and more.

    Args:
        loc: mu, unit vectors (..., d), d >= 2.
        scale: kappa > 0, (...), or a number.

    Raises:
        TypeError: an argument is neither a tensor nor a number.
        ValueError: ``loc`` has no such shape, or values are out of range.

    Example:
        >>> q = PowerSpherical(torch.tensor([0.0, 0.0, 1.0]), torch.tensor(1.0))
        >>> round(q.log_prob(torch.tensor([0.0, 0.0, 1.0])).exp().item(), 6)  # 2 / 4 pi
        0.159155
    """

    has_rsample = True
    arg_constraints = {"loc": unit_vector, "scale": finite_positive}
    support = unit_vector

    def __init__(self, loc: Tensor, scale: Tensor | float, validate_args: bool | None = None) -> None:
        loc, scale = tensors(loc=loc, scale=scale)
        if loc.dim() < 1 or loc.shape[-1] < 2:
            raise ValueError(f"loc: expected shape (..., d) with d >= 2, found {tuple(loc.shape)}")
        batch = torch.broadcast_shapes(loc.shape[:-1], scale.shape)
        self.loc = loc.expand(*batch, loc.shape[-1])
        self.scale = scale.expand(batch)
        if loc.is_meta:  # no values to check
            validate_args = False
        super().__init__(batch, torch.Size(loc.shape[-1:]), validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> PowerSpherical:
        new = self._get_checked_instance(PowerSpherical, _instance)
        batch_shape = torch.Size(batch_shape)
        new.loc = self.loc.expand(batch_shape + self.event_shape)
        new.scale = self.scale.expand(batch_shape)
        super(PowerSpherical, new).__init__(batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def _beta(self) -> float:
        return (self.event_shape[0] - 1) / 2

    def _computed(self) -> tuple[Tensor, Tensor]:
        """The parameters in the dtype that is computed in."""
        return self.loc.to(at_least_single(self.loc.dtype)), self.scale.to(
            at_least_single(self.scale.dtype)
        )

    @property
    def mean(self) -> Tensor:
        """E[x] = kappa / (kappa + d - 1) mu, inside the ball."""
        return (self.scale / (self.scale + 2 * self._beta)).unsqueeze(-1) * self.loc

    @property
    def mode(self) -> Tensor:
        return self.loc

    @without_autocast
    def rsample(self, sample_shape: Any = ()) -> Tensor:
        shape = torch.Size(sample_shape) + self.batch_shape
        # Beta by two Gamma variables: near the mode 1 - z keeps all its digits.
        loc, scale = self._computed()
        alpha = (scale + self._beta).expand(shape)
        a = torch.distributions.Gamma(alpha, torch.ones_like(alpha), validate_args=False).rsample()
        with torch.no_grad():
            b = torch.distributions.Gamma(
                torch.full_like(alpha, self._beta), torch.ones_like(alpha), validate_args=False
            ).sample()
        t = (a - b) / (a + b)
        radius = 2 * a.sqrt() * b.sqrt() / (a + b)
        v = torch.randn(*shape, self.event_shape[0] - 1, dtype=loc.dtype, device=loc.device)
        v = v / v.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(v.dtype).tiny)
        y = torch.cat([t.unsqueeze(-1), radius.unsqueeze(-1) * v], -1)
        # The reflection in u = mu + s e_1 takes e_1 to -s mu. With s the sign of mu_1, |u|^2 >= 2.
        sign = torch.where(loc[..., :1] < 0, -1.0, 1.0).to(loc)
        u = torch.cat([loc[..., :1] + sign, loc[..., 1:]], -1)
        reflected = y - 2 * u * (u * y).sum(-1, keepdim=True) / u.square().sum(-1, keepdim=True)
        return (-sign * reflected).to(self.loc.dtype)

    @without_autocast
    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        dtype = torch.promote_types(real_tensor("value", value).dtype, self.loc.dtype)
        value, beta = value.to(at_least_single(dtype)), self._beta
        loc, scale = self._computed()
        log_norm = _log_ratio(scale + beta, beta) - 2 * beta * math.log(2) - beta * math.log(math.pi)
        # log((1 + mu . x) / 2), by |x - mu| near the mode and by |x + mu| near its antipode.
        value = torch.where(value.isinf(), math.nan, value)  # no point has a density there
        near = ((value - loc).square().sum(-1) / 4).clamp(max=0.75)
        far = ((value + loc).square().sum(-1) / 4).clamp_min(torch.finfo(value.dtype).tiny)
        return (log_norm + scale * torch.where(far > 0.5, (-near).log1p(), far.log())).to(dtype)

    @without_autocast
    def entropy(self) -> Tensor:
        """In nats, closed form."""
        beta = self._beta
        _, scale = self._computed()
        alpha = scale + beta
        constant = 2 * beta * math.log(2) + beta * math.log(math.pi)
        found = constant - _log_ratio(alpha, beta) + scale * _log_ratio_slope(alpha, beta)
        return found.to(self.scale.dtype)


@register_kl(PowerSpherical, UniformOn)
def _kl_power_spherical_uniform(q: PowerSpherical, p: UniformOn) -> Tensor:
    """Closed form: log vol - h(q), as r(beta + k) - r(beta) - k r'(beta + k) with r = _log_ratio."""
    if not isinstance(p.covering, SphericalSpaceForm) or p.covering.num_sheets > 1:
        raise ValueError(f"q lives on a sphere, p on {p.covering!r}: push q forward first")
    if p.covering.cover_dim != q.event_shape[0]:
        raise ValueError(f"q lives on the sphere in R^{q.event_shape[0]}, p on {p.covering!r}")
    beta = q._beta
    whole, half = divmod(beta, 1)
    _, scale = q._computed()
    alpha = scale + beta
    total = torch.zeros_like(scale)
    if half:
        start = math.lgamma(beta + 0.5) - math.lgamma(beta)
        total = _log_half_ratio(alpha) - start - scale * _half_ratio_slope(alpha)
    for i in range(int(whole)):
        ratio = scale / (beta + half + i)
        total = total + ratio.log1p() - ratio / (1 + ratio)
    return total.to(q.scale.dtype).expand(torch.broadcast_shapes(q.batch_shape, p.batch_shape))


# --- log Gamma(a + beta) - log Gamma(a), for beta a multiple of 1/2 -----------------------------------


def _log_ratio(a: Tensor, beta: float) -> Tensor:
    """log Gamma(a + beta) - log Gamma(a), as a sum of logarithms: no difference of large numbers."""
    whole, half = divmod(beta, 1)
    total = _log_half_ratio(a) if half else torch.zeros_like(a)
    for i in range(int(whole)):
        total = total + (a + half + i).log()
    return total


def _log_ratio_slope(a: Tensor, beta: float) -> Tensor:
    """Derivative of :func:`_log_ratio` in a."""
    whole, half = divmod(beta, 1)
    total = _half_ratio_slope(a) if half else torch.zeros_like(a)
    for i in range(int(whole)):
        total = total + 1 / (a + half + i)
    return total


_ASYMPTOTIC = 16.0  # the first omitted terms of the series below are under 1e-12 from here on


def _log_half_ratio(a: Tensor) -> Tensor:
    """log Gamma(a + 1/2) - log Gamma(a), by its asymptotic series where a is large."""
    small, large = a.clamp(max=_ASYMPTOTIC), a.clamp(min=_ASYMPTOTIC)
    s = 1 / large
    s2 = s.square()
    series = s * (-1 / 8 + s2 * (1 / 192 + s2 * (-1 / 640 + s2 * (17 / 14336 - s2 * 31 / 18432))))
    direct = torch.lgamma(small + 0.5) - torch.lgamma(small)
    return torch.where(a < _ASYMPTOTIC, direct, 0.5 * large.log() + series)


def _half_ratio_slope(a: Tensor) -> Tensor:
    small, large = a.clamp(max=_ASYMPTOTIC), a.clamp(min=_ASYMPTOTIC)
    s = 1 / large
    s2 = s.square()
    series = s2 * (1 / 8 + s2 * (-3 / 192 + s2 * (5 / 640 + s2 * (-119 / 14336 + s2 * 279 / 18432))))
    direct = torch.digamma(small + 0.5) - torch.digamma(small)
    return torch.where(a < _ASYMPTOTIC, direct, 0.5 * s + series)
