"""Make the embedded data set: a class-balanced subset of Fashion-MNIST.

    python data/prepare.py [--source FOLDER] [--output FILE]

The subset is the first 200 training and the first 100 test images of each class, in the order of
the original files; nothing is drawn at random, so anyone can check it against the originals.
"""

import argparse
import gzip
import hashlib
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

CLASSES = 10
# For each split: the prefix of its files in the original data, and the images kept per class.
SPLITS = {"train": ("train", 200), "test": ("t10k", 100)}


def read_idx(path: Path) -> Bytes:
    """Read a gzipped IDX file of unsigned bytes.

    The format: two zero bytes, the type (8 for uint8), the number of dimensions, the dimensions
    as big-endian 32-bit integers, the values in C order.

    Raises:
        ValueError: the file is damaged, has another type, or not the size its header promises.
    """
    content = path.read_bytes()
    try:
        raw = gzip.decompress(content)
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{path}: damaged gzip file ({error})") from error
    if len(raw) < 4 or raw[:3] != b"\x00\x00\x08":
        raise ValueError(f"{path}: not an IDX file of unsigned bytes")
    start = 4 + 4 * raw[3]
    shape = tuple(np.frombuffer(raw[4:start], dtype=">u4").tolist())
    values = np.frombuffer(raw[start:], dtype=np.uint8)
    if len(shape) != raw[3] or values.size != np.prod(shape):
        raise ValueError(f"{path}: cut short or too long for its header, shape {shape}")
    return values.reshape(shape)


def first_of_each_class(labels: Bytes, count: int) -> NDArray[np.intp]:
    """Indices of the first `count` items of each class, shape (CLASSES * count,), increasing.

    Raises:
        ValueError: a class has fewer than `count` items.
    """
    chosen = np.concatenate([np.flatnonzero(labels == c)[:count] for c in range(CLASSES)])
    if len(chosen) != CLASSES * count:
        raise ValueError(f"a class has fewer than {count} images")
    return np.sort(chosen)


def subset(source: Path) -> dict[str, Bytes]:
    """The arrays of the subset: `{train,test}_images` (N, 28, 28) and `{train,test}_labels` (N,).

    Raises:
        OSError: a file is missing from `source`.
        ValueError: a file is not what it should be.
    """
    arrays = {}
    for split, (prefix, count) in SPLITS.items():
        images = read_idx(source / f"{prefix}-images-idx3-ubyte.gz")
        labels = read_idx(source / f"{prefix}-labels-idx1-ubyte.gz")
        if len(images) != len(labels):
            raise ValueError(f"{source}: {len(images)} {split} images, {len(labels)} labels")
        chosen = first_of_each_class(labels, count)
        arrays[f"{split}_images"] = images[chosen]
        arrays[f"{split}_labels"] = labels[chosen]
    return arrays


def write(arrays: dict[str, Bytes], output: Path) -> None:
    """Write `arrays` to the compressed NPZ file `output`, or leave `output` as it was.

    NumPy gives the members of the archive a fixed date: equal arrays give equal files, with the
    same version of zlib.
    """
    partial = output.with_name(output.name + ".partial")
    try:
        with partial.open("wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # its stub: allow_pickle
        partial.replace(output)
    finally:
        partial.unlink(missing_ok=True)


def sha256(data: bytes) -> str:
    """SHA-256 of `data`, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def main() -> None:
    """Command line: write the subset, print its counts and hashes."""
    parser = argparse.ArgumentParser(description="Make the embedded subset of Fashion-MNIST.")
    parser.add_argument(
        "--source",
        type=Path,
        default=Path("/usr/share/datasets/fashion-mnist"),
        help="folder of the four *-ubyte.gz files (default: %(default)s, where Debian's package "
        "dataset-fashion-mnist puts them)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path(__file__).with_name("fashion-mnist-subset.npz"),
        help="file to write (default: fashion-mnist-subset.npz beside this script)",
    )
    options = parser.parse_args()
    if not options.source.is_dir():
        parser.error(f"no folder {options.source}: install dataset-fashion-mnist or give --source")
    try:
        arrays = subset(options.source)
        write(arrays, options.output)
    except (OSError, ValueError) as error:
        parser.error(str(error))

    for name, array in arrays.items():
        print(f"{name}  {array.dtype} {array.shape}  sha256 {sha256(array.tobytes())}")
    for split in SPLITS:
        print(f"{split} images per class: {np.bincount(arrays[f'{split}_labels']).tolist()}")
    content = options.output.read_bytes()
    print(f"{options.output.name}  {len(content)} bytes  sha256 {sha256(content)}")


if __name__ == "__main__":
    main()
