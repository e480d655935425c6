"""Five of CIFAR-10-C's corruptions at its severities 1 to 5, as functions of bytes.

Source of kinds and strengths: Hendrycks & Dietterich 2019, Benchmarking neural network robustness to common corruptions.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np

Array = np.ndarray

SEVERITIES = 5


def noise(x: Array, std: float) -> Array:
    """Gaussian, the same draws for every severity."""
    return x + std * np.random.default_rng(0).standard_normal(x.shape)


def blur(x: Array, std: float) -> Array:
    """Gaussian, in pixels; the border goes on as it is."""
    from scipy.ndimage import gaussian_filter  # takes a while to import

    return gaussian_filter(x, (0, std, std, 0), mode="nearest")


def brightness(x: Array, more: float) -> Array:
    """HSV's value is raised; hue and saturation stay."""
    value = x.max(-1, keepdims=True)
    raised = np.minimum(value + more, 1)
    return np.where(value > 0, x * raised / np.maximum(value, 1e-9), raised)


def contrast(x: Array, factor: float) -> Array:
    """About the mean of an image's channel."""
    mean = x.mean((1, 2), keepdims=True)
    return (x - mean) * factor + mean


def jpeg(x: Array, quality: float) -> Array:
    """Written and read again."""
    from PIL import Image

    found = []
    for image in _bytes(x):
        written = io.BytesIO()
        Image.fromarray(image).save(written, "jpeg", quality=int(quality))
        found.append(np.asarray(Image.open(written)))
    return np.stack(found) / 255 if found else x


KINDS: dict[str, tuple[Callable[[Array, float], Array], tuple[float, ...]]] = {
    "noise": (noise, (0.04, 0.06, 0.08, 0.09, 0.10)),
    "blur": (blur, (0.4, 0.6, 0.7, 0.8, 1.0)),
    "brightness": (brightness, (0.05, 0.1, 0.15, 0.2, 0.3)),
    "contrast": (contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),
    "JPEG": (jpeg, (80, 65, 58, 50, 40)),
}


def corrupted(images: Array) -> Array:
    """Bytes (N, H, W, 3) -> (kinds, severities, N, H, W, 3)."""
    x = images.astype(np.float64) / 255
    found = [
        [_bytes(change(x, strength)) for strength in strengths] for change, strengths in KINDS.values()
    ]
    return np.array(found, dtype=np.uint8)


def _bytes(x: Array) -> Array:
    return (x * 255).round().clip(0, 255).astype(np.uint8)
