"""What every engine is given: a small network with a prior, a few images to learn from, others to be judged by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import topoprior as tp
from experiments.common import data as datasets
from experiments.common.splits import stratified_indices

WIDTHS = (16, 32)  # a network whose chains agree after some thousand gradients

Images = tuple[Tensor, Tensor, Tensor, Tensor]  # to learn from with labels, to be judged by with labels


Make = Callable[[int, int], nn.Module]  # a layer of (inputs, outputs)


def stack(
    convolution: Make,
    linear: Make,
    *,
    size: int = 28,
    channels: int = 1,
    classes: int = 10,
    widths: Sequence[int] = WIDTHS,
) -> list[nn.Module]:
    """Convolutions of ``widths`` channels, each halving images of ``size`` pixels a side, and a last layer."""
    layers: list[nn.Module] = []
    for width in widths:
        layers += [convolution(channels, width), nn.MaxPool2d(2), nn.LeakyReLU(0.1)]
        channels, size = width, size // 2
    return [*layers, nn.Flatten(), linear(channels * size**2, classes)]


def network(
    prior: str | tp.WeightPrior,
    last_gain: float,
    posterior: str = "delta",
    *,
    last: str | None = None,
    **shape: Any,
) -> nn.Sequential:
    """Convolutions with ``prior``, a Gaussian last layer.

    Args:
        last: posterior of the last layer, that of the others by default.
        shape: of :func:`stack`.
    """
    gaussian = tp.Gaussian(gain=last_gain)
    return nn.Sequential(
        *stack(
            lambda i, o: tp.BayesConv2d(i, o, 3, padding=1, prior=prior, posterior=posterior),
            lambda i, o: tp.BayesLinear(i, o, prior=gaussian, posterior=last or posterior),
            **shape,
        )
    )


def split(name: str, data_dir: Path, *, size: int, n: int, test: int, seed: int) -> Images:
    """A stratified split of a set by name, or of a folder, as `datasets.load` has it; mean 0, std 1 over what is learned from."""
    return standardized(
        datasets.load(name, data_dir, image_size=size, train_size=n, test_size=test, seed=seed)
    )


def standardized(found: datasets.ImageData) -> Images:
    x, unseen = in_units_of(found.train_images, found.train_images, found.test_images)
    return x, found.train_labels, unseen, found.test_labels


def in_units_of(learned: Tensor, *images: Tensor) -> list[Tensor]:
    """Images of which those that are learned from have mean 0 and std 1."""
    mean, std = learned.mean(), learned.std().clamp_min(1e-6)
    return [(part - mean) / std for part in images]


def check_size(option: str, size: int) -> None:
    """Raises ValueError for images that the network cannot halve twice."""
    if size < 8:
        raise ValueError(f"{option} {size}: give at least 8, the network halves it twice")


def num_classes(images: Images) -> int:
    return int(max(images[1].max(), images[3].max())) + 1


def held_out(name: str, data_dir: Path, *, size: int, n: int, test: int, seed: int) -> Images:
    """A split whose unseen images are training images too, others than those that are learned from: for choices."""
    found = datasets.load(name, data_dir, image_size=size, train_size=n + test, test_size=10, seed=seed)
    learned = stratified_indices(found.train_labels, n, seed)
    unseen = torch.ones(n + test, dtype=torch.bool)
    unseen[learned] = False
    (x,), y = in_units_of(found.train_images[learned], found.train_images), found.train_labels
    return x[learned], y[learned], x[unseen], y[unseen]


def judge(p: Tensor, y: Tensor, foreign: Tensor | None = None) -> dict[str, float]:
    """Accuracy, mean negative log likelihood in nats, calibration error over 15 bins; where there are predictions for images of
    another set, the AUROC of predictive entropy."""
    from torchmetrics.functional.classification import binary_auroc, multiclass_calibration_error

    tiny = torch.finfo(p.dtype).tiny
    found = {
        "accuracy": (p.argmax(1) == y).double().mean().item(),
        "nll": F.nll_loss(p.clamp_min(tiny).log(), y).item(),
        "ece": multiclass_calibration_error(p, y, p.shape[1], n_bins=15, norm="l1").item(),
    }
    if foreign is not None and len(foreign):
        every = torch.cat([p, foreign])
        entropy = torch.special.entr(every).sum(1)
        target = (torch.arange(len(every)) >= len(p)).long()
        found["auroc"] = binary_auroc(entropy / entropy.max(), target).item()
    return found
