"""Pictures of results: kernels side by side, figures as PNG."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOSAIC = (2, 8)  # kernels in a picture: rows, columns


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
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()
