"""Bayesian layers: torch.nn's operations on weights drawn from a posterior.

Arguments, shapes and errors are those of the torch.nn layer of the same name, with one more argument, the
prior of the weights, and the family of its posterior. :class:`topoprior.nn.base.BayesLayer` says when weights are drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from topoprior.nn.base import BayesLayer, PriorLike
from topoprior.nn.convolution import BayesConvNd, Size, transpose_kernels
from topoprior.nn.weights_in_use import Draws
from topoprior.utils.checks import check_int


class BayesConv1d(BayesConvNd):
    r"""`torch.nn.Conv1d` with a posterior over kernels; the arguments are those of :class:`BayesConv2d`.

    Args:
        prior: "gaussian" by default.

    Shape: input (N, C_in, L) or (C_in, L).

    Example:
        >>> BayesConv1d(3, 8, 5, padding="same")(torch.zeros(2, 3, 16)).shape
        torch.Size([2, 8, 16])
    """

    _plain, _function = nn.Conv1d, F.conv1d


class BayesConv2d(BayesConvNd):
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


class BayesConv3d(BayesConvNd):
    r"""`torch.nn.Conv3d` with a posterior over kernels; the arguments are those of :class:`BayesConv2d`.

    Args:
        prior: "gaussian" by default.

    Shape: input (N, C_in, D, H, W) or (C_in, D, H, W).

    Example:
        >>> BayesConv3d(3, 8, 3, padding=1)(torch.zeros(2, 3, 4, 4, 4)).shape
        torch.Size([2, 8, 4, 4, 4])
    """

    _plain, _function = nn.Conv3d, F.conv3d


class BayesConvTranspose2d(BayesConvNd):
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

    def draw(self, input: Tensor | None = None) -> Draws:
        return super().draw()  # is transposed, which no layout is made for

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


class BayesLinear(BayesLayer):
    r"""`torch.nn.Linear` with a posterior over weights: y = x W^T + b.

    All arguments are those of :class:`torch.nn.Linear`, and ``prior`` ("gaussian" by default) and
    ``posterior`` as in :class:`BayesConv2d`.

    Shape: input (..., in_features).

    Example:
        >>> BayesLinear(20, 10)(torch.zeros(5, 20)).shape
        torch.Size([5, 10])
    """

    _plain = nn.Linear

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
        self._check_width(input, -1, self.in_features)
        rows = input.reshape(len(weight), -1, self.in_features)
        if bias is None:
            output = torch.bmm(rows, weight.mT)
        else:
            output = torch.baddbmm(bias.unsqueeze(1), rows, weight.mT)
        return output.reshape(*input.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        bias = self.bias_posterior is not None
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={bias}"
