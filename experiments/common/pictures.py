"""Pictures of results: kernels side by side, figures as small PNG files."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOSAIC = (2, 8)  # kernels in a picture: rows, columns
LARGEST = 150_000  # bytes of a picture: a repository keeps them


def mosaic(kernels: Tensor) -> Any:
    """Kernels side by side, each divided by its largest weight, with white lines between them."""
    down, across = _MOSAIC
    height, width = kernels.shape[1:]
    picture = torch.zeros(down * (height + 1) - 1, across * (width + 1) - 1)
    for i, kernel in enumerate(kernels[: down * across]):
        top, left = i // across * (height + 1), i % across * (width + 1)
        picture[top : top + height, left : left + width] = kernel / kernel.abs().max().clamp_min(1e-12)
    return picture.numpy()


def png(figure: Figure, dpi: int = 120) -> bytes:
    """At most 150 kB: with a palette of 256 colours, and coarser where that does not do."""
    from PIL import Image

    while True:
        drawn, packed = io.BytesIO(), io.BytesIO()
        figure.savefig(drawn, format="png", dpi=dpi)
        Image.open(drawn).convert("RGB").quantize(256).save(packed, "png", optimize=True)
        if packed.tell() <= LARGEST or dpi <= 40:
            return packed.getvalue()
        dpi = round(dpi * 0.85)
