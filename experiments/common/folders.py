"""Images in train/<class>/ and test/<class>/: which files count, what is left out and said, what is refused.

Hidden files and what archives and notebooks leave behind are ignored. Everything that can be wrong is found, with the file's name, before
anything is trained.
"""

from __future__ import annotations

import hashlib
import io
import os
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import numpy as np
import torch
from torch import Tensor

from experiments.common.document import printable
from experiments.common.progress import bar
from topoprior.kernels.patches import IMAGE_SUFFIXES, is_junk

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = tuple(sorted(IMAGE_SUFFIXES))
_ORIENTATION = 0x0112  # tag of EXIF: from 5 on height and width change places
# Pixels that images keep where no size is asked for, as those of CIFAR: a comparison then takes minutes.
LARGEST_SIDE = 32
MOST_PIXELS = 2**26  # a larger image is a mistake, or an attack on the memory


class DataError(ValueError):
    """The data cannot be had as asked for; the message is one line that says what to do."""


@dataclass
class Folder:
    """The images of a folder, classes and files in sorted order.

    notes: what was left out or will be changed, a line each.
    """

    root: Path
    classes: tuple[str, ...]
    train: list[tuple[str, int]]
    test: list[tuple[str, int]]
    notes: list[str] = field(default_factory=list)

    def labels(self, split: str) -> Tensor:
        return torch.tensor([label for _, label in getattr(self, split)])

    def check(self) -> str:
        """Read every image, and return a digest of all: classes, names, bytes.

        Raises:
            DataError: a file cannot be read as an image of 8 bits a channel.
        """
        state = hashlib.sha256("\0".join(self.classes).encode())
        for split in ("train", "test"):
            samples = getattr(self, split)
            for path, label in bar(samples, desc=f"checking {split} images", leave=False):
                data = _bytes(path)
                _pixels(path, data)
                state.update(f"{split} {label} {len(data)} ".encode() + os.fsencode(os.path.basename(path)))
                state.update(data)
        return state.hexdigest()[:16]

    def common_size(self) -> tuple[int, int]:
        """Width and height of most training images, photographs scaled down; it is noted if images will be resized."""
        sizes = {path: size for path, _ in self.train if (size := _size(path)) is not None}
        if not sizes:
            _unreadable(self.train[0][0])
        (size, count), *_ = Counter(sizes.values()).most_common()
        if count < len(sizes):
            odd = next(path for path in sizes if sizes[path] != size)
            width, height = sizes[odd]
            self.notes.append(
                f"{printable(odd)} is {width}x{height}: {len(sizes) - count} of {len(sizes)} training images are not "
                f"{size[0]}x{size[1]}, as most are, and will be resized (--image-size sets another size)"
            )
        if max(size) <= LARGEST_SIDE:
            return size
        less = (
            max(1, round(size[0] * LARGEST_SIDE / max(size))),
            max(1, round(size[1] * LARGEST_SIDE / max(size))),
        )
        self.notes.append(
            f"{self.root}: images are {size[0]}x{size[1]} and will be resized to {less[0]}x{less[1]}, which is quick "
            "(--image-size sets another size)"
        )
        return less


def read_folder(root: Path) -> Folder:
    """What is in the folder; images themselves are not read.

    Raises:
        DataError: no images, one class only, or classes that differ between train/ and test/.
    """
    found: dict[str, _Split] = {}
    notes: list[str] = []
    for split in ("train", "test"):
        if not (root / split).is_dir():
            raise DataError(f"{root}: no folder {split}/; put images in {split}/<class>/")
        found[split] = _Split(root / split)
        notes += found[split].notes()
    train, test = found["train"].files, found["test"].files
    for split, files in (("train", train), ("test", test)):
        if not files:
            raise DataError(f"{root / split}: no images; put them in {split}/<class>/{_hint(notes)}")
    if different := sorted(train.keys() ^ test.keys()):
        raise DataError(
            f"{root}: train/ and test/ must have the same classes; "
            f"only one of them has {', '.join(map(printable, different))}"
        )
    for split, files in (("train", train), ("test", test)):
        for name, paths in files.items():
            if not paths:
                where = printable(str(root / split / name))
                raise DataError(f"{where}: no images; put some there or remove the class{_hint(notes)}")
    if len(train) < 2:
        raise DataError(
            f"{root}: only one class, {printable(next(iter(train)))}; there is nothing to tell apart"
        )
    classes = sorted(train)

    def samples(files: dict[str, list[str]]) -> list[tuple[str, int]]:
        return [(path, label) for label, name in enumerate(classes) for path in files[name]]

    return Folder(root, tuple(map(printable, classes)), samples(train), samples(test), notes)


def _hint(notes: Sequence[str]) -> str:
    return f" ({'; '.join(notes)})" if notes else ""


class _Split:
    """The files of train/ or test/ by class. Names are composed letters (NFC), however the disk spells them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.junk, self.skipped = folder, Counter[str](), Counter[str]()
        self.real = os.path.realpath(folder)
        self.files: dict[str, list[str]] = {}
        spelled: dict[str, str] = {}
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            if is_junk(entry.name):
                self.junk[entry.name] += 1
            elif not os.path.isdir(entry.path):  # a link in a circle is none; entry.is_dir() raises
                self.skipped["outside of a class"] += 1
            else:
                name = unicodedata.normalize("NFC", entry.name)
                if name in spelled:
                    raise DataError(
                        f"{folder}: two folders are called {printable(name)}, with composed and with decomposed letters; "
                        "make them one"
                    )
                spelled[name] = entry.name
                self.files[name] = sorted(self._images(entry.path))

    def _images(self, folder: str) -> Iterator[str]:
        """Images at any depth; links are followed, none twice, and none to what this class is in: images of others are there."""
        seen = set()
        for where, folders, files in os.walk(folder, followlinks=True):
            real = os.path.realpath(where)
            above = os.path.commonpath([real, self.real]) == real
            if above:
                self.skipped["a link to a folder above"] += 1
            if above or real in seen:
                folders.clear()
                continue
            seen.add(real)
            self.junk.update(name for name in (*folders, *files) if is_junk(name))
            folders[:] = [name for name in folders if not is_junk(name)]
            for name in files:
                path = os.path.join(where, name)
                suffix = os.path.splitext(name)[1].lower()
                if is_junk(name):
                    continue
                if suffix not in SUFFIXES:
                    self.skipped[suffix or "no suffix"] += 1
                elif not os.path.isfile(path):
                    self.skipped["not a regular file"] += 1
                else:
                    yield path

    def notes(self) -> Iterator[str]:
        if self.junk:
            kinds = ", ".join(printable(name) for name in sorted(self.junk)[:5])
            more = f" and {len(self.junk) - 5} more names" if len(self.junk) > 5 else ""
            yield f"{self.folder}: ignored {kinds}{more}"
        if self.skipped:
            kinds = ", ".join(f"{printable(kind)}: {count}" for kind, count in self.skipped.most_common(5))
            yield f"{self.folder}: skipped {self.skipped.total()} files ({kinds}); images are {', '.join(SUFFIXES)}"


# --- one image ---------------------------------------------------------------------------------


def decode(paths: Sequence[str], size: tuple[int, int]) -> Tensor:
    """Read images as uint8, (N, H, W, 1) if all are grey, otherwise (N, H, W, 3); of an animation, the first picture.

    Args:
        size: width and height; images of another size are resized.

    Raises:
        DataError: a file cannot be read as an image of 8 bits a channel.
    """
    from PIL.Image import Resampling

    width, height = size
    pixels, all_grey = np.empty((len(paths), height, width, 3), dtype=np.uint8), True
    # One after the other: threads are slower on small images, with the interpreter's lock.
    for index, path in enumerate(bar(paths, desc="images", leave=False)):
        image, grey = _pixels(path, _bytes(path))
        all_grey &= grey
        if image.size != size:
            image = image.resize(size, Resampling.BILINEAR)
        pixels[index] = np.asarray(image)
    # In a grey image the three channels are equal.
    return torch.from_numpy(pixels[..., :1] if all_grey else pixels)


@contextmanager
def _opened(path: str, file: str | io.BytesIO) -> Iterator[Image]:
    """An image of which only the header has been read.

    Raises:
        DataError: too many pixels; other exceptions are Pillow's.
    """
    import PIL.Image

    with warnings.catch_warnings():
        warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)
        try:
            image = PIL.Image.open(file)
        except (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning):
            _too_large(path, "more pixels than Pillow reads")
    with image:
        if image.width * image.height > MOST_PIXELS:
            _too_large(path, f"{image.width}x{image.height}")
        yield image


def _pixels(path: str, data: bytes) -> tuple[Image, bool]:
    """The image in RGB, turned as its camera says, and whether it is grey."""
    from PIL import ImageOps

    try:
        with _opened(path, io.BytesIO(data)) as image:
            if image.mode.startswith(("I", "F")):
                # Conversion to RGB would clip these without a word.
                raise DataError(f"{printable(path)}: more than 8 bits per channel; convert it to 8")
            image.load()  # which turns TIFF, and takes its tag away
            upright = ImageOps.exif_transpose(image)
            pixels = upright.convert("RGB")
            if upright.mode in ("P", "PA"):  # a palette may be of greys alone
                return pixels, not np.ptp(np.asarray(pixels), axis=-1).any()
            return pixels, upright.mode in ("1", "L", "LA")
    except DataError:
        raise
    except Exception as error:  # Pillow's decoders raise what their formats' libraries raise
        _unreadable(path, error)


def _size(path: str) -> tuple[int, int] | None:
    """Width and height by the header; None of what is not an image, which is an error once it is read."""
    try:
        with _opened(path, path) as image:
            asked = (
                image.format != "PNG" or "exif" in image.info
            )  # else Pillow would decode all of it to look
            turned = asked and image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
            if turned and image.format == "TIFF":  # turned in loading; some versions say so before
                image.load()
                turned = False
            return image.size[::-1] if turned else image.size
    except DataError:
        raise
    except Exception:
        return None


def _bytes(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        _unreadable(path, error)


def _too_large(path: str, what: str) -> NoReturn:
    raise DataError(
        f"{printable(path)}: {what}; images of at most {MOST_PIXELS / 1e6:.0f} million pixels are read"
    ) from None


def _unreadable(path: str, error: Exception | None = None) -> NoReturn:
    raise DataError(f"{printable(path)}: not an image that can be read; repair or remove it") from error
