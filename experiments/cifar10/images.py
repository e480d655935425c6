"""Images to learn from, to choose by, to be judged by; flips and shifts on the fly."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from experiments.cifar10.corruptions import corrupted
from experiments.common import data as datasets
from experiments.common.data import ImageData
from experiments.common.splits import stratified_indices, train_validation_split
from experiments.common.store import digest
from experiments.common.uncertainty import as_foreign

FASHION = ("embedded", "fashion-mnist")  # to which the foreign images are not foreign
VALIDATION = 0.1  # of the training images: 5,000 of CIFAR-10's 50,000
SHIFT = 4  # pixels, either way
Array = np.ndarray  # of bytes, (N, H, W, C), or of labels, (N,): joblib shares its memory with workers


@dataclass(frozen=True, eq=False)
class Images:
    """Bytes (N, H, W, C) with labels (N,).

    Args:
        corrupted: (kinds, severities, N, H, W, C), of some test images, and their labels.
        foreign: (N, H, W, C), no labels: Fashion-MNIST's, of the embedded subset, in size and colours of the others.
    """

    learn: tuple[Array, Array]
    validation: tuple[Array, Array]
    test: tuple[Array, Array]
    corrupted: tuple[Array, Array]
    foreign: Array
    classes: int

    def digest(self) -> str:
        """Of all but the foreign images, which are the same for every set."""
        parts = (*self.learn, *self.validation, *self.test, *self.corrupted)
        return digest(*(f"{part.shape}".encode() + part.tobytes() for part in parts))

    def subset(self, n: int, seed: int) -> tuple[Array, Array]:
        """n images to learn from, every class as often as in all, drawn by ``seed``."""
        x, y = self.learn
        rows = stratified_indices(torch.from_numpy(y), n, seed).numpy()
        return x[rows], y[rows]


def read(dataset: str, data_dir: Path, num_corrupted: int, image_size: int | None = None) -> Images:
    """A set of :mod:`experiments.common.data`; its training images split once and for all into those to learn from and to choose by.

    Raises:
        DataError: as :func:`experiments.common.data.load`.
    """
    return split(datasets.load(dataset, data_dir, image_size=image_size), num_corrupted)


def split(found: ImageData, num_corrupted: int) -> Images:
    x, y, tests, answers = map(
        _array, (found.train_images, found.train_labels, found.test_images, found.test_labels)
    )
    learn, validation = (part.numpy() for part in train_validation_split(found.train_labels, VALIDATION, 0))
    foreign = as_foreign(datasets.load("embedded", Path()).test_images, found.test_images)
    some = stratified_indices(found.test_labels, min(num_corrupted, len(answers)), 0).numpy()
    return Images(
        (x[learn], y[learn]), (x[validation], y[validation]), (tests, answers),
        (corrupted(tests[some]), answers[some]),
        _array(foreign[: 0 if found.name in FASHION else None]), len(found.classes),
    )  # fmt: skip


def _array(tensor: Tensor) -> Array:
    if tensor.dim() == 1:
        return tensor.numpy()
    bytes_ = (tensor * 255).round_().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    return (bytes_.expand(-1, -1, -1, 3) if bytes_.shape[3] == 1 else bytes_).numpy()


def augmented(images: Tensor, chosen: Tensor, generator: torch.Generator, shift: int = SHIFT) -> Tensor:
    """Images ``chosen``, each shifted by up to ``shift`` pixels either way, its border mirrored, and flipped as likely as not.

    Args:
        images: (N, H, W, C).
        chosen: rows, (B,).

    Returns:
        (B, C, H, W), channels last.
    """
    batch, (height, width) = len(chosen), images.shape[1:3]
    down, across = torch.randint(-shift, shift + 1, (2, batch, 1), generator=generator)
    flipped = torch.rand(batch, 1, generator=generator) < 0.5
    columns = torch.where(flipped, torch.arange(width).flip(0), torch.arange(width))
    rows = _mirrored(torch.arange(height) + down, height).to(images.device)
    columns = _mirrored(columns + across, width).to(images.device)
    chosen = chosen.to(images.device)
    # one gather; (B, H, W, C) in memory is channels last
    return images[chosen[:, None, None], rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _mirrored(index: Tensor, size: int) -> Tensor:
    """Indices beyond the border come back: -1 is 1, ``size`` is ``size - 2``."""
    return (size - 1) - ((size - 1) - index.abs()).abs()
