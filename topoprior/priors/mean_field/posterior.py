"""The mean-field normal posterior of independent weights."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from topoprior.priors.base import (
    Shape,
    WeightPosterior,
    at_least_float32,
    check_weight,
    draw_noise,
    narrow_,
)
from topoprior.priors.buffers import digits
from topoprior.priors.empirical_bayes import BoundedScale
from topoprior.priors.joint import joined
from topoprior.priors.kl import Part, total
from topoprior.utils.plain import on_cpu


class MeanFieldPosterior(WeightPosterior):
    """Mean-field normal with parameters ``loc`` and ``log_scale``, two numbers a weight.

    Its KL is computed in float32 at least: half precision has too few digits for a sum of squares.
    """

    which: Tensor  # says which prior: a state of another is refused
    prior_buffers = newer_buffers = ("which",)

    def __init__(
        self,
        prior: Any,
        shape: Shape,
        *,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(dtype)
        self.prior, self.shape, self.kl_kind = prior, torch.Size(shape), prior.kl_kind
        self.prior_scale = prior.scale_of(shape)
        self.loc = nn.Parameter(torch.empty(self.shape, device=device, dtype=dtype))
        self.log_scale = nn.Parameter(torch.empty(self.shape, device=device, dtype=dtype))
        self.scale_factors = BoundedScale(
            prior.num_scales, prior.empirical_bayes, device=device, dtype=dtype
        )
        self.register_buffer("which", torch.empty(8, device=device, dtype=dtype))
        self.reset_parameters()

    def fill_buffers(self) -> None:
        self.scale_factors.fill_buffers()
        self.which.copy_(self.which.new_tensor(digits(self.prior.identity(self.shape))))

    @on_cpu
    def reset_parameters(self) -> None:
        self.fill_buffers()
        if self.loc.is_meta:
            return  # no numbers to draw
        std = self.prior.std(self.shape)
        start = self.prior.init_scale * (std if math.isfinite(std) else self.prior_scale)
        with torch.no_grad():
            self.loc.copy_(self.prior.sample(self.shape))
            self.log_scale.fill_(math.log(start))
        self.scale_factors.reset_parameters()

    def rsample(self, sample_shape: Shape = (), *, antithetic: bool = False) -> Tensor:
        noise = draw_noise(sample_shape, self.shape, self.loc, antithetic)
        return torch.addcmul(self.loc, self.log_scale.exp(), noise)

    def joint_key(self) -> Hashable:
        return MeanFieldPosterior, self.loc.dtype, self.loc.device

    @classmethod
    def rsample_jointly(cls, posteriors: Sequence[Any]) -> list[Tensor]:
        loc, log_scale = (joined([getattr(p, name) for p in posteriors]) for name in ("loc", "log_scale"))
        draws = torch.addcmul(loc, log_scale.exp(), torch.randn_like(loc)).split(
            [p.loc.numel() for p in posteriors]
        )
        return [draw.view(p.shape) for draw, p in zip(draws, posteriors, strict=True)]

    def mean(self) -> Tensor:
        return self.loc

    def scale(self) -> Tensor:
        """The prior's scale, a scalar (or (num_scales,)): what empirical Bayes learns."""
        scales = self.prior_scale * at_least_float32(self.scale_factors())
        return scales.squeeze(0) if self.prior.num_scales == 1 else scales

    def kl(self) -> Tensor:
        return total(*MeanFieldPosterior.kl_parts(self))

    def kl_parts(self) -> tuple[list[Tensor], list[Part]]:
        loc, log_scale = at_least_float32(self.loc), at_least_float32(self.log_scale)
        if self.prior.is_normal and self.scale_factors.rho is None:
            return [], [Part(loc, log_scale, unit=self.prior_scale)]
        return [self.prior.kl(loc, log_scale, self.scale())], []

    def project_(self, weight: Tensor) -> Tensor:
        check_weight(weight, self.shape)
        with torch.no_grad():
            self.loc.copy_(weight)
        return weight.new_zeros(())

    def narrow_(self, std: float) -> None:
        narrow_(self.log_scale, std)

    def extra_repr(self) -> str:
        return f"{tuple(self.shape)}, prior={self.prior!r}, prior_scale={self.prior_scale:.3g}"
