"""What all Bayesian convolutions share: torch's geometry, and many draws by one grouped convolution."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from topoprior.nn.base import BayesLayer, PriorLike
from topoprior.utils.checks import check_int

Size = int | Sequence[int]
_CHANNELS = ("in_channels", "out_channels")

# Many draws go through one grouped convolution up to this batch and this many weights a draw. Above either,
# a loop over the draws costs what as many plain convolutions cost, and a grouped one up to 5 times that; below,
# 0.4 to 1.1 of it (one CPU thread, 8 to 512 channels). With 1 to 3 inputs and large maps both pay for the
# memory of the outputs alike.
_GROUPED_BATCH = 4
_GROUPED_WEIGHTS = 2**18


class BayesConvNd(BayesLayer):
    """All Bayesian convolutions: geometry from torch's own layer, draws by one grouped convolution."""

    _function: ClassVar[Callable[..., Tensor]]
    default_prior: ClassVar[str] = "gaussian"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: str | Size = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        prior: PriorLike | None = None,
        posterior: str = "mean-field",
    ) -> None:
        super().__init__()
        geometry = (
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            padding_mode,
        )
        self._init_conv(geometry, prior, posterior, device, dtype)

    def _init_conv(
        self, geometry: tuple[Any, ...], prior: PriorLike | None, posterior: str, device: Any, dtype: Any
    ) -> None:
        channels = (check_int(name, n) for name, n in zip(_CHANNELS, geometry, strict=False))
        kernel_size = geometry[2]
        if isinstance(kernel_size, Sequence):
            kernel_size = tuple(check_int("kernel_size", n) for n in kernel_size)
        else:
            kernel_size = check_int("kernel_size", kernel_size)
        geometry = (*channels, kernel_size, *geometry[3:])
        # torch's own layer checks and expands the arguments; on the meta device it takes no memory.
        plain: Any = self._plain(*geometry, device="meta")
        self.in_channels, self.out_channels = plain.in_channels, plain.out_channels
        self.kernel_size, self.stride = plain.kernel_size, plain.stride
        self.padding, self.dilation = plain.padding, plain.dilation
        self.output_padding, self.groups = plain.output_padding, plain.groups
        self.padding_mode, self.transposed = plain.padding_mode, plain.transposed
        self._reversed_padding_repeated_twice = plain._reversed_padding_repeated_twice
        self._describe = plain.extra_repr()
        self._batch_dims = 2 + len(self.kernel_size)
        shape = (self.out_channels, self.in_channels // self.groups, *self.kernel_size)
        has_bias = plain.bias is not None
        self._init_posteriors(
            shape, has_bias, self.default_prior if prior is None else prior, posterior, device, dtype
        )

    def forward(self, input: Tensor) -> Tensor:
        return self._run(input)

    def _compute(
        self, input: Tensor, weight: Tensor, bias: Tensor | None, *, samples: int = 1, **options: Any
    ) -> Tensor:
        padding = self.padding
        if self.padding_mode != "zeros":
            input = F.pad(input, self._reversed_padding_repeated_twice, mode=self.padding_mode)
            padding = 0
        groups = self.groups * samples
        return type(self)._function(input, weight, bias, self.stride, padding, self.dilation, groups)

    def _compute_samples(
        self, input: Tensor, weight: Tensor, bias: Tensor | None, **options: Any
    ) -> Tensor:
        samples = len(weight)
        batch = input.shape[0] // samples
        if batch > _GROUPED_BATCH or weight[0].numel() > _GROUPED_WEIGHTS:
            return super()._compute_samples(input, weight, bias, **options)
        self._check_width(input, 1, self.in_channels)
        # Draws become groups of channels, (B, S * C, ...); for B = 1 this moves no data.
        folded = input.unflatten(0, (samples, batch)).transpose(0, 1).flatten(1, 2)
        bias = None if bias is None else bias.flatten()
        output = self._compute(folded, weight.flatten(0, 1), bias, samples=samples, **options)
        return output.unflatten(1, (samples, -1)).transpose(0, 1).flatten(0, 1)

    def extra_repr(self) -> str:
        return self._describe


def transpose_kernels(weight: Tensor, groups: int) -> Tensor:
    """Weights (out, in / groups, ...) of a convolution as torch's transposed one holds them,
    (in, out / groups, ...); it is its own inverse."""
    return weight.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)
