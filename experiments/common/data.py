"""Image data for the experiments, as tensors in memory.

`load` reads a data set by name, or a folder of images; `describe` says what it holds, as a digest.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from experiments.common.decoded import decoded
from experiments.common.folders import DataError, read_folder
from experiments.common.splits import stratified_indices
from experiments.common.store import digest, tensor_bytes

EMBEDDED = Path(__file__).parents[2] / "data" / "fashion-mnist-subset.npz"

FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)

# The sets torchvision downloads: its class for each, and the files it looks for.
_DOWNLOADS = {
    "mnist": ("MNIST", "{train,t10k}-{images-idx3,labels-idx1}-ubyte in MNIST/raw"),
    "fashion-mnist": (
        "FashionMNIST",
        "{train,t10k}-{images-idx3,labels-idx1}-ubyte in FashionMNIST/raw",
    ),
    "cifar10": ("CIFAR10", "the unpacked cifar-10-python.tar.gz in cifar-10-batches-py"),
}

# What torchvision raises for files that are missing, out of reach or damaged.
_TORCHVISION_ERRORS = (AssertionError, HTTPException, OSError, RuntimeError, TypeError, ValueError)

NAMES = ("embedded", *_DOWNLOADS)


@dataclass(frozen=True, eq=False)
class ImageData:
    """A data set: images float32 in [0, 1], shape (N, C, H, W); labels int64, shape (N,).

    Label k means `classes[k]`. Rows are in the order of the source, which may be sorted by class.
    """

    name: str
    classes: tuple[str, ...]
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


class _Source(NamedTuple):
    """Where images come from: labels at once, pixels only when the images have been chosen."""

    classes: tuple[str, ...]
    train_labels: Tensor
    test_labels: Tensor
    # (train indices, test indices) -> (train images, test images), uint8, shape (N, H, W, C)
    read: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    digest: Callable[[], str]
    notes: list[str]


def load(
    name: str,
    data_dir: Path,
    *,
    download: bool = True,
    image_size: int | None = None,
    train_size: int | None = None,
    test_size: int | None = None,
    seed: int = 0,
) -> ImageData:
    """Load a data set.

    Args:
        name: one of `NAMES`, or a folder with images in train/<class>/ and test/<class>/. A name
            comes before a folder called the same; write ./mnist for the folder. The images of a
            folder are grey (C = 1) if all that are read are grey, otherwise RGB (C = 3).
        data_dir: where torchvision finds its files, or puts them, and where the pixels of a large folder are kept for the next call.
        download: fetch files that are missing from `data_dir`.
        image_size: resize all images to this height and width. Without it images keep their
            size; images of a folder are resized to the size that most of its training images have, at most 32 pixels a side.
        train_size: use a stratified subset of this many training images (default: all).
        test_size: the same for test images.
        seed: which stratified subset.

    Raises:
        DataError: no such data, files missing or damaged, or a size out of range.
    """
    source = _find(name, data_dir, download, image_size)
    train = _choose(source.train_labels, train_size, seed, "train", name)
    test = _choose(source.test_labels, test_size, seed, "test", name)
    train_images, test_images = source.read(train, test)
    return ImageData(
        name=name,
        classes=source.classes,
        train_images=_to_unit(train_images, image_size),
        train_labels=source.train_labels[train],
        test_images=_to_unit(test_images, image_size),
        test_labels=source.test_labels[test],
    )


class Description(NamedTuple):
    """What decides a data set's pixels and labels, as a digest; and what its user should know, a line each."""

    digest: str
    notes: tuple[str, ...]


def describe(name: str, data_dir: Path, *, image_size: int | None = None) -> Description:
    """Read all of a data set, once and before any work.

    Raises:
        DataError: as `load`, and for any file of a folder that is not an image.
    """
    source = _find(name, data_dir, True, image_size)
    return Description(source.digest(), tuple(source.notes))


def counts(name: str, data_dir: Path) -> tuple[int, int]:
    """How many training and test images a data set has. Raises DataError as `load` does."""
    source = _find(name, data_dir, True, None)
    return len(source.train_labels), len(source.test_labels)


def _find(name: str, data_dir: Path, download: bool, image_size: int | None) -> _Source:
    if image_size is not None and image_size < 1:
        raise DataError(f"--image-size {image_size}: choose at least 1")
    if name == "embedded":
        return _embedded()
    if name in _DOWNLOADS:
        return _torchvision(name, data_dir, download)
    if Path(name).is_dir():
        return _folder(Path(name), image_size, data_dir)
    raise DataError(
        f"no data set or folder {name!r}: choose one of {', '.join(NAMES)}, "
        "or a folder with train/<class>/ and test/<class>/"
    )


def _choose(labels: Tensor, size: int | None, seed: int, split: str, name: str) -> Tensor:
    """`stratified_indices`, with errors in terms of the command line."""
    if size is not None and size > len(labels):
        kind = "training" if split == "train" else split
        raise DataError(
            f"--{split}-size {size}: only {len(labels)} {kind} images in {name!r}; "
            f"choose at most {len(labels)}"
        )
    if size is not None and size < 1:
        raise DataError(f"--{split}-size {size}: choose at least 1")
    return stratified_indices(labels, size, seed)


def _to_unit(images: Tensor, image_size: int | None) -> Tensor:
    """uint8 (N, H, W, C) to float32 (N, C, H, W) in [0, 1], resized unless it has that size."""
    result = images.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    result /= 255
    if image_size is not None and result.shape[2:] != (image_size, image_size):
        result = F.interpolate(result, (image_size, image_size), mode="bilinear", antialias=True)
    return result


def _in_memory(
    classes: tuple[str, ...], train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]
) -> _Source:
    """Source of (images, labels) in memory; images uint8, shape (N, H, W) or (N, H, W, C)."""

    def pick(images: Tensor, chosen: Tensor) -> Tensor:
        return images[chosen].unsqueeze(-1) if images.ndim == 3 else images[chosen]

    def read(train_chosen: Tensor, test_chosen: Tensor) -> tuple[Tensor, Tensor]:
        return pick(train[0], train_chosen), pick(test[0], test_chosen)

    def of_all() -> str:
        return digest(*map(tensor_bytes, (*train, *test)))

    return _Source(classes, train[1].long(), test[1].long(), read, of_all, [])


def _embedded() -> _Source:
    """The subset of Fashion-MNIST in this repository."""
    try:
        with np.load(EMBEDDED, allow_pickle=False) as file:
            arrays = {key: torch.from_numpy(file[key]) for key in file.files}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"cannot read {EMBEDDED}: run python data/prepare.py") from error
    return _in_memory(
        FASHION_CLASSES,
        (arrays["train_images"], arrays["train_labels"]),
        (arrays["test_images"], arrays["test_labels"]),
    )


def _torchvision(name: str, data_dir: Path, download: bool) -> _Source:
    """A set that torchvision knows, read from `data_dir`."""
    from torchvision import datasets  # takes seconds to import

    class_name, files = _DOWNLOADS[name]
    splits = []
    try:
        for train in (True, False):
            data = getattr(datasets, class_name)(data_dir, train=train, download=download)
            splits.append((torch.as_tensor(data.data), torch.as_tensor(data.targets)))
    except _TORCHVISION_ERRORS as error:
        # torchvision gives the failure of each mirror on lines of its own; the last will do.
        reason = (str(error).splitlines() or [type(error).__name__])[-1]
        problem = "cannot be read or downloaded" if download else "cannot be read without download"
        raise DataError(f"{name}: {problem} ({reason}); put {files} in {data_dir}") from error
    return _in_memory(tuple(data.classes), splits[0], splits[1])


def _folder(root: Path, image_size: int | None, data_dir: Path) -> _Source:
    """A folder with images in train/<class>/ and test/<class>/, in sorted order."""
    folder = read_folder(root)
    size = folder.common_size() if image_size is None else (image_size, image_size)

    def read(train_chosen: Tensor, test_chosen: Tensor) -> tuple[Tensor, Tensor]:
        paths = [folder.train[i][0] for i in train_chosen.tolist()]
        paths += [folder.test[i][0] for i in test_chosen.tolist()]
        images = decoded(root, paths, size, data_dir)
        return images[: len(train_chosen)], images[len(train_chosen) :]

    labels = folder.labels("train"), folder.labels("test")
    return _Source(folder.classes, *labels, read, folder.check, folder.notes)
