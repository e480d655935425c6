"""Whitened coordinates: a prior as a map from a simple law upstairs to weights.

Every prior draws its weights from numbers with a simple law: weights in units of their prior std, amplitudes
that are standard normal, latents that are uniform on a compact space and handed around as lifts. What lives on
these coordinates (a point estimate, a sampler, a curvature) means the same for every prior, and moves by deck
transformations change neither weights nor densities.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from topoprior.priors.buffers import KnownBuffers, digits
from topoprior.spaces.covering import Covering
from topoprior.utils.precision import at_least_float32

Shape = Sequence[int]


class Law(ABC):
    """Law of independent coordinates.

    Attributes:
        space: the covering whose lifts the coordinates are, in their last dimension; None for plain numbers.
    """

    space: Covering | None = None

    @abstractmethod
    def sample(self, shape: Shape, like: Tensor) -> Tensor:
        """Draws of ``shape``, with the dtype and device of ``like``."""

    @abstractmethod
    def energy(self, x: Tensor) -> Tensor:
        """-log p(x) in nats, summed, up to ``log_norm`` a number (of a latent: a point)."""

    @abstractmethod
    def log_norm(self, x: Tensor) -> float:
        """The constant: log p(x) = -energy(x) - log_norm(x), the density upstairs by volume of the space."""


class StandardNormal(Law):
    """Energy x^2 / 2."""

    def sample(self, shape: Shape, like: Tensor) -> Tensor:
        return torch.randn(*shape, dtype=like.dtype, device=like.device)

    def energy(self, x: Tensor) -> Tensor:
        x = at_least_float32(x)
        if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
            x = x.permute(0, 2, 3, 1)  # as it lies in memory: no copy
        flat = x.flatten()
        return 0.5 * flat.dot(flat)

    def log_norm(self, x: Tensor) -> float:
        return 0.5 * math.log(2 * math.pi) * x.numel()


@dataclass(frozen=True)
class Uniform(Law):
    """The uniform law of a compact space, in lifts: constant upstairs, energy 0."""

    space: Covering

    def sample(self, shape: Shape, like: Tensor) -> Tensor:
        return self.space.sample_uniform(torch.Size(shape[:-1]), like.dtype, like.device)

    def energy(self, x: Tensor) -> Tensor:
        return at_least_float32(x.new_zeros(()))

    def log_norm(self, x: Tensor) -> float:
        return math.log(self.space.volume) * (x.numel() // self.space.cover_dim)


@dataclass(frozen=True)
class Part:
    """One named part of the coordinates: its shape and law."""

    shape: torch.Size
    law: Law = field(default_factory=StandardNormal)


class Coordinates(KnownBuffers, ABC):
    """The coordinates of one weight tensor, and the map from them to weights.

    A prior's ``coordinates(shape)`` makes one.

    Attributes:
        shape: of the weights.
        parts: shape and law of every part, by name.
        scales: buffer (n,), the prior's stds that the map multiplies with. Saved with a state, so that the
            state of another prior is refused.
    """

    shape: torch.Size
    parts: dict[str, Part]
    scales: Tensor
    prior_buffers: tuple[str, ...] = ("scales",)

    def __init__(
        self,
        prior: Any,
        shape: Shape,
        parts: Mapping[str, Part],
        scales: tuple[float, ...],
        *,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(dtype)
        self.prior, self.shape, self.parts = prior, torch.Size(shape), dict(parts)
        self._scales = scales
        self.register_buffer("scales", torch.empty(len(scales), device=device, dtype=dtype))

    def fill_buffers(self) -> None:
        for i, scale in enumerate(self._scales):
            self.scales[i] = scale

    @abstractmethod
    def weight(self, x: Mapping[str, Tensor]) -> Tensor:
        """The weights at coordinates ``x``, (*shape)."""

    @abstractmethod
    def invert(self, weight: Tensor) -> dict[str, Tensor]:
        """Coordinates of the weights nearest to ``weight``, without gradients."""

    def sample(self) -> dict[str, Tensor]:
        """A draw from the prior."""
        return {name: part.law.sample(part.shape, self.scales) for name, part in self.parts.items()}

    def energy(self, x: Mapping[str, Tensor]) -> Tensor:
        """-log p(x) in nats, without the constants of normal and uniform laws: half the sum of squares of normal
        coordinates, 0 for uniform latents, -log density for other laws."""
        energies = [part.law.energy(x[name]) for name, part in self.parts.items()]
        return energies[0] if len(energies) == 1 else torch.stack(energies).sum()

    def log_prob(self, x: Mapping[str, Tensor]) -> Tensor:
        """log p(x) in nats: of plain numbers by length, of latents by volume of their space."""
        constant = math.fsum(part.law.log_norm(x[name]) for name, part in self.parts.items())
        return -self.energy(x) - constant

    def extra_repr(self) -> str:
        parts = ", ".join(f"{name}: {tuple(part.shape)}" for name, part in self.parts.items())
        return f"{tuple(self.shape)}, {parts}"


class ScaledCoordinates(Coordinates):
    """Independent weights: w = s u, with u in units of the prior's std. One part, "u".

    Args:
        prior: its ``identity(shape)`` says which law of weights of this shape it is.
    """

    which: Tensor
    prior_buffers = ("scales", "which")
    newer_buffers = ("which",)

    def __init__(
        self,
        prior: Any,
        shape: Shape,
        law: Law,
        scale: float,
        *,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        part = Part(torch.Size(shape), law)
        super().__init__(prior, shape, {"u": part}, (scale,), device=device, dtype=dtype)
        self.register_buffer("which", torch.empty(8, device=device, dtype=dtype))
        self.fill_buffers()

    def fill_buffers(self) -> None:
        super().fill_buffers()
        self.which.copy_(self.which.new_tensor(digits(self.prior.identity(self.shape))))

    def weight(self, x: Mapping[str, Tensor]) -> Tensor:
        return x["u"] * self.scales

    @torch.no_grad()
    def invert(self, weight: Tensor) -> dict[str, Tensor]:
        return {"u": weight.detach().to(self.scales) / self.scales}
