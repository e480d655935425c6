"""Pixels of a folder's images, kept for the next call: CIFAR-10 as JPEG files takes half a minute to decode."""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import PIL
import torch
from torch import Tensor

from experiments.common.folders import decode
from topoprior.utils.files import write_atomically

FEWEST = 10_000  # images that are worth a file


def decoded(root: Path, paths: Sequence[str], size: tuple[int, int], data_dir: Path) -> Tensor:
    """:func:`experiments.common.folders.decode`, or what it gave in an earlier call for the same files.

    A folder and a size have one file in ``data_dir``, which new images replace. Files are the same if their names, bytes and times of
    change are, as the file system says.

    Args:
        root: the folder that ``paths`` are of.
        size: width and height.

    Raises:
        DataError: as ``decode``.
    """
    if len(paths) < FEWEST:
        return decode(paths, size)
    place = hashlib.sha256(f"{os.path.abspath(root)} {size}".encode(errors="surrogateescape")).hexdigest()
    file = data_dir / f"decoded-{place[:16]}.npz"
    try:
        key = _fingerprint(paths)
    except OSError:
        return decode(paths, size)  # which says what is wrong with the file
    pixels = _kept(file, key)
    if pixels is None:
        pixels = decode(paths, size).numpy()
        written = io.BytesIO()
        np.savez(written, key=np.array(key), pixels=pixels)
        with suppress(OSError):  # no place to keep them: they are decoded again
            data_dir.mkdir(parents=True, exist_ok=True)
            write_atomically(file, written.getvalue())
    return torch.from_numpy(pixels)


def _fingerprint(paths: Sequence[str]) -> str:
    state = hashlib.sha256(PIL.__version__.encode())  # another version may round otherwise
    for path in paths:
        at = os.stat(path)
        state.update(os.fsencode(path) + f"\0{at.st_size} {at.st_mtime_ns} {at.st_ctime_ns}\n".encode())
    return state.hexdigest()


def _kept(file: Path, key: str) -> np.ndarray | None:
    """Pixels of the images that ``key`` is of; None where there are none, of others, or damaged (zip has a sum of every part)."""
    try:
        with np.load(file, allow_pickle=False) as found:
            return found["pixels"] if found["key"] == key else None
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        return None
