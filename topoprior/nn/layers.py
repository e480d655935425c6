"""Bayesian layers: torch.nn's operations on weights drawn from a posterior.

Arguments, shapes and errors are those of the torch.nn layer of the same name, with one more argument, the
prior of the weights, and the family of its posterior. :class:`topoprior.bayes_layer.BayesLayer` says when weights are drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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


class _BayesConvNd(BayesLayer):
    """All Bayesian convolutions: geometry from torch's own layer, draws by one grouped convolution."""

    _plain: ClassVar[type[nn.Module]]
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
        self.padding_mode = plain.padding_mode
        self._pad = list(plain._reversed_padding_repeated_twice) if plain.padding_mode != "zeros" else None
        self._describe = plain.extra_repr()
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
        if self._pad is not None:
            input, padding = F.pad(input, self._pad, mode=self.padding_mode), 0
        groups = self.groups * samples
        return type(self)._function(input, weight, bias, self.stride, padding, self.dilation, groups)

    def _compute_samples(
        self, input: Tensor, weight: Tensor, bias: Tensor | None, **options: Any
    ) -> Tensor:
        samples = len(weight)
        batch = input.shape[0] // samples
        if batch > _GROUPED_BATCH or weight[0].numel() > _GROUPED_WEIGHTS:
            return super()._compute_samples(input, weight, bias, **options)
        # Draws become groups of channels, (B, S * C, ...); for B = 1 this moves no data.
        folded = input.unflatten(0, (samples, batch)).transpose(0, 1).flatten(1, 2)
        bias = None if bias is None else bias.flatten()
        output = self._compute(folded, weight.flatten(0, 1), bias, samples=samples, **options)
        return output.unflatten(1, (samples, -1)).transpose(0, 1).flatten(0, 1)

    def extra_repr(self) -> str:
        return self._describe


class BayesConv1d(_BayesConvNd):
    r"""`torch.nn.Conv1d` with a posterior over kernels; the arguments are those of :class:`BayesConv2d`.

    Args:
        prior: "gaussian" by default.

    Shape: input (N, C_in, L) or (C_in, L).

    Example:
        >>> BayesConv1d(3, 8, 5, padding="same")(torch.zeros(2, 3, 16)).shape
        torch.Size([2, 8, 16])
    """

    _plain, _function = nn.Conv1d, F.conv1d


class BayesConv2d(_BayesConvNd):
    r"""`torch.nn.Conv2d` with a posterior over kernels.

    All arguments are those of :class:`torch.nn.Conv2d`, and two more.

    Args:
        prior: name ("klein-3x3", "gaussian", ...), checkpoint folder, or a
            :class:`~topoprior.priors.base.WeightPrior`; "klein-3x3" by default.
        posterior: "mean-field", or "delta": a point in the prior's whitened coordinates
            (:class:`~topoprior.priors.DeltaPosterior`), for MAP estimates, ensembles and samplers.

    Shape: input (N, C_in, H, W) or (C_in, H, W), as in :class:`torch.nn.Conv2d`.

    Raises:
        ValueError: unknown prior, or a prior that does not decode this kernel size; the message lists
            priors that do.

    Example:
        >>> conv = BayesConv2d(3, 8, 3, padding=1)
        >>> conv(torch.zeros(2, 3, 16, 16)).shape, conv.kl().shape
        (torch.Size([2, 8, 16, 16]), torch.Size([]))
    """

    _plain, _function = nn.Conv2d, F.conv2d
    default_prior = "klein-3x3"


class BayesConv3d(_BayesConvNd):
    r"""`torch.nn.Conv3d` with a posterior over kernels; the arguments are those of :class:`BayesConv2d`.

    Args:
        prior: "gaussian" by default.

    Shape: input (N, C_in, D, H, W) or (C_in, D, H, W).

    Example:
        >>> BayesConv3d(3, 8, 3, padding=1)(torch.zeros(2, 3, 4, 4, 4)).shape
        torch.Size([2, 8, 4, 4, 4])
    """

    _plain, _function = nn.Conv3d, F.conv3d


class BayesConvTranspose2d(_BayesConvNd):
    r"""`torch.nn.ConvTranspose2d` with a posterior over kernels.

    The posterior holds weights as priors know them, (out, in / groups, kH, kW), so that the scale follows
    the fan-in; torch's own layer holds the transpose, (in, out / groups, kH, kW).

    Args:
        prior: "klein-3x3" by default.

    Shape: input (N, C_in, H, W) or (C_in, H, W).

    Example:
        >>> up = BayesConvTranspose2d(8, 3, 3, stride=2, padding=1)
        >>> x = torch.zeros(2, 8, 16, 16)
        >>> up(x).shape, up(x, output_size=(32, 32)).shape
        (torch.Size([2, 3, 31, 31]), torch.Size([2, 3, 32, 32]))
    """

    _plain, _function = nn.ConvTranspose2d, F.conv_transpose2d
    default_prior = "klein-3x3"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size = 0,
        output_padding: Size = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Size = 1,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        prior: PriorLike | None = None,
        posterior: str = "mean-field",
    ) -> None:
        BayesLayer.__init__(self)
        sizes = (in_channels, out_channels, kernel_size, stride, padding, output_padding)
        self._init_conv((*sizes, groups, bias, dilation, padding_mode), prior, posterior, device, dtype)

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """``output_size``: (H, W) wanted, where stride leaves a choice; also with leading (N, C)."""
        if isinstance(input, torch.fx.Proxy):
            return self._run(input, output_size=output_size)
        if output_size is None:
            return self._run(input, output_padding=self.output_padding)
        return self._run(input, output_padding=self._padding_for(input, output_size))

    def _padding_for(self, input: Tensor, output_size: Sequence[int]) -> list[int]:
        """The output padding that gives ``output_size``."""
        padding = []
        wanted, found = list(output_size)[-2:], input.shape[-2:]
        geometry = zip(self.stride, self.padding, self.dilation, self.kernel_size, strict=True)
        for i, (stride, pad, dilation, kernel) in enumerate(geometry):
            smallest = (found[i] - 1) * stride - 2 * pad + dilation * (kernel - 1) + 1
            if len(wanted) != 2 or not smallest <= wanted[i] < smallest + stride:
                raise ValueError(
                    f"output_size: expected {smallest} to {smallest + stride - 1} in spatial dimension {i} "
                    f"for an input of size {tuple(found)}, found {tuple(output_size)}"
                )
            padding.append(wanted[i] - smallest)
        return padding

    def _compute(
        self, input: Tensor, weight: Tensor, bias: Tensor | None, *, samples: int = 1, **options: Any
    ) -> Tensor:
        groups = self.groups * samples
        return F.conv_transpose2d(
            input,
            transpose_kernels(weight, groups),
            bias,
            self.stride,
            self.padding,
            options["output_padding"],
            groups,
            self.dilation,
        )


def transpose_kernels(weight: Tensor, groups: int) -> Tensor:
    """Weights (out, in / groups, ...) of a convolution as torch's transposed one holds them,
    (in, out / groups, ...); it is its own inverse."""
    return weight.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)


class BayesLinear(BayesLayer):
    r"""`torch.nn.Linear` with a posterior over weights: y = x W^T + b.

    All arguments are those of :class:`torch.nn.Linear`, and ``prior`` ("gaussian" by default) and
    ``posterior`` as in :class:`BayesConv2d`.

    Shape: input (..., in_features).

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
        prior: PriorLike = "gaussian",
        posterior: str = "mean-field",
    ) -> None:
        super().__init__()
        self.in_features = check_int("in_features", in_features)
        self.out_features = check_int("out_features", out_features)
        shape = (self.out_features, self.in_features)
        self._init_posteriors(shape, bias, prior, posterior, device, dtype)

    def forward(self, input: Tensor) -> Tensor:
        return self._run(input)

    def _compute(self, input: Tensor, weight: Tensor, bias: Tensor | None, **options: Any) -> Tensor:
        return F.linear(input, weight, bias)

    def _compute_samples(
        self, input: Tensor, weight: Tensor, bias: Tensor | None, **options: Any
    ) -> Tensor:
        rows = input.reshape(len(weight), -1, self.in_features)
        if bias is None:
            output = torch.bmm(rows, weight.mT)
        else:
            output = torch.baddbmm(bias.unsqueeze(1), rows, weight.mT)
        return output.reshape(*input.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        bias = self.bias_posterior is not None
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={bias}"
