"""Patches of natural images on the sphere of unit contrast, by the published pipeline.

Lee, Pedersen, Mumford 2003 (The nonlinear statistics of high-contrast patches in natural images) and
Carlsson, Ishkhanov, de Silva, Zomorodian 2008 (On the local behavior of spaces of natural images):
logarithms of intensities, mean taken away, the high-contrast patches kept and divided by their
contrast, those in dense regions kept. What is left of 3x3 patches lies near a Klein bottle.
"""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from topoprior.kernels.contrast import _check_fraction, contrast, from_dct, normalized_patches
from topoprior.utils.checks import check_values, real_tensor
from topoprior.utils.extras import needed
from topoprior.utils.files import CheckpointError, check_regular
from topoprior.utils.plain import on_cpu

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".pgm", ".ppm", ".webp", ".gif",
                  ".jfif")  # fmt: skip
# What systems leave in folders, in small letters; names that begin with a dot are hidden too.
_JUNK = ("__macosx", "__pycache__", "@eadir", "#recycle", "lost+found", "$recycle.bin", "system volume information",
         "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r")  # fmt: skip
_MOST_PIXELS = 50_000_000  # of one image: .4 GB as numbers
_CHUNK = 1 << 24  # distances at a time
_LEAST = 100  # patches


@on_cpu
def extract_patches(
    image: Tensor, size: int = 3, num: int = 5000, *, generator: torch.Generator | None = None
) -> Tensor:
    """Patches of an image (H, W) at ``num`` random places, all different, or all there are, (N, k, k)."""
    if image.dim() != 2 or min(image.shape) < size:
        raise ValueError(
            f"image: expected shape (H, W), at least {size} a side, found {tuple(image.shape)}"
        )
    windows = image.unfold(0, size, 1).unfold(1, size, 1)  # a view: only those chosen are copied
    rows, columns = windows.shape[:2]
    chosen = torch.randperm(rows * columns, generator=generator)[:num].sort().values
    return windows[chosen // columns, chosen % columns]


@on_cpu
def image_patches(
    folder: Path | str,
    size: int = 3,
    *,
    keep: float = 0.2,
    per_image: int = 5000,
    limit: int = 50_000,
    generator: torch.Generator | None = None,
) -> Tensor:
    """High-contrast patches of all images below ``folder``, centered and of contrast 1, (N, k, k).

    Of every image ``per_image`` patches of log(1 + intensity), grey, 8 or 16 bits; those with the highest
    contrast within the image, a fraction ``keep``; at most ``limit`` of all, at random. Needs Pillow.

    Raises:
        ValueError: no images, a damaged one, one smaller than a patch.
    """
    _check_fraction("keep", keep)
    _pillow()
    paths = find_images(folder)
    # Far more images than patches wanted: some of them, at random.
    most = math.ceil(4 * limit / max(1.0, per_image * keep)) + 100
    order = torch.randperm(len(paths), generator=generator)[:most].sort().values.tolist()
    found = []
    for path in (paths[i] for i in order):
        values = read_image(path)
        if min(values.shape) < size:
            raise ValueError(f"patches: {path} is smaller than a patch, {size}x{size}")
        raw = extract_patches(values.clamp_min(0).log1p(), size, per_image, generator=generator)
        if contrast(raw).max() > 0:
            found.append(normalized_patches(raw, keep))
    if not found:
        raise ValueError(f"patches: the images in {folder} are all of one colour")
    patches = torch.cat(found)
    return patches[torch.randperm(len(patches), generator=generator)[:limit]].float()


def find_images(folder: Path | str) -> list[Path]:
    """All images below ``folder``, by their suffix, sorted; what is hidden, or left there by systems, is not one.

    Raises:
        ValueError: there is none; the message counts what else is there.
    """
    root = Path(folder)
    files = [
        path
        for path in sorted(root.rglob("*"))
        if not any(map(is_junk, path.relative_to(root).parts)) and not path.is_dir()
    ]
    images = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    if not images:
        others = f"; {len(files)} files of other kinds are" if files else ""
        raise ValueError(f"patches: no images ({', '.join(IMAGE_SUFFIXES)}) in {folder}{others}")
    return images


def is_junk(name: str) -> bool:
    """Whether a file or folder is hidden, or was left by a system: no image, and no class of images.

    Example:
        >>> [is_junk(name) for name in (".DS_Store", "Thumbs.db", "__MACOSX", "cat")]
        [True, True, True, False]
    """
    return name.startswith(".") or name.lower() in _JUNK


def read_image(path: Path | str) -> Tensor:
    """The grey values of an image, of 8 or 16 bits, (H, W) float64.

    Raises:
        ValueError: damaged, no regular file, of more than 50 million pixels, or with NaN.
        ImportError: without Pillow.
    """
    image = _pillow()
    try:
        check_regular(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its size, which is looked at here
            with image.open(path) as opened:
                width, height = opened.size
                if width * height > _MOST_PIXELS:
                    raise ValueError(
                        f"patches: {path} has {width} x {height} pixels, expected at most {_MOST_PIXELS:,}"
                    )
                grey = opened if opened.mode.startswith(("I", "F")) else opened.convert("L")
                values = torch.from_numpy(np.asarray(grey, dtype=np.float64).copy())
            if not torch.isfinite(values).all():
                raise ValueError(f"patches: {path} contains NaN or infinite values")
            return values
    except image.DecompressionBombError:
        raise ValueError(
            f"patches: {path} has too many pixels, expected at most {_MOST_PIXELS:,}"
        ) from None
    except CheckpointError as error:
        raise ValueError(f"patches: {error}") from None
    except ValueError as error:
        if str(error).startswith("patches: "):
            raise
        raise ValueError(f"patches: {path} is not an image that can be read") from None
    except Exception:  # of some fifty formats: struct.error, SyntaxError, EOFError, zlib.error, ...
        raise ValueError(f"patches: {path} is not an image that can be read") from None


def _pillow() -> Any:
    return needed("PIL.Image", "reading images", "pillow")


def read_patches(path: Path | str, size: int = 3, *, keep: float | None = None) -> Tensor:
    """Patches of a file or an image folder, centered and of contrast 1, (N, k, k) float32.

    Args:
        path: a .mat or .npy file with patches (N, k, k), (N, 1, k, k), (N, k^2), or their coordinates in
            :func:`dct_basis`, (N, k^2 - 1); or a folder of images.
        size: of the patches taken from images.
        keep: the fraction with the highest contrast; default .2 for images, all of a file.

    Raises:
        ValueError: a file that is missing, damaged, of another shape, or with NaN.
        ImportError: SciPy is missing for .mat, Pillow for images.
    """
    path = Path(path)
    if path.is_dir():
        return image_patches(path, size, keep=0.2 if keep is None else keep)
    if not path.exists():
        raise ValueError(f"patches: {path} is neither a file nor a folder")
    if path.suffix.lower() not in (".mat", ".npy"):
        raise ValueError(f"patches: {path}: expected .mat, .npy or a folder of images")
    array = _read_mat(path) if path.suffix.lower() == ".mat" else read_npy(path, "patches")
    with np.errstate(invalid="ignore", over="ignore"):  # NaN is looked for below
        values = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float64))
    found = tuple(values.shape)
    if values.dim() == 4 and values.shape[1] == 1:
        values = values.squeeze(1)
    if values.dim() == 2 and math.isqrt(values.shape[1]) ** 2 == values.shape[1]:
        values = values.unflatten(1, (math.isqrt(values.shape[1]),) * 2)
    elif values.dim() == 2 and math.isqrt(values.shape[1] + 1) ** 2 == values.shape[1] + 1:
        values = from_dct(values)
    if values.dim() != 3 or values.shape[1] != values.shape[2] or values.shape[1] < 2:
        raise ValueError(
            f"patches: {path}: expected (N, k, k), (N, 1, k, k), (N, k^2) or (N, k^2 - 1), found {found}"
        )
    if len(values) < _LEAST:
        raise ValueError(f"patches: {path}: expected at least {_LEAST} patches, found {len(values)}")
    if not torch.isfinite(values).all():
        raise ValueError(f"patches: {path} contains NaN or infinite values")
    strengths = contrast(values)
    seen = int(
        (strengths > 1e-6 * strengths.max()).sum()
    )  # beside one huge number, or an infinite contrast, none is
    if seen < _LEAST:
        raise ValueError(
            f"patches: {path}: expected at least {_LEAST} patches with contrast, found {seen}; the largest number is "
            f"{values.abs().max().item():.3g}"
        )
    return normalized_patches(values, 1.0 if keep is None else keep).float()


def kth_neighbour(points: Tensor, k: int) -> Tensor:
    """Distance of every point of (N, d) to its k-th neighbour, itself not counted, (N,).

    Example:
        >>> kth_neighbour(torch.tensor([[0.0], [1.0], [3.0]]), 1)
        tensor([1., 1., 2.])
    """
    points = real_tensor("points", points)
    check_values("points", points)
    if not 1 <= k < len(points):
        raise ValueError(f"k: expected 1 to {len(points) - 1}, one less than the points, found {k}")
    parts = _parts(points, len(points))
    return torch.cat([torch.cdist(p, points).topk(k + 1, largest=False).values[:, k] for p in parts])


def densest(points: Tensor, k: int, fraction: float, within: float | None = None) -> Tensor:
    """Indices of the ``fraction`` of points (N, d) whose k-th neighbour is nearest, densest first.

    The density filter X(k, p) of Carlsson et al.: a small k looks at details, a large one at the whole. What
    it keeps is where most points are. With ``within`` a point's rank is its rank among the points at most so
    far away, as a share of them: every part of a surface keeps its own ridge, however few points it has.
    """
    _check_fraction("fraction", fraction)
    if within is not None and not within > 0:
        raise ValueError(f"within: expected a positive distance, found {within}")
    points = real_tensor("points", points)
    score = gap = kth_neighbour(points, k)
    if within is not None:
        shares = []
        for some, own in zip(_parts(points, len(points)), _parts(gap, len(points)), strict=True):
            near = torch.cdist(some, points) <= within
            shares.append((near & (gap < own[:, None])).sum(1) / near.sum(1))
        score = torch.cat(shares)
    return score.argsort(stable=True)[: max(1, round(fraction * len(points)))]


def _parts(points: Tensor, against: int) -> tuple[Tensor, ...]:
    return points.split(max(1, _CHUNK // against))


def read_npy(path: Path, name: str) -> np.ndarray:
    """The array of numbers in a .npy file, nothing unpickled; ``name`` is the argument that errors speak of."""
    try:
        check_regular(path)
        array = np.load(path, allow_pickle=False)
    except CheckpointError as error:
        raise ValueError(f"{name}: {error}") from None
    except Exception:  # by the damage; MemoryError where the header claims more rows than memory holds
        array = None
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
        raise ValueError(f"{name}: {path} is not a .npy file of numbers")
    return array


def _read_mat(path: Path) -> np.ndarray:
    """The one array of numbers, at least two-dimensional and 100 rows long, in a MATLAB file."""
    loadmat = needed("scipy.io", "reading .mat files", "scipy").loadmat
    try:
        check_regular(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of names that are there twice, of unknown blocks
            content = loadmat(path)
    except CheckpointError as error:
        raise ValueError(f"patches: {error}") from None
    except NotImplementedError:
        raise ValueError(f"patches: {path} is a MATLAB 7.3 file; save it with -v7 in MATLAB") from None
    except Exception as error:  # zlib.error, IndexError, MemoryError, struct.error, ..., by the damage
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"patches: {path} is not a MATLAB file that can be read ({reason})") from None
    arrays = {
        name: value
        for name, value in content.items()
        if isinstance(value, np.ndarray)
        and value.dtype.kind in "fiu"
        and value.ndim >= 1
        and len(value) >= _LEAST
    }
    if len(arrays) != 1:
        raise ValueError(
            f"patches: {path}: expected one array of at least {_LEAST} patches, found "
            f"{', '.join(sorted(arrays)) or 'none'}"
        )
    return next(iter(arrays.values()))
