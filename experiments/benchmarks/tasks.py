"""What a network of the drop-in benchmark learns: classes of images or of pixels."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from experiments.common.data import ImageData
from experiments.common.metrics import evaluate

Pair = tuple[Tensor, Tensor]  # inputs and targets


class Task(Protocol):
    def outputs(self, classes: int) -> int: ...

    def data(self, images: ImageData) -> tuple[Pair, Pair]:
        """Of training and test, inputs normalized."""

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor: ...

    def measures(self, draws: Tensor, targets: Tensor) -> dict[str, float]:
        """Of what the network returns under draws of its weights, (draws, batch, outputs, ...)."""


class Classes:
    def outputs(self, classes: int) -> int:
        return classes

    def data(self, images: ImageData) -> tuple[Pair, Pair]:
        x, tests = normalized(images.train_images, images.test_images)
        return (x, images.train_labels), (tests, images.test_labels)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets)

    def measures(self, draws: Tensor, targets: Tensor) -> dict[str, float]:
        p = draws.softmax(2).mean(0)
        diverged = not bool(p.isfinite().all())
        p = p.nan_to_num(1 / p.shape[1]).movedim(1, -1).flatten(0, -2)
        return {**evaluate(p, targets.flatten()), "diverged": float(diverged)}


class Pixels(Classes):
    """Class k + 1 where an image of class k is not dark, 0 elsewhere."""

    def outputs(self, classes: int) -> int:
        return classes + 1

    def data(self, images: ImageData) -> tuple[Pair, Pair]:
        (x, labels), (tests, answers) = super().data(images)
        return (x, pixel_labels(images.train_images, labels)), (
            tests,
            pixel_labels(images.test_images, answers),
        )


TASKS: dict[str, Task] = {"unet": Pixels()}  # of networks that do not classify images


def pixel_labels(images: Tensor, labels: Tensor) -> Tensor:
    """Segmentation made of classification: class k + 1 where an image of class k is not dark, 0 elsewhere; (B, H, W)."""
    return torch.where(images.mean(1) > 0.25, labels[:, None, None] + 1, 0)


def normalized(x: Tensor, tests: Tensor) -> Pair:
    center, spread = x.mean(), x.std()
    layout = torch.channels_last  # on CPUs max-pooling is then ten times as fast
    return ((x - center) / spread).to(memory_format=layout), ((tests - center) / spread).to(
        memory_format=layout
    )
