"""Networks for images of 32 x 32 pixels, for any kind of 3x3 convolution; the last layer is plain for all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn


class Convolution(Protocol):
    """3x3, padding 1, no bias."""

    def __call__(self, inputs: int, outputs: int, stride: int = 1) -> nn.Module: ...


class Classifier(nn.Module):
    """``body`` in ``precision``, the last layer in float32: logits that are rounded to 8 bits would cost likelihood."""

    def __init__(self, body: nn.Module, width: int, classes: int, precision: torch.dtype) -> None:
        super().__init__()
        self.body, self.head, self.precision = body, nn.Linear(width, classes), precision

    def features(self, x: Tensor) -> Tensor:
        """(B, width), what the last layer sees."""
        half = self.precision != torch.float32
        with torch.autocast(x.device.type, self.precision if half else None, enabled=half):
            return self.body(x).float()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


def narrow(convolution: Convolution, width: int) -> tuple[nn.Module, int]:
    """Six convolutions, two a stage, each stage on half the pixels: airbench's (Jordan 2024), less wide and without its whitening."""
    layers: list[nn.Module] = []
    inputs = 3
    for outputs in (width, 2 * width, 2 * width):
        layers += [
            convolution(inputs, outputs), nn.MaxPool2d(2), nn.BatchNorm2d(outputs), nn.ReLU(),
            convolution(outputs, outputs), nn.BatchNorm2d(outputs), nn.ReLU(),
        ]  # fmt: skip
        inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveMaxPool2d(1), nn.Flatten()), inputs


class Block(nn.Module):
    """relu(skip(x) + f(x)); where the width grows every second pixel stays, and new channels start at zero (He et al.'s option A)."""

    def __init__(self, convolution: Convolution, inputs: int, outputs: int) -> None:
        super().__init__()
        self.more = outputs - inputs
        self.f = nn.Sequential(
            convolution(inputs, outputs, 2 if self.more else 1), nn.BatchNorm2d(outputs), nn.ReLU(),
            convolution(outputs, outputs), nn.BatchNorm2d(outputs),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        skip = nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, self.more)) if self.more else x
        return (skip + self.f(x)).relu()


def resnet20(convolution: Convolution, width: int) -> tuple[nn.Module, int]:
    """He et al. 2016: three stages of three blocks, nineteen 3x3 convolutions and the last layer."""
    layers: list[nn.Module] = [convolution(3, width), nn.BatchNorm2d(width), nn.ReLU()]
    inputs = width
    for outputs in (width, 2 * width, 4 * width):
        for _ in range(3):
            layers.append(Block(convolution, inputs, outputs))
            inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), inputs


#: What makes a body and says its features, and the usual width of the first convolution.
NETWORKS: dict[str, tuple[Callable[[Convolution, int], tuple[nn.Module, int]], int]] = {
    "narrow": (narrow, 32),
    "resnet20": (resnet20, 16),
}
