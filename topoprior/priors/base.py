"""Weight priors: what a Bayesian layer believes of its weights before it has seen data."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from topoprior.priors.buffers import KnownBuffers
from topoprior.priors.coordinates import Coordinates
from topoprior.priors.kl import Part, total
from topoprior.priors.kl import normal_kl as normal_kl
from topoprior.utils.checks import check_positive, check_values
from topoprior.utils.plain import on_cpu
from topoprior.utils.precision import at_least_float32 as at_least_float32
from topoprior.utils.real_module import REAL_DTYPES

HE_GAIN = math.sqrt(2)
Shape = Sequence[int]


class WeightPosterior(KnownBuffers, ABC):
    """Variational posterior over a weight tensor of ``shape``.

    ``kl_kind`` says what :meth:`kl` is: "exact", an upper "bound", an "approximation" whose error the
    class states, or "-log p" of a point, which has no KL.
    """

    shape: torch.Size
    kl_kind: str = "exact"
    #: Whether all its draws are the mean.
    is_point: bool = False

    @abstractmethod
    def reset_parameters(self) -> None:
        """Start afresh, around a draw from the prior."""

    @abstractmethod
    def rsample(self, sample_shape: Shape = (), *, antithetic: bool = False) -> Tensor:
        """Reparameterized weights, (*sample_shape, *shape).

        With ``antithetic`` the second half of the draws mirrors the noise of the first half, along the
        first of the sample dimensions, which must be even.
        """

    def rsample_for(self, input: Tensor) -> Tensor:
        """One draw for an operation on ``input``: :meth:`rsample`, or the same numbers in the layout and, under autocast,
        the dtype that the operation would bring them to."""
        return self.rsample()

    def joint_key(self) -> Hashable:
        """Equal for posteriors that :meth:`rsample_jointly` can draw as one; None where this one is drawn alone."""
        return None

    @classmethod
    def rsample_jointly(cls, posteriors: Sequence[Any]) -> list[Tensor]:
        """A draw of each, for posteriors of one :meth:`joint_key`."""
        return [posterior.rsample() for posterior in posteriors]

    @abstractmethod
    def mean(self) -> Tensor:
        """E[w], (*shape)."""

    @abstractmethod
    def kl(self) -> Tensor:
        """KL(posterior || prior) in nats, summed over all weights: a scalar, without sampling."""

    def kl_parts(self) -> tuple[list[Tensor], list[Part]]:
        """What :meth:`kl` is the sum of: KLs, and numbers whose KLs are in closed form."""
        return [self.kl()], []

    @classmethod
    def sum_kl(cls, posteriors: Sequence[WeightPosterior]) -> Tensor:
        """Sum of :meth:`kl` over posteriors, of this class and on one device where a class has a faster way of its own."""
        kls, parts = zip(*(posterior.kl_parts() for posterior in posteriors), strict=True)
        return total(sum(kls, []), sum(parts, []))

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if overrides(cls, "kl", "kl_parts"):  # those of the class above are no longer its KL
            cls.kl_parts = WeightPosterior.kl_parts  # type: ignore[method-assign]
        if overrides(cls, "rsample", "joint_key"):
            cls.joint_key = WeightPosterior.joint_key  # type: ignore[method-assign]

    @abstractmethod
    def project_(self, weight: Tensor) -> Tensor:
        """Center the posterior on the weights nearest to ``weight`` that it can represent, in place.

        Returns:
            what is left over, |weight - mean| / |weight|: a scalar, 0 where every weight can be represented.
        """

    def narrow_(self, std: float) -> None:  # noqa: B027 - not abstract: a posterior may have nothing to narrow
        """Narrow the posterior, in place, so that each of its parts (a weight, an amplitude, a residual)
        gives weights a standard deviation of at most ``std``. One without stds of its own does nothing."""

    def latent_mask(self) -> Tensor | None:
        """Which entries of the parameter ``loc`` are latents: points of a space, not amplitudes or weights.

        Boolean, of the shape of ``loc``; None where there are none. Latents want larger steps than weights, and
        no weight decay.
        """
        return None

    def latent_parameters(self) -> Sequence[nn.Parameter]:
        """Centers in the prior's units, of size 1 whatever the layer: latents, with their amplitudes. They want longer
        steps of Adam than weights (:func:`topoprior.parameter_groups`)."""
        return ()

    def compile_(self, on: bool = True) -> bool:
        """Compile draws from now on, or stop to; whether this posterior has anything to compile."""
        return False

    def forward(self) -> Tensor:
        return self.rsample()


class WeightPrior(ABC):
    """Law of a weight tensor. Subclass it, give it to a layer as ``prior=``."""

    #: What a table calls it; by default its class. Priors from a checkpoint have the checkpoint's name.
    name: str | None = None

    @abstractmethod
    def posterior(
        self, shape: Shape, *, device: Any = None, dtype: torch.dtype | None = None
    ) -> WeightPosterior:
        """A fresh posterior, initialized by a draw from the prior.

        Raises:
            ValueError: the prior does not serve weights of this shape.
        """

    @abstractmethod
    def sample(self, shape: Shape) -> Tensor:
        """Weights drawn from the prior, of ``shape``."""

    def serves(self, shape: Shape) -> bool:
        """Whether :meth:`posterior` takes weights of this shape."""
        return True

    def for_shape(self, shape: Shape) -> WeightPrior:
        """The prior that weights of this shape get: itself, or of a family the member that serves them."""
        return self

    @on_cpu
    def kernel_covariance(self, shape: Shape) -> Tensor:
        """Covariance of a kernel's pixels in weights of ``shape``, (k, k) float64 with k = prod(shape[2:]); the mean is 0.

        Here from 2^17 draws with a fixed seed, to about .5% of the largest entry. Priors with a closed form override it.

        Raises:
            ValueError: the prior does not serve weights of this shape, or its kernels do not have mean 0.
        """
        rows = max(1, 2**17 // max(1, shape[1]))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            drawn = self.sample((rows, *shape[1:])).double().reshape(rows * shape[1], -1)
        if bool((drawn.mean(0).abs() > 6 * drawn.std(0) / math.sqrt(len(drawn))).any()):
            raise ValueError(f"prior: expected kernels with mean 0, found those of {self!r}")
        return drawn.T @ drawn / len(drawn)

    def coordinates(
        self, shape: Shape, *, device: Any = None, dtype: torch.dtype | None = None
    ) -> Coordinates:
        """The whitened coordinates of weights of ``shape``, on which delta posteriors and samplers live.

        Raises:
            ValueError: the prior has none, or does not serve weights of this shape.
        """
        raise ValueError(
            f"prior: {type(self).__name__} has no whitened coordinates, which delta posteriors need; give it a "
            "method coordinates(shape)"
        )


@torch.no_grad()
def narrow_(log_scale: Tensor, std: float, unit: float = 1.0) -> None:
    """Clamp stds, given by their logarithms and in units of ``unit``, to at most ``std``, in place."""
    std = check_positive("std", std)
    if unit > 0:
        log_scale.clamp_(max=math.log(std / unit))


def overrides(cls: type, name: str, other: str) -> bool:
    """Whether ``name`` is of a class that ``cls`` looks at, as a subclass or a mixin, before that of ``other``."""
    first = next(c for c in cls.__mro__ if name in vars(c) or other in vars(c))
    return other not in vars(first)


def check_weight(weight: Tensor, shape: Shape) -> None:
    """Finite floating-point numbers of this shape: TypeError or ValueError for all else."""
    if not isinstance(weight, Tensor) or weight.dtype not in REAL_DTYPES:
        found = f"a tensor of {weight.dtype}" if isinstance(weight, Tensor) else type(weight).__name__
        raise TypeError(f"weight: expected a torch.Tensor of floating-point numbers, found {found}")
    check_values("weight", weight)
    if weight.shape != shape:
        raise ValueError(f"weight: expected shape {tuple(shape)}, found {tuple(weight.shape)}")


def left_over(weight: Tensor, mean: Tensor) -> Tensor:
    """|weight - mean| / |weight|: what :meth:`WeightPosterior.project_` returns."""
    left = (weight - mean.to(weight)).norm()
    return left / weight.norm().clamp(min=torch.finfo(weight.dtype).tiny)


def draw_noise(sample_shape: Shape, shape: Shape, like: Tensor, antithetic: bool = False) -> Tensor:
    """Standard normal noise (*sample_shape, *shape) of the dtype and device of ``like``.

    Raises:
        ValueError: ``antithetic`` without an even first sample dimension.
    """
    size = [*sample_shape, *shape]
    if not antithetic:
        if like.dim() == 4 and like.shape == torch.Size(size) and not like.is_contiguous():
            # As channels last lies in memory: adding up two layouts costs twice, drawing into this one three times.
            order = [size[i] for i in (0, 2, 3, 1)]
            return torch.randn(order, dtype=like.dtype, device=like.device).permute(0, 3, 1, 2)
        return torch.randn(size, dtype=like.dtype, device=like.device)
    if not sample_shape or sample_shape[0] % 2:
        raise ValueError(
            f"sample_shape: antithetic draws need an even first dimension, found {tuple(sample_shape)}"
        )
    half = torch.randn([size[0] // 2, *size[1:]], dtype=like.dtype, device=like.device)
    return torch.cat([half, -half])
