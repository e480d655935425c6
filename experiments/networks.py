"""One small convolutional network, many kinds of 3x3 convolution in it: the methods that are compared.

Only the convolutions differ. The last layer is deterministic for every method: with a Bayesian last layer
at temperature 1, small data leave the whole posterior at the prior, and then there is nothing to compare.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import topoprior as tp
from experiments.methods import Method, blitz_sequential, is_blitz, start_from_klein_

WIDTHS = (16, 32, 64)
_LEAK = 0.1


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


NETWORKS = {
    "compare": Network(WIDTHS, 3),
    "small": Network(WIDTHS, 3, normalized=True),
    "narrow": Network((8, 16, 32), 3, normalized=True),
    "two": Network((16, 32), 7, normalized=True),
}


def build(method: Method, channels: int, classes: int, network: str = "compare") -> nn.Sequential:
    """A network of `NETWORKS`, for images (N, channels, H, W) of any size from 8 on; returns logits (N, classes)."""
    shape = NETWORKS[network]
    layers: list[nn.Module] = []
    for width in shape.widths:
        layers += [method.convolution(channels, width), nn.MaxPool2d(2), nn.LeakyReLU(_LEAK)]
        channels = width
    features = shape.side**2 * channels
    last = nn.Linear(features, classes)
    layers += [nn.AdaptiveAvgPool2d(shape.side), nn.Flatten()]
    if shape.normalized:
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
    return tp.kl_divergence(network)


def first_layer(network: Any) -> Any:
    return network[0] if isinstance(network, nn.Sequential) else network.members[0][0]


@torch.no_grad()
def first_kernels(network: nn.Module) -> Tensor:
    """Weights of the first layer, drawn from its posterior; those of an ensemble's first member."""
    layer = first_layer(network)
    if isinstance(layer, tp.BayesConv2d):
        return layer.draw()[0]
    return layer.weight if isinstance(layer, nn.Conv2d) else layer.weight_sampler.sample()
