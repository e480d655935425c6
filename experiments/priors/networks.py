"""One small convolutional network, many kinds of 3x3 convolution in it: the methods that are compared.

Only the convolutions differ. The last layer is deterministic for every method: with a Bayesian last layer
at temperature 1, small data leave the whole posterior at the prior, and then there is nothing to compare.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import topoprior as tp
from experiments.priors.methods import Method, blitz_sequential, is_blitz, start_from_klein_

WIDTHS = (16, 32, 64)
_LEAK = 0.1
_GROUPS = 8


@dataclass(frozen=True)
class Network:
    """What is the same for all methods.

    widths: channels of the convolutions. side: of the grid on which the last layer sees them.
    normalized: an image's features have mean 0 and variance 1 before the last layer, which starts at 0: noise in
    the weights changes the scale of all features together, and a few images cannot teach the last layer to bear it.
    """

    widths: tuple[int, ...]
    side: int
    normalized: bool = False


@dataclass(frozen=True)
class ResNet:
    """A residual network in the manner of He et al. (2016) for CIFAR: a convolution, then ``blocks`` pairs of them at
    each width, on maps of half the side each time. ResNet-20 is blocks = 3.

    Normalization is over groups of channels of one image (Wu & He 2018): with batch normalization a draw's
    prediction for an image would depend on the other images and on the draws of earlier steps.
    """

    widths: tuple[int, ...]
    blocks: int


NETWORKS: dict[str, Network | ResNet] = {
    "compare": Network(WIDTHS, 3),
    "small": Network(WIDTHS, 3, normalized=True),
    "narrow": Network((8, 16, 32), 3, normalized=True),
    "two": Network((16, 32), 7, normalized=True),
    "resnet8": ResNet(WIDTHS, 1),
    "resnet20": ResNet(WIDTHS, 3),
}


def build(method: Method, channels: int, classes: int, network: str = "compare") -> nn.Sequential:
    """A network of `NETWORKS`, for images (N, channels, H, W) of any size from 8 on; returns logits (N, classes)."""
    shape = NETWORKS[network]
    convolutions = _residual_layers if isinstance(shape, ResNet) else _plain_layers
    layers = [_ChannelsLast(), *convolutions(method, channels, shape)]
    features = shape.widths[-1] * (1 if isinstance(shape, ResNet) else shape.side**2)
    last = nn.Linear(features, classes)
    if isinstance(shape, ResNet) or shape.normalized:
        layers.append(nn.LayerNorm(features, elementwise_affine=False))
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
    layers.append(last)
    built = blitz_sequential()(*layers) if is_blitz(method) else nn.Sequential(*layers)
    if method.start == "klein":
        start_from_klein_(built)
    return built


def kl(network: nn.Module) -> Tensor:
    """KL(posterior || prior) in nats; BLiTZ's is that of the weights drawn in the last forward pass."""
    if hasattr(network, "nn_kl_divergence"):
        return network.nn_kl_divergence()  # type: ignore[operator]
    if not any(isinstance(module, tp.WeightPosterior) for module in network.modules()):
        return torch.zeros(())  # a deterministic network is meant to have none: no warning
    return tp.kl_divergence(network)


def _plain_layers(method: Method, channels: int, shape: Any) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for width in shape.widths:
        layers += [method.convolution(channels, width), nn.MaxPool2d(2), nn.LeakyReLU(_LEAK)]
        channels = width
    return [*layers, nn.AdaptiveAvgPool2d(shape.side), nn.Flatten()]


def _residual_layers(method: Method, channels: int, shape: Any) -> list[nn.Module]:
    first = shape.widths[0]
    layers: list[nn.Module] = [method.convolution(channels, first), nn.GroupNorm(_GROUPS, first), nn.ReLU()]
    channels = first
    for width in shape.widths:
        for _ in range(shape.blocks):
            layers.append(_Residual(method, channels, width))
            channels = width
    return [*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()]


class _Residual(nn.Module):
    """relu(x + f(x)); where the width grows, x is averaged over 2x2 pixels and padded with channels of zeros."""

    def __init__(self, method: Method, inputs: int, outputs: int) -> None:
        super().__init__()
        self.added = outputs - inputs
        self.first, self.second = method.convolution(inputs, outputs), method.convolution(outputs, outputs)
        self.norms = nn.ModuleList(nn.GroupNorm(_GROUPS, outputs) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        if self.added:
            x = F.avg_pool2d(x, 2)
        inner = self.norms[0](self.first(x)).relu()
        inner = self.norms[1](self.second(inner))
        if self.added:
            x = F.pad(x, (0, 0, 0, 0, 0, self.added))
        return (x + inner).relu()


class _ChannelsLast(nn.Module):
    """Colours of a pixel side by side in memory, all the way: on CPUs max-pooling is then ten times as fast."""

    def forward(self, images: Tensor) -> Tensor:
        return images.to(memory_format=torch.channels_last)  # "contiguous" leaves grey images as they are


def first_layer(network: Any) -> Any:
    """The first convolution, of an ensemble that of its first member."""
    return (network if isinstance(network, nn.Sequential) else network.members[0])[1]


@torch.no_grad()
def first_kernels(network: nn.Module) -> Tensor:
    """Weights of the first layer, drawn from its posterior; those of an ensemble's first member."""
    layer = first_layer(network)
    if isinstance(layer, tp.BayesConv2d):
        return layer.draw()[0]
    return layer.weight if isinstance(layer, nn.Conv2d) else layer.weight_sampler.sample()
