"""Networks and optimizers as people have them, for any kind of convolution."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Convolution = Callable[[int, int], nn.Module]  # 3x3, padding 1, (inputs, outputs)
Layers = list[nn.Module]


def plain(convolution: Convolution, channels: int, classes: int, width: int) -> Layers:
    """Three convolutions."""
    return [
        convolution(channels, width), nn.ReLU(), nn.MaxPool2d(2),
        convolution(width, 2 * width), nn.ReLU(), nn.MaxPool2d(2),
        convolution(2 * width, 2 * width), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(2 * width, classes),
    ]  # fmt: skip


def batch_norm(convolution: Convolution, channels: int, classes: int, width: int) -> Layers:
    """The same with batch normalization before every ReLU."""
    return [
        convolution(channels, width), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2),
        convolution(width, 2 * width), nn.BatchNorm2d(2 * width), nn.ReLU(), nn.MaxPool2d(2),
        convolution(2 * width, 2 * width), nn.BatchNorm2d(2 * width), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, classes),
    ]  # fmt: skip


def resnet8(convolution: Convolution, channels: int, classes: int, width: int) -> Layers:
    """He et al. 2016, one block a width, with group normalization (Wu & He 2018)."""
    half = width // 2
    sizes = ((half, half), (half, width), (width, 2 * width))
    return [
        convolution(channels, half), nn.GroupNorm(8, half), nn.ReLU(),
        *(Block(convolution, inputs, outputs) for inputs, outputs in sizes),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, classes),
    ]  # fmt: skip


class Block(nn.Module):
    """relu(skip(x) + f(x)); where the width grows, x is pooled, and the skip is a 1x1 convolution, plain for all."""

    def __init__(self, convolution: Convolution, inputs: int, outputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            convolution(inputs, outputs), nn.GroupNorm(8, outputs), nn.ReLU(),
            convolution(outputs, outputs), nn.GroupNorm(8, outputs),
        )  # fmt: skip
        self.skip = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)
        self.pool = nn.Identity() if inputs == outputs else nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(x)
        return (self.skip(x) + self.body(x)).relu()


class UNet(nn.Module):
    """Ronneberger et al. 2015 with two levels; the class of every pixel, (B, classes, H, W)."""

    def __init__(self, convolution: Convolution, channels: int, classes: int, width: int) -> None:
        super().__init__()

        def stage(inputs: int, outputs: int) -> nn.Module:
            return nn.Sequential(convolution(inputs, outputs), nn.GroupNorm(8, outputs), nn.ReLU())

        half = width // 2
        self.down = nn.ModuleList([stage(channels, half), stage(half, width)])
        self.bottom = stage(width, 2 * width)
        self.up = nn.ModuleList([stage(3 * width, width), stage(width + half, half)])
        self.head = nn.Conv2d(half, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        for stage in self.down:
            x = stage(x)
            kept.append(x)
            x = nn.functional.max_pool2d(x, 2)
        x = self.bottom(x)
        for stage, fine in zip(self.up, reversed(kept), strict=True):
            x = stage(torch.cat([nn.functional.interpolate(x, scale_factor=2.0), fine], 1))
        return self.head(x)


def unet(convolution: Convolution, channels: int, classes: int, width: int) -> Layers:
    return [UNet(convolution, channels, classes, width)]


NETWORKS: dict[str, Callable[[Convolution, int, int, int], Layers]] = {
    "plain": plain,
    "batch-norm": batch_norm,
    "resnet8": resnet8,
    "unet": unet,
    "regression": plain,
}

RATES = {"adam-1e-3": 1e-3, "adam-3e-3": 3e-3, "sgd-.1": 0.1, "adamw-onecycle": 3e-3}
RECIPES = tuple(RATES)
_DECAY = 0.01

Groups = Callable[[nn.Module, float, float], Sequence[Any]]  # of a network, learning rate, weight decay


def make_optimizer(
    recipe: str, net: nn.Module, groups: Groups, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """Optimizer and schedule, constant but for OneCycle."""
    rate = RATES[recipe]
    optimizer: torch.optim.Optimizer
    if recipe == "adamw-onecycle":
        optimizer = torch.optim.AdamW(groups(net, rate, _DECAY), lr=rate, weight_decay=_DECAY)
        highest = [group["lr"] for group in optimizer.param_groups]
        return optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, highest, total_steps=steps)
    if recipe == "sgd-.1":
        optimizer = torch.optim.SGD(groups(net, rate, 0.0), lr=rate, momentum=0.9)
    else:
        optimizer = torch.optim.Adam(groups(net, rate, 0.0), lr=rate)
    return optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)
