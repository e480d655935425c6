r"""Laws pushed down from a covering space.

Deck transformations are isometries, so the density at a point is the sum over its lifts, without a
Jacobian: :math:`\log q(x) = \log \sum_{\gamma} e^{\log b(\gamma x)}`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, kl_divergence, register_kl

from topoprior.distributions.arguments import real_vector
from topoprior.distributions.divergences import _check_same_space, register_cover_kl
from topoprior.distributions.power_spherical import PowerSpherical, unit_vector
from topoprior.distributions.uniform import UniformOn
from topoprior.spaces.covering import Covering
from topoprior.spaces.flat.manifold import FlatManifold
from topoprior.spaces.spherical.manifold import SphericalSpaceForm
from topoprior.utils.checks import check_positive, real_tensor
from topoprior.utils.precision import without_autocast

_NODES = 2048


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
        >>> q = Pushforward(tp.RealProjectiveSpace(2), tp.PowerSpherical(mean, torch.tensor(20.0)))
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
        if not (flat or covering.has_finite_group):
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
        if radius is not None:
            radius = check_positive("radius", radius)
        self.covering, self.base, self.radius = covering, base, radius
        super().__init__(base.batch_shape, base.event_shape, validate_args=validate_args)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        return self.base.has_rsample

    @property
    def support(self) -> Any:
        if isinstance(self.covering, SphericalSpaceForm):
            return unit_vector
        return real_vector  # any lift

    def expand(self, batch_shape: Any, _instance: Any = None) -> Pushforward:
        new = self._get_checked_instance(Pushforward, _instance)
        new.covering, new.radius = self.covering, self.radius
        new.base = self.base.expand(torch.Size(batch_shape))
        super(Pushforward, new).__init__(torch.Size(batch_shape), self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def __repr__(self) -> str:
        radius = "" if self.radius is None else f", radius={self.radius:g}"
        return f"Pushforward({self.covering!r}, {self.base!r}{radius})"

    @without_autocast
    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Lifts of reparameterized samples, (*sample_shape, *batch_shape, cover_dim)."""
        return self.base.rsample(torch.Size(sample_shape))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return self.base.sample(torch.Size(sample_shape))

    @without_autocast
    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        value = real_tensor("value", value)
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

    @without_autocast
    def entropy(self) -> Tensor:
        """Entropy on the base in nats; exact for `PowerSpherical` under +-1, by 1-D quadrature.

        Raises:
            NotImplementedError: for any other pair.
        """
        return math.log(self.covering.volume) - _exact_kl(self)


def _center(base: Distribution) -> Tensor:
    """Where the base's mass is: its mean, or the mode of a law without one."""
    center = base.mean.detach()
    if not center.isfinite().all():
        center = base.mode.detach()
    if not center.isfinite().all():
        raise ValueError(f"base: {type(base).__name__} has neither a finite mean nor a mode")
    return center


# --- divergences -----------------------------------------------------------------------------------


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
