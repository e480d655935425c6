"""Priors over independent weights, with mean-field normal posteriors."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from topoprior.priors import (
    HE_GAIN,
    Shape,
    WeightPosterior,
    WeightPrior,
    check_positive,
    draw_noise,
    normal_kl,
    register_prior,
)


class Gaussian(WeightPrior):
    r"""Independent :math:`w \sim N(0, s^2)`, with a mean-field normal posterior.

    Args:
        scale: s; default gain / sqrt(fan-in).
        gain: He's sqrt(2) by default.
        init_scale: posterior std at the start, as a fraction of s.

    Example:
        >>> posterior = Gaussian().posterior((4, 3, 3, 3))
        >>> posterior.rsample((10,)).shape, posterior.kl().shape
        (torch.Size([10, 4, 3, 3, 3]), torch.Size([]))
    """

    def __init__(
        self, scale: float | None = None, *, gain: float = HE_GAIN, init_scale: float = 0.1
    ) -> None:
        if scale is not None:
            check_positive("scale", scale)
        self.scale = scale
        self.gain = check_positive("gain", gain)
        self.init_scale = check_positive("init_scale", init_scale)

    def std(self, shape: Shape) -> float:
        """Prior standard deviation of every weight of a tensor of ``shape``."""
        if self.scale is not None:
            return self.scale
        return self.gain / math.sqrt(max(1, math.prod(shape[1:])))

    def posterior(
        self, shape: Shape, *, device: Any = None, dtype: torch.dtype | None = None
    ) -> GaussianPosterior:
        return GaussianPosterior(shape, self.std(shape), self.init_scale, device=device, dtype=dtype)

    def sample(self, shape: Shape) -> Tensor:
        return torch.randn(*shape) * self.std(shape)

    def __repr__(self) -> str:
        return f"Gaussian(scale={self.scale}, gain={self.gain:.3g}, init_scale={self.init_scale})"


class GaussianPosterior(WeightPosterior):
    """Mean-field normal with parameters ``loc`` and ``log_scale``, two numbers a weight."""

    def __init__(
        self,
        shape: Shape,
        prior_scale: float,
        init_scale: float,
        *,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.shape = torch.Size(shape)
        self.prior_scale, self.init_scale = prior_scale, init_scale
        self.loc = nn.Parameter(torch.empty(self.shape, device=device, dtype=dtype))
        self.log_scale = nn.Parameter(torch.empty(self.shape, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        with torch.no_grad():
            self.loc.normal_(0, self.prior_scale)
            self.log_scale.fill_(math.log(self.init_scale * self.prior_scale))

    def rsample(self, sample_shape: Shape = (), *, antithetic: bool = False) -> Tensor:
        noise = draw_noise(sample_shape, self.shape, self.loc, antithetic)
        return torch.addcmul(self.loc, self.log_scale.exp(), noise)

    def mean(self) -> Tensor:
        return self.loc

    def kl(self) -> Tensor:
        return normal_kl(self.loc, self.log_scale, self.prior_scale)

    def project_(self, weight: Tensor) -> Tensor:
        with torch.no_grad():
            self.loc.copy_(weight)
        return weight.new_zeros(())

    def extra_repr(self) -> str:
        return f"{tuple(self.shape)}, prior_scale={self.prior_scale:.3g}"


register_prior("gaussian", Gaussian)
