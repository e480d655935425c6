"""Image data for the experiments, as tensors in memory.

`load` reads a data set by name, or a folder of images; `stratified_indices` and
`train_validation_split` choose parts of it that keep the frequencies of the classes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

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


class DataError(ValueError):
    """The data cannot be had as asked for; the message is one line that says what to do."""


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
        data_dir: where torchvision finds its files, or puts them. Not used by the others.
        download: fetch files that are missing from `data_dir`.
        image_size: resize all images to this height and width. Without it images keep their
            size; images of a folder are resized to the size of its first training image.
        train_size: use a stratified subset of this many training images (default: all).
        test_size: the same for test images.
        seed: which stratified subset.

    Raises:
        DataError: no such data, files missing or damaged, or a size out of range.
    """
    if image_size is not None and image_size < 1:
        raise DataError(f"--image-size {image_size}: choose at least 1")
    if name == "embedded":
        source = _embedded()
    elif name in _DOWNLOADS:
        source = _torchvision(name, data_dir, download)
    elif Path(name).is_dir():
        source = _folder(Path(name), image_size)
    else:
        raise DataError(
            f"no data set or folder {name!r}: choose one of {', '.join(NAMES)}, "
            "or a folder with train/<class>/ and test/<class>/"
        )
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


def stratified_indices(labels: Tensor, size: int | None, seed: int) -> Tensor:
    """Choose `size` of N items at random, each class in proportion to its frequency.

    A class with n of the N items gets floor(size n / N) or one more; the items left over go to
    the classes with the largest remainders, equal ones in an order drawn by `seed`. So equally
    frequent classes get numbers that differ by at most 1.

    Args:
        labels: non-negative integers, shape (N,).
        size: how many items, from 0 to N; None means all.
        seed: equal seeds give equal choices, whatever the state of the global generator.

    Returns:
        Indices into `labels`, int64, shape (size,), increasing.

    Raises:
        DataError: `size` is not between 0 and N.
    """
    total = len(labels)
    if size is None:
        return torch.arange(total)
    if not 0 <= size <= total:
        raise DataError(f"cannot choose {size} of {total} items: choose a size from 0 to {total}")
    generator = torch.Generator().manual_seed(seed)
    counts = torch.bincount(labels)
    # Integers throughout: floating-point remainders would make ties depend on rounding.
    quotas = size * counts // max(total, 1)
    remainders = size * counts % max(total, 1)
    order = torch.randperm(len(counts), generator=generator)
    order = order[remainders[order].argsort(descending=True, stable=True)]
    quotas[order[: size - int(quotas.sum())]] += 1

    chosen = []
    for label, quota in enumerate(quotas.tolist()):
        members = (labels == label).nonzero().flatten()
        chosen.append(members[torch.randperm(len(members), generator=generator)[:quota]])
    return torch.cat(chosen).sort().values if chosen else torch.arange(0)


def train_validation_split(labels: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Split N items at random into training and validation, both with the class frequencies.

    Args:
        labels: non-negative integers, shape (N,).
        fraction: the part for validation, in [0, 1); round(fraction N) items.
        seed: as in `stratified_indices`.

    Returns:
        Training indices and validation indices, int64, increasing: together each of 0, ..., N - 1
        once.

    Raises:
        DataError: `fraction` is not in [0, 1), or leaves nothing to train on.
    """
    if not 0 <= fraction < 1:
        raise DataError(f"validation fraction {fraction}: choose at least 0 and less than 1")
    size = round(fraction * len(labels))
    if size == len(labels):
        raise DataError(
            f"validation fraction {fraction} of {len(labels)} items leaves none to train on; "
            "choose a smaller one"
        )
    validation = stratified_indices(labels, size, seed)
    in_training = torch.ones(len(labels), dtype=torch.bool)
    in_training[validation] = False
    return in_training.nonzero().flatten(), validation


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

    return _Source(classes, train[1].long(), test[1].long(), read)


def _embedded() -> _Source:
    """The subset of Fashion-MNIST in this repository."""
    try:
        with np.load(EMBEDDED, allow_pickle=False) as file:
            arrays = {key: torch.from_numpy(file[key]) for key in file.files}
    except OSError as error:
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


def _folder(folder: Path, image_size: int | None) -> _Source:
    """A folder with images in train/<class>/ and test/<class>/, in sorted order."""
    from PIL import Image
    from torchvision.datasets import ImageFolder

    splits = {}
    for split in ("train", "test"):
        if not (folder / split).is_dir():
            raise DataError(f"{folder}: no folder {split}/; put images in {split}/<class>/")
        try:
            splits[split] = ImageFolder(folder / split, allow_empty=True)
        except FileNotFoundError as error:  # no folder for a class
            raise DataError(f"{folder / split}: no images; put them in {split}/<class>/") from error
    train, test = splits["train"], splits["test"]
    different = sorted(set(train.classes) ^ set(test.classes))
    if different:
        raise DataError(
            f"{folder}: train/ and test/ must have the same classes; "
            f"only one of them has {', '.join(different)}"
        )
    for split, data in splits.items():
        filled = set(data.targets)
        for label, class_name in enumerate(data.classes):
            if label not in filled:
                where = folder / split / class_name
                raise DataError(f"{where}: no images; put some there or remove the class")

    size = (image_size, image_size) if image_size is not None else None
    if size is None:
        try:
            with Image.open(train.samples[0][0]) as first:
                size = first.size
        except OSError as error:
            raise _unreadable(train.samples[0][0]) from error

    def read(train_chosen: Tensor, test_chosen: Tensor) -> tuple[Tensor, Tensor]:
        paths = [train.samples[i][0] for i in train_chosen.tolist()]
        paths += [test.samples[i][0] for i in test_chosen.tolist()]
        images = _decode(paths, size)
        return images[: len(train_chosen)], images[len(train_chosen) :]

    return _Source(tuple(train.classes), torch.tensor(train.targets), torch.tensor(test.targets), read)


def _unreadable(path: str) -> DataError:
    return DataError(f"{path}: not an image that can be read; repair or remove it")


def _decode(paths: list[str], size: tuple[int, int]) -> Tensor:
    """Read images as uint8, (N, H, W, 1) if all are grey, otherwise (N, H, W, 3).

    Args:
        paths: the N files.
        size: width and height; images of another size are resized.

    Raises:
        DataError: a file cannot be read as an image of 8 bits per channel.
    """
    from PIL import Image

    width, height = size
    pixels = np.empty((len(paths), height, width, 3), dtype=np.uint8)

    all_grey = True
    # One after the other: threads are slower on small images, with the interpreter's lock.
    for index, path in enumerate(tqdm(paths, "images", leave=False, disable=None)):
        try:
            with Image.open(path) as image:
                if image.mode.startswith(("I", "F")):
                    # Conversion to RGB would clip these without a word.
                    raise DataError(f"{path}: more than 8 bits per channel; convert it to 8")
                all_grey &= image.mode in ("1", "L", "LA")
                rgb = image.convert("RGB")
        except (OSError, SyntaxError) as error:  # SyntaxError: Pillow's word for a broken PNG
            raise _unreadable(path) from error
        if rgb.size != size:
            rgb = rgb.resize(size, Image.Resampling.BILINEAR)
        pixels[index] = np.asarray(rgb)
    # In a grey image the three channels are equal.
    return torch.from_numpy(pixels[..., :1] if all_grey else pixels)
