r"""Laws pushed down from a covering space, and the power spherical law to push from spheres.

Deck transformations are isometries, so the density at a point is the sum over its lifts, without a
Jacobian: :math:`\log q(x) = \log \sum_{\gamma} e^{\log b(\gamma x)}`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints, kl_divergence, register_kl

from topoprior.coverings import Covering, FlatManifold
from topoprior.distributions import UniformOn
from topoprior.divergences import _check_same_space, register_cover_kl
from topoprior.products import Product
from topoprior.spherical import SphericalSpaceForm

_NODES = 2048


class _UnitVector(constraints.Constraint):
    """Vectors of length 1, up to rounding."""

    event_dim = 1

    def check(self, value: Tensor) -> Tensor:
        return (value.square().sum(-1) - 1).abs() < 1e-4

    def __repr__(self) -> str:
        return "UnitVector()"


unit_vector = _UnitVector()


class Pushforward(Distribution):
    r"""Law of pi(x), x ~ base, pi a covering: the density is summed over lifts.

    Args:
        covering: a space with a finite deck group (:class:`SphericalSpaceForm`, products of them), or a
            :class:`FlatManifold`.
        base: a law on the cover, ``event_shape`` (cover_dim,). One whose support is not the whole cover
            must tolerate values outside it (``validate_args=False``).
        radius: on flat manifolds only: lifts farther than this from the base's mean are left out, so
            the mass of the base beyond it is what the density misses.

    Raises:
        TypeError: no such covering, or base is not a distribution.
        ValueError: the base lives elsewhere; ``radius`` is missing (for a normal base take
            :class:`WrappedNormal`, which needs none) or out of place.

    Example:
        >>> import topoprior as tp
        >>> mean = torch.tensor([0.0, 0.0, 1.0])
        >>> q = Pushforward(tp.RealProjectiveSpace(2), PowerSpherical(mean, torch.tensor(20.0)))
        >>> x = torch.tensor([0.6, 0.0, 0.8])
        >>> torch.allclose(q.log_prob(x), q.log_prob(-x))
        True
    """

    arg_constraints: dict[str, Any] = {}

    def __init__(
        self,
        covering: Covering,
        base: Distribution,
        radius: float | None = None,
        validate_args: bool | None = None,
    ) -> None:
        flat = isinstance(covering, FlatManifold)
        if not (flat or _has_finite_group(covering)):
            raise TypeError(
                f"covering: expected a FlatManifold or a space with a finite deck group, found {covering!r}"
            )
        if not isinstance(base, Distribution):
            raise TypeError(f"base: expected a Distribution, found {type(base).__name__}")
        if tuple(base.event_shape) != (covering.cover_dim,):
            raise ValueError(
                f"base: expected event_shape ({covering.cover_dim},), that of lifts to the cover of "
                f"{covering!r}, found {tuple(base.event_shape)}"
            )
        if flat and radius is None:
            raise ValueError(
                "radius: required on a flat manifold; for a normal base use WrappedNormal, which needs none"
            )
        if not flat and radius is not None:
            raise ValueError(f"radius: the deck group of {covering!r} is finite, all lifts are summed")
        if radius is not None and not 0 < radius < math.inf:
            raise ValueError(f"radius: expected a positive number, found {radius}")
        self.covering, self.base, self.radius = covering, base, radius
        super().__init__(base.batch_shape, base.event_shape, validate_args=validate_args)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        return self.base.has_rsample

    @property
    def support(self) -> Any:
        if isinstance(self.covering, SphericalSpaceForm):
            return unit_vector
        return constraints.real_vector  # any lift

    def expand(self, batch_shape: Any, _instance: Any = None) -> Pushforward:
        new = self._get_checked_instance(Pushforward, _instance)
        new.covering, new.radius = self.covering, self.radius
        new.base = self.base.expand(torch.Size(batch_shape))
        super(Pushforward, new).__init__(torch.Size(batch_shape), self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Lifts of reparameterized samples, (*sample_shape, *batch_shape, cover_dim)."""
        return self.base.rsample(torch.Size(sample_shape))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return self.base.sample(torch.Size(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        shape = torch.broadcast_shapes(value.shape[:-1], self.batch_shape)
        lifts = self._lifts(value.expand(*shape, *self.event_shape))
        return self.base.log_prob(lifts.movedim(-2, 0)).logsumexp(0)

    def _lifts(self, value: Tensor) -> Tensor:
        if self.radius is None:
            return self.covering.lifts(value, math.inf)
        assert isinstance(self.covering, FlatManifold)
        # Start from the lift nearest to the center; a detached one, the sum does not depend on it.
        center = _center(self.base).to(value)
        near = center + self.covering.difference(center, value)
        reach = 0.5 * self.covering.lattice.norm(dim=0).sum().item()
        return self.covering.lifts(near, self.radius + reach)

    def entropy(self) -> Tensor:
        """Entropy on the base in nats; exact for `PowerSpherical` under +-1, by 1-D quadrature.

        Raises:
            NotImplementedError: for any other pair.
        """
        return math.log(self.covering.volume) - _exact_kl(self)


def _has_finite_group(covering: Covering) -> bool:
    if isinstance(covering, Product):
        return all(_has_finite_group(part) for part in covering.parts)
    return isinstance(covering, SphericalSpaceForm)


def _center(base: Distribution) -> Tensor:
    """Where the base's mass is: its mean, or the mode of a law without one."""
    center = base.mean.detach()
    if not center.isfinite().all():
        center = base.mode.detach()
    if not center.isfinite().all():
        raise ValueError(f"base: {type(base).__name__} has neither a finite mean nor a mode")
    return center


class PowerSpherical(Distribution):
    r"""Power spherical law on S^(d-1): density proportional to :math:`(1 + \mu \cdot x)^\kappa`.

    De Cao & Aziz, The power spherical distribution, 2020. A stand-in for the von Mises-Fisher law with
    reparameterized samples without rejection: with alpha = (d - 1) / 2 + kappa and
    beta = (d - 1) / 2, (1 + mu . x) / 2 has the law Beta(alpha, beta). Sampling, density, entropy and
    their gradients hold for scales from 1e-3 to 1e4 and more.

    Args:
        loc: mu, unit vectors (..., d), d >= 2.
        scale: kappa > 0, (...).

    Example:
        >>> q = PowerSpherical(torch.tensor([0.0, 0.0, 1.0]), torch.tensor(1.0))
        >>> round(q.log_prob(torch.tensor([0.0, 0.0, 1.0])).exp().item(), 6)  # 2 / 4 pi
        0.159155
    """

    has_rsample = True
    arg_constraints = {"loc": unit_vector, "scale": constraints.positive}
    support = unit_vector

    def __init__(self, loc: Tensor, scale: Tensor, validate_args: bool | None = None) -> None:
        if loc.dim() < 1 or loc.shape[-1] < 2:
            raise ValueError(f"loc: expected shape (..., d) with d >= 2, found {tuple(loc.shape)}")
        batch = torch.broadcast_shapes(loc.shape[:-1], scale.shape)
        self.loc = loc.expand(*batch, loc.shape[-1])
        self.scale = scale.expand(batch)
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

    @property
    def mean(self) -> Tensor:
        """E[x] = kappa / (kappa + d - 1) mu, inside the ball."""
        return (self.scale / (self.scale + 2 * self._beta)).unsqueeze(-1) * self.loc

    @property
    def mode(self) -> Tensor:
        return self.loc

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        shape = torch.Size(sample_shape) + self.batch_shape
        # Beta by two Gamma variables: near the mode 1 - z keeps all its digits.
        alpha = (self.scale + self._beta).expand(shape)
        a = torch.distributions.Gamma(alpha, torch.ones_like(alpha), validate_args=False).rsample()
        with torch.no_grad():
            b = torch.distributions.Gamma(
                torch.full_like(alpha, self._beta), torch.ones_like(alpha), validate_args=False
            ).sample()
        t = (a - b) / (a + b)
        radius = 2 * a.sqrt() * b.sqrt() / (a + b)
        v = torch.randn(*shape, self.event_shape[0] - 1, dtype=self.loc.dtype, device=self.loc.device)
        v = v / v.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(v.dtype).tiny)
        y = torch.cat([t.unsqueeze(-1), radius.unsqueeze(-1) * v], -1)
        # The reflection in u = mu + s e_1 takes e_1 to -s mu. With s the sign of mu_1, |u|^2 >= 2.
        sign = torch.where(self.loc[..., :1] < 0, -1.0, 1.0).to(self.loc)
        u = torch.cat([self.loc[..., :1] + sign, self.loc[..., 1:]], -1)
        reflected = y - 2 * u * (u * y).sum(-1, keepdim=True) / u.square().sum(-1, keepdim=True)
        return -sign * reflected

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        beta = self._beta
        log_norm = _log_ratio(self.scale + beta, beta) - 2 * beta * math.log(2) - beta * math.log(math.pi)
        # log((1 + mu . x) / 2), by |x - mu| near the mode and by |x + mu| near its antipode.
        near = ((value - self.loc).square().sum(-1) / 4).clamp(max=0.75)
        far = ((value + self.loc).square().sum(-1) / 4).clamp_min(torch.finfo(value.dtype).tiny)
        return log_norm + self.scale * torch.where(far > 0.5, (-near).log1p(), far.log())

    def entropy(self) -> Tensor:
        """In nats, closed form."""
        beta = self._beta
        alpha = self.scale + beta
        constant = 2 * beta * math.log(2) + beta * math.log(math.pi)
        return constant - _log_ratio(alpha, beta) + self.scale * _log_ratio_slope(alpha, beta)


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


# --- divergences -----------------------------------------------------------------------------------


@register_kl(PowerSpherical, UniformOn)
def _kl_power_spherical_uniform(q: PowerSpherical, p: UniformOn) -> Tensor:
    """Closed form: log vol - h(q), as r(beta + k) - r(beta) - k r'(beta + k) with r = _log_ratio."""
    if not isinstance(p.covering, SphericalSpaceForm) or p.covering.num_sheets > 1:
        raise ValueError(f"q lives on a sphere, p on {p.covering!r}: push q forward first")
    if p.covering.cover_dim != q.event_shape[0]:
        raise ValueError(f"q lives on the sphere in R^{q.event_shape[0]}, p on {p.covering!r}")
    beta = q._beta
    whole, half = divmod(beta, 1)
    alpha = q.scale + beta
    total = torch.zeros_like(q.scale)
    if half:
        start = math.lgamma(beta + 0.5) - math.lgamma(beta)
        total = _log_half_ratio(alpha) - start - q.scale * _half_ratio_slope(alpha)
    for i in range(int(whole)):
        ratio = q.scale / (beta + half + i)
        total = total + ratio.log1p() - ratio / (1 + ratio)
    return total.expand(torch.broadcast_shapes(q.batch_shape, p.batch_shape))


@register_cover_kl(Pushforward, UniformOn)
def _cover_kl_pushforward_uniform(q: Pushforward, p: UniformOn) -> Tensor:
    if not isinstance(q.covering, SphericalSpaceForm):
        raise TypeError(f"cover_kl: no closed form on {q.covering!r}")
    uniform = UniformOn(q.covering.cover, dtype=p.dtype, device=p.device).expand(p.batch_shape)
    return _upstairs(q.base, uniform)


@register_cover_kl(Pushforward, Pushforward)
def _cover_kl_pushforwards(q: Pushforward, p: Pushforward) -> Tensor:
    return _upstairs(q.base, p.base)


def _upstairs(q: Distribution, p: Distribution) -> Tensor:
    try:
        return kl_divergence(q, p)
    except NotImplementedError:
        names = f"{type(q).__name__} against {type(p).__name__}"
        raise TypeError(f"cover_kl: no closed form upstairs for {names}") from None


@register_kl(Pushforward, UniformOn)
def _kl_pushforward_uniform(q: Pushforward, p: UniformOn) -> Tensor:
    _check_same_space(q, p)
    return _exact_kl(q).expand(torch.broadcast_shapes(q.batch_shape, p.batch_shape))


def _exact_kl(q: Pushforward) -> Tensor:
    r"""KL to the uniform law, exact: upstairs minus what two antipodal lifts give away,

    .. math:: \log 2 - E[\log(1 + e^{-\kappa s})], \qquad s = \log\frac{1 + \mu \cdot x}{1 - \mu \cdot x}.

    The only group of two elements that acts freely on a sphere is +-1. In s, the logit of a Beta
    variable, the integrand decays exponentially at both ends, so the trapezoid rule converges fast.
    """
    space, base = q.covering, q.base
    known = isinstance(base, PowerSpherical) and isinstance(space, SphericalSpaceForm)
    if not known or space.num_sheets > 2:
        raise NotImplementedError(
            f"no exact KL for {type(base).__name__} pushed to {space!r}; cover_kl bounds it from above"
        )
    assert isinstance(base, PowerSpherical)
    assert isinstance(space, SphericalSpaceForm)
    upstairs = kl_divergence(base, UniformOn(space.cover, base.scale.dtype, base.scale.device))
    if space.num_sheets == 1:
        return upstairs
    beta = base._beta
    alpha = (base.scale + beta).unsqueeze(-1)
    with torch.no_grad():  # the nodes: gradients flow through the weights
        width = 10 * (1 / alpha + 1 / beta).sqrt()
        middle = (alpha / beta).log()
        low, high = middle - width - 40 / alpha, middle + width + 40 / beta
        line = (torch.arange(_NODES, dtype=alpha.dtype, device=alpha.device) + 0.5) / _NODES
        s = low + (high - low) * line
    softplus = torch.nn.functional.softplus
    log_weight = -alpha * softplus(-s) - beta * softplus(s)
    gain = (log_weight.softmax(-1) * softplus(-base.scale.unsqueeze(-1) * s)).sum(-1)
    return upstairs + gain - math.log(2)
