"""Bayesian layers: torch.nn's functional operations on weights drawn from a posterior.

``forward`` returns a tensor and draws fresh weights every time, in training and evaluation alike;
inside ``with tp.posterior_mean(model):`` it uses their mean.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from topoprior.mean_field import Gaussian
from topoprior.priors import WeightPrior, get_prior

# A bias starts at 0 with this fraction of its unit prior std.
_BIAS_INIT_SCALE = 0.1


class BayesLayer(nn.Module):
    """What Bayesian layers share: a weight posterior, an optional bias posterior, their KL."""

    def _init_posteriors(
        self, shape: tuple[int, ...], bias: bool, prior: str | Path | WeightPrior, device: Any, dtype: Any
    ) -> None:
        options = {"device": device, "dtype": dtype}
        self.prior = get_prior(prior)
        self.weight_posterior = self.prior.posterior(shape, **options)
        self.bias_posterior = None
        if bias:
            self.bias_posterior = Gaussian(1.0, init_scale=_BIAS_INIT_SCALE).posterior(shape[:1], **options)
            nn.init.zeros_(self.bias_posterior.loc)
        self.use_mean = False

    def reset_parameters(self) -> None:
        """Draw the posterior's start afresh."""
        self.weight_posterior.reset_parameters()  # type: ignore[operator]
        if self.bias_posterior is not None:
            self.bias_posterior.reset_parameters()
            nn.init.zeros_(self.bias_posterior.loc)

    def draw(self) -> tuple[Tensor, Tensor | None]:
        """Weight and bias for one forward pass."""
        posteriors = (self.weight_posterior, self.bias_posterior)
        weight, bias = (p if p is None else p.mean() if self.use_mean else p.rsample() for p in posteriors)
        assert weight is not None
        return weight, bias

    def kl(self) -> Tensor:
        """KL(posterior || prior) of weight and bias in nats: a scalar in closed form."""
        kl = self.weight_posterior.kl()
        return kl if self.bias_posterior is None else kl + self.bias_posterior.kl()


class BayesConv2d(BayesLayer):
    r"""`torch.nn.Conv2d` with a posterior over kernels.

    All arguments are those of :class:`torch.nn.Conv2d`, and one more.

    Args:
        prior: name ("klein-3x3", "gaussian", ...), checkpoint folder, or a
            :class:`~topoprior.priors.WeightPrior`.

    Shape: input (N, C_in, H, W) or (C_in, H, W), as in :class:`torch.nn.Conv2d`.

    Raises:
        ValueError: unknown prior, or a prior that does not decode this kernel size.

    Example:
        >>> conv = BayesConv2d(3, 8, 3, padding=1)
        >>> conv(torch.zeros(2, 3, 16, 16)).shape, conv.kl().shape
        (torch.Size([2, 8, 16, 16]), torch.Size([]))
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: str | int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        prior: str | Path | WeightPrior = "klein-3x3",
    ) -> None:
        super().__init__()
        # torch's own layer checks and expands the arguments; on the meta device it takes no memory.
        plain = nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            padding_mode,  # type: ignore[arg-type]
            device="meta",
        )
        self.in_channels, self.out_channels = plain.in_channels, plain.out_channels
        self.kernel_size, self.stride = plain.kernel_size, plain.stride
        self.padding, self.dilation = plain.padding, plain.dilation
        self.groups, self.padding_mode = plain.groups, plain.padding_mode
        self._pad = list(plain._reversed_padding_repeated_twice)
        self._describe = plain.extra_repr()
        self._init_posteriors(tuple(plain.weight.shape), bias, prior, device, dtype)

    def forward(self, input: Tensor) -> Tensor:
        weight, bias = self.draw()
        padding: Any = self.padding
        if self.padding_mode != "zeros":
            input, padding = F.pad(input, self._pad, mode=self.padding_mode), 0
        return F.conv2d(input, weight, bias, self.stride, padding, self.dilation, self.groups)

    def extra_repr(self) -> str:
        return self._describe


class BayesLinear(BayesLayer):
    r"""`torch.nn.Linear` with a posterior over weights: y = x W^T + b.

    All arguments are those of :class:`torch.nn.Linear`, and ``prior`` as in :class:`BayesConv2d`.

    Example:
        >>> BayesLinear(20, 10)(torch.zeros(5, 20)).shape
        torch.Size([5, 10])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        prior: str | Path | WeightPrior = "gaussian",
    ) -> None:
        super().__init__()
        for name, value in (("in_features", in_features), ("out_features", out_features)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}: expected a positive integer, found {value!r}")
        self.in_features, self.out_features = in_features, out_features
        self._init_posteriors((out_features, in_features), bias, prior, device, dtype)

    def forward(self, input: Tensor) -> Tensor:
        weight, bias = self.draw()
        return F.linear(input, weight, bias)

    def extra_repr(self) -> str:
        bias = self.bias_posterior is not None
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={bias}"
