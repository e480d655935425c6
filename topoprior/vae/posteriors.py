"""What a CoveringVAE's encoder emits beside the point: the posterior around it, the prior, and their KL."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.distributions import Distribution

from topoprior.distributions.divergences import cover_kl
from topoprior.distributions.kappa import kappa
from topoprior.distributions.power_spherical import PowerSpherical
from topoprior.distributions.pushforward import Pushforward
from topoprior.distributions.uniform import UniformOn
from topoprior.distributions.wrapped_normal import WrappedNormal
from topoprior.spaces.covering import Covering
from topoprior.spaces.flat.harmonics import Harmonics
from topoprior.spaces.flat.manifold import FlatManifold
from topoprior.spaces.spherical.manifold import SphericalSpaceForm
from topoprior.utils.plain import plain


class Posterior(ABC):
    """A family of laws around points of a space.

    Attributes:
        outputs: how many numbers the encoder emits for it, all 0 at the start.
    """

    outputs: int

    @abstractmethod
    def __call__(self, loc: Tensor, raw: Tensor) -> Distribution:
        """The law around lifts (..., cover_dim), by what the encoder emitted, (..., outputs)."""

    @abstractmethod
    def prior(self, like: Tensor) -> Distribution:
        """Uniform on closed directions, normal on open ones."""

    def kl(self, q: Distribution, like: Tensor) -> Tensor:
        """Closed-form upper bound on the KL from ``q`` to the prior, nats: the KL on a finite cover."""
        return cover_kl(q, self.prior(like))


class FlatPosterior(Posterior):
    """Wrapped normals: see :class:`~topoprior.CoveringVAE` for the options."""

    @plain
    def __init__(self, covering: FlatManifold, scale: str, init_scale: float, prior_scale: float) -> None:
        self.covering, self.prior_scale = covering, prior_scale
        self.is_open = covering.rank < covering.dim
        if self.is_open and covering.rank:
            self._check_open(scale)
        self._groups = _scale_groups(covering.linear)
        self._pairs = _off_diagonal(covering) if scale == "full" else []
        self._num_scales = max(self._groups) + 1
        self._twists = [n for *_, n in self._pairs]
        self.outputs = self._num_scales + sum(self._twists)
        period = covering.lattice.norm(dim=0).min().item() if covering.rank else 1.0
        self._init_log_scale = math.log(init_scale * period)

    def _check_open(self, scale: str) -> None:
        """An open direction has a normal prior: it must be invariant, and apart from the closed ones."""
        space = self.covering
        if space.periods is None or space.group.across_coordinates(space.shift).abs().max() > 1e-9:
            raise ValueError(f"covering: no default prior on {space!r}, its open directions are not axes")
        if scale == "full":
            raise ValueError(f"scale: 'full' is for compact spaces and Euclidean space, found {space!r}")

    def __call__(self, loc: Tensor, raw: Tensor) -> WrappedNormal:
        log_scale, eta = raw[..., : self._num_scales], raw[..., self._num_scales :]
        scale = (log_scale + self._init_log_scale).clamp(-12, 6).exp()[..., self._groups]
        if not self._pairs:
            return WrappedNormal(self.covering, loc, scale, validate_args=False)
        tril = torch.diag_embed(scale)
        for (i, j, twisted, _), part in zip(self._pairs, eta.split(self._twists, -1), strict=True):
            value = part.squeeze(-1) if twisted is None else (part * twisted(loc)).sum(-1)
            unit = tril.new_zeros(tril.shape[-2:])
            unit[i, j] = 1
            tril = tril + (value * scale[..., i])[..., None, None] * unit
        return WrappedNormal(self.covering, loc, scale_tril=tril, validate_args=False)

    def prior(self, like: Tensor) -> Distribution:
        if not self.is_open:
            return UniformOn(self.covering, dtype=like.dtype, device=like.device)
        periods = self.covering.periods
        if periods is None:  # rank 0, no lattice
            periods = like.new_full((self.covering.dim,), math.inf)
        # A normal of three periods is uniform to all digits.
        scale = torch.where(periods == math.inf, self.prior_scale, 3 * periods).to(like)
        return WrappedNormal(self.covering, torch.zeros_like(scale), scale)

    def kl(self, q: Distribution, like: Tensor) -> Tensor:
        if not self.is_open or not self.covering.rank:
            return super().kl(q, like)
        assert isinstance(q, WrappedNormal)
        assert self.covering.periods is not None
        closed = torch.isfinite(self.covering.periods)
        total = kappa(q.scale[..., closed] / self.covering.periods[closed].to(q.scale)).sum(-1)
        ratio = (q.scale[..., ~closed] / self.prior_scale).square()
        shift = (q.loc[..., ~closed] / self.prior_scale).square()
        return total + 0.5 * (ratio + shift - 1 - ratio.log()).sum(-1)


class SphericalPosterior(Posterior):
    r"""Power spherical laws pushed down; the concentration is 2 / std^2, as (1 + cos t)^k ~ e^{-k t^2 / 4}."""

    outputs = 1

    def __init__(self, covering: SphericalSpaceForm, init_scale: float) -> None:
        self.covering = covering
        self._init_log_scale = math.log(init_scale * covering.shortest)

    def __call__(self, loc: Tensor, raw: Tensor) -> Pushforward:
        log_scale = (raw[..., 0] + self._init_log_scale).clamp(-6, 3)
        base = PowerSpherical(loc, 2 * (-2 * log_scale).exp(), validate_args=False)
        return Pushforward(self.covering, base, validate_args=False)

    def prior(self, like: Tensor) -> Distribution:
        return UniformOn(self.covering, dtype=like.dtype, device=like.device)


def make_posterior(covering: Covering, scale: str, init_scale: float, prior_scale: float) -> Posterior:
    """The posterior family of a space.

    Raises:
        TypeError: the space is neither flat nor spherical.
        ValueError: no default prior, or ``scale="full"`` where there is no such thing.
    """
    if isinstance(covering, FlatManifold):
        return FlatPosterior(covering, scale, init_scale, prior_scale)
    if not isinstance(covering, SphericalSpaceForm):
        raise TypeError(f"covering: expected a flat manifold or a spherical space form, found {covering!r}")
    if scale == "full":
        raise ValueError(f"scale: 'full' is for flat manifolds, found {covering!r}")
    return SphericalPosterior(covering, init_scale)


def _scale_groups(linear: Tensor) -> list[int]:
    """Coordinates that the holonomy mixes share a scale: the label of every coordinate."""
    dim = linear.shape[-1]
    linked = (linear.abs() > 1e-9).any(0) | torch.eye(dim, dtype=torch.bool)
    for _ in range(dim):
        linked = (linked.double() @ linked.double()) > 0
    labels = [int(row.nonzero()[0]) for row in linked]
    return [sorted(set(labels)).index(label) for label in labels]


def _off_diagonal(covering: FlatManifold) -> list[tuple[int, int, Harmonics | None, int]]:
    """Entries (i, j) below the diagonal, the harmonics that carry their sign, their number of outputs."""
    if (covering.linear.abs() - torch.eye(covering.dim, dtype=torch.float64)).abs().max() > 1e-9:
        raise ValueError(
            f"scale: 'full' needs a holonomy of reflections along the axes, found {covering!r}"
        )
    signs = covering.linear.diagonal(dim1=-2, dim2=-1).round().int()
    found: list[tuple[int, int, Harmonics | None, int]] = []
    for i in range(covering.dim):
        for j in range(i):
            character = (signs[:, i] * signs[:, j]).tolist()
            twisted = None if min(character) > 0 else Harmonics(covering, 2, character=character)
            found.append((i, j, twisted, 1 if twisted is None else 2))
    return found
