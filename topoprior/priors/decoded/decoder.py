"""What decodes kernels: a map g from points of a space, and all that priors and posteriors ask of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from topoprior.kernels.nearest import Decodes, nearest_kernels
from topoprior.priors.coordinates import Law
from topoprior.priors.decoded.pixels import Decoder
from topoprior.priors.kl import latent_kl, normal_kl
from topoprior.spaces.flat.manifold import FlatManifold
from topoprior.utils.checks import check_int

if TYPE_CHECKING:
    from typing_extensions import Self


class Scales(NamedTuple):
    """Prior stds of a kernel's parts."""

    alpha: float
    beta: float
    residual: float


class KernelDecoder(ABC):
    r"""Kernels g(z) at points z of a space, scaled so that :math:`E|g(z)|^2 = 1` under the law of z.

    A way to decode of one's own is a subclass: prior, posterior and nearest kernels follow. It gives the attributes
    below, :meth:`__call__`, :meth:`mean` and :meth:`latent_kl`; and what follows the line "checkpoints" where its
    priors are to be saved.

    Attributes:
        space: whose lifts the latents are, with R^n for its cover.
        kernel_size: of the kernels, k pixels together.
        law: of z, uniform on a closed space.
        search: what the search for the nearest kernel asks (:mod:`topoprior.kernels.nearest`).
        lengths: along every axis, that a posterior's stds at the start are fractions of.
        sharp: fraction of these lengths that a posterior is narrowed to when it is centered on given weights.
    """

    space: FlatManifold
    kernel_size: tuple[int, ...]
    law: Law
    search: Decodes
    lengths: Sequence[float]
    sharp: float = 0.01

    @abstractmethod
    def __call__(self, z: Tensor) -> Tensor:
        """Kernels at lifts, (..., dim) -> (..., k)."""

    @abstractmethod
    def mean(self, loc: Tensor, scale: Tensor) -> Tensor:
        """E g(z) for independent normal coordinates, (..., dim), (..., dim) -> (..., k)."""

    @abstractmethod
    def latent_kl(self, loc: Tensor, log_scale: Tensor) -> Tensor:
        """KL of normal coordinates, pushed to the space, to the law of z, or a bound of it: (..., dim) -> (...), nats."""

    def second_moment(self) -> Tensor:
        """E g(z) g(z)^T, (k, k) float64. Here from 2^17 draws with a fixed seed, to about .5%."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            z = self.law.sample((2**17, self.space.dim), torch.empty(0, dtype=torch.float32, device="cpu"))
        kernels = self(z).double()
        return kernels.T @ kernels / len(kernels)

    def nearest(self, kernels: Tensor, *, offset: bool) -> Tensor:
        """z of the nearest kernels alpha g(z) + b (b = 0 without ``offset``), (N, k) -> (N, dim)."""
        return nearest_kernels(self.search, kernels, offset=offset, progress=True)

    def describe(self) -> str:
        """For the repr of a prior."""
        return f"{self.space!r}, kernel_size={self.kernel_size}"

    # --- in a layer: what posteriors and coordinates ask -----------------------------------------

    #: Whether parameters hold the coordinates as rows, (dim + 2, out, in), or side by side, (out, in, dim + 2).
    rows: ClassVar[bool] = False
    #: Arithmetic written by hand, where there is one (it takes rows).
    pixels: Decoder | None = None
    #: Of the latents, where these and the amplitudes are rows whose KL is in closed form (:mod:`topoprior.priors.kl`); none, where
    #: latents have the law of amplitudes.
    kl_periods: tuple[float, ...] | None = None
    #: Name of the buffer that :meth:`known` fills.
    known_name: ClassVar[str] = "amplitude_scales"

    def known(self, scales: tuple[float, float]) -> Tensor:
        """What a layer keeps of g and the prior's scales (of alpha, and of beta / sqrt(k)), float64."""
        return torch.tensor(scales, dtype=torch.float64, device="cpu")

    def weights(self, z: Tensor, alpha: Tensor, beta: Tensor, known: Tensor) -> Tensor:
        """s_a alpha g(z) + s_b beta / sqrt(k), (..., k), for z (..., dim) and amplitudes (...)."""
        return self._scaled(self(z), alpha, beta, known)

    def mean_weights(
        self, loc: Tensor, scale: Tensor, alpha: Tensor, beta: Tensor, known: Tensor
    ) -> Tensor:
        """Their mean over normal z."""
        return self._scaled(self.mean(loc, scale), alpha, beta, known)

    @staticmethod
    def _scaled(kernels: Tensor, alpha: Tensor, beta: Tensor, scales: Tensor) -> Tensor:
        return (alpha * scales[0])[..., None] * kernels + (beta * scales[1])[..., None]

    def kl(self, loc: Tensor, log_scale: Tensor) -> Tensor:
        """KL of parameters to the law of z and standard normal amplitudes, summed."""
        if self.kl_periods is not None:
            return latent_kl(loc, log_scale, self.kl_periods)
        dim = self.space.dim
        latents = self.latent_kl(loc[..., :dim], log_scale[..., :dim])
        return latents.sum() + normal_kl(loc[..., dim:], log_scale[..., dim:], 1.0)

    def draw_(self, loc: Tensor) -> None:
        """Fill parameters with a draw from the law of z and standard normal amplitudes."""
        dim, axis = self.space.dim, 0 if self.rows else -1
        latents = loc.narrow(axis, 0, dim).movedim(axis, -1)
        latents.copy_(self.law.sample(latents.shape, loc))
        loc.narrow(axis, dim, 2).normal_()

    def installed(self, like: Tensor) -> Self:
        """The decoder for a layer: itself, or a copy with the dtype and device of ``like``, whose state holds it."""
        return self

    def refill_(self, known: KernelDecoder) -> None:  # noqa: B027 - not abstract: there may be nothing to fill
        """Numbers of a copy that :meth:`installed` made, from those of the original."""

    # --- checkpoints -----------------------------------------------------------------------------

    #: Of checkpoints, with a version.
    format: ClassVar[str | None] = None
    #: Options of a prior that its files leave out where they have this value.
    left_out: ClassVar[Mapping[str, Any]] = {}

    def to_config(self) -> dict[str, Any]:
        """What JSON can say."""
        raise NotImplementedError(f"{type(self).__name__} needs to_config() and tensors() to be saved")

    def tensors(self) -> dict[str, Tensor]:
        """The numbers, by name."""
        raise NotImplementedError(f"{type(self).__name__} needs to_config() and tensors() to be saved")

    @classmethod
    def from_checkpoint(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """What the two wrote, read again.

        Raises:
            KeyError, TypeError, ValueError: what a file says is wrong.
        """
        raise NotImplementedError(f"{cls.__name__} needs from_checkpoint(config, tensors) to be loaded")


def check_kernel_size(size: Sequence[int]) -> tuple[int, ...]:
    found = tuple(check_int("kernel_size", k) for k in size)
    if not 1 <= len(found) <= 3:
        raise ValueError(f"kernel_size: expected 1 to 3 numbers, found {found}")
    return found


def times(size: Sequence[int]) -> str:
    return "x".join(map(str, size))
