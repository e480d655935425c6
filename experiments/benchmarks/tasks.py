"""What a network of the drop-in benchmark learns: classes of images, classes of pixels, a number with its spread."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from experiments.common.data import ImageData
from experiments.common.metrics import METRICS, evaluate

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
        # confidence above accuracy: too sure of itself, below: not sure enough
        confidence = float(p.amax(1).mean())
        return {**evaluate(p, targets.flatten()), "confidence": confidence, "diverged": float(diverged)}


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


class Number:
    """How bright the lower half of an image is, seen the upper half: a mean and the log of a variance.

    The three measures stand where those of classes do: the share of the variance that the mean explains (R^2), the NLL of the
    mixture of normals, and how far the shares of answers below the mixture's quantiles are from nominal, in the mean.
    """

    def outputs(self, classes: int) -> int:
        return 2

    def data(self, images: ImageData) -> tuple[Pair, Pair]:
        x, tests = normalized(
            *(each[:, :, : each.shape[2] // 2] for each in (images.train_images, images.test_images))
        )
        y, answers = (
            each[:, :, each.shape[2] // 2 :].mean((1, 2, 3))
            for each in (images.train_images, images.test_images)
        )
        center, spread = y.mean(), y.std()
        return (x, (y - center) / spread), (tests, (answers - center) / spread)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.gaussian_nll_loss(outputs[:, 0], targets, outputs[:, 1].exp(), full=True)

    def measures(self, draws: Tensor, targets: Tensor) -> dict[str, float]:
        law = torch.distributions.Normal(draws[:, :, 0], (draws[:, :, 1] / 2).exp(), validate_args=False)
        nll = math.log(len(draws)) - law.log_prob(targets).logsumexp(0)
        explained = 1 - (draws[:, :, 0].mean(0) - targets).square().mean() / targets.var(correction=0)
        levels = torch.linspace(0.05, 0.95, 19)
        below = law.cdf(targets).mean(0)  # uniform, were the mixture the law of the answers
        off = ((below[:, None] <= levels).float().mean(0) - levels).abs().mean()
        diverged = not bool(nll.isfinite().all())
        values = dict(zip(METRICS, (explained, nll.mean(), math.nan, off), strict=True))
        return {name: float(value) for name, value in values.items()} | {"diverged": float(diverged)}


TASKS: dict[str, Task] = {
    "unet": Pixels(),
    "regression": Number(),
}  # of networks that do not classify images


def pixel_labels(images: Tensor, labels: Tensor) -> Tensor:
    """Segmentation made of classification: class k + 1 where an image of class k is not dark, 0 elsewhere; (B, H, W)."""
    return torch.where(images.mean(1) > 0.25, labels[:, None, None] + 1, 0)


def normalized(x: Tensor, tests: Tensor) -> Pair:
    center, spread = x.mean(), x.std()
    layout = torch.channels_last  # on CPUs max-pooling is then ten times as fast
    return ((x - center) / spread).to(memory_format=layout), ((tests - center) / spread).to(
        memory_format=layout
    )
