"""A decoder's arithmetic: pixels at latents, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from topoprior.spaces.flat.waves import ProductWaves

# Up to so many multiply-adds they are faster one by one than as a matrix product.
_FEW = 64
_NEGLIGIBLE = 2e-6  # of the largest entry: below what float32 keeps of a sum

# Numbers, or a tensor where the formula is compiled.
_Scales: TypeAlias = "tuple[float, float] | tuple[Tensor, Tensor] | Tensor"


class Decoder:
    """Pixels a alpha products(z) @ matrix + b beta of x = (z, alpha, beta), rows (dim + 2, ...), and back.

    ``scales`` = (a, b), two numbers or tensors, belong to a layer; the rest to its prior.
    """

    def __init__(self, waves: ProductWaves) -> None:
        self.waves, self.matrix = waves, waves.matrix.float()
        small = self.matrix.abs() <= _NEGLIGIBLE * self.matrix.abs().max()
        numbers = self.matrix.masked_fill(small, 0.0)
        self.rows, self.columns = numbers.tolist(), numbers.T.tolist()
        self.sparse = int((numbers != 0).sum()) <= _FEW
        # Equal for equal decoders: by it they share what is compiled.
        self.key = (tuple(waves.periods), tuple(waves.products), tuple(map(tuple, self.rows)))

    def pixels(self, x: Tensor, scales: _Scales) -> Sequence[Tensor]:
        """One tensor a pixel."""
        alpha, beta = x[-2:].unbind()
        level = beta * scales[1]
        rows = self.waves.rows(x[:-2], alpha * scales[0])
        if self.sparse and level.device.type == "cpu":
            return combine(rows, self.columns, level)
        stacked = torch.stack(list(rows))
        return ((self.matrix.T.to(stacked) @ stacked.flatten(1)).view(-1, *level.shape) + level).unbind()

    def gradient(self, x: Tensor, of_pixels: Tensor, scales: _Scales) -> Tensor:
        """Of x, from the gradient in the pixels (k, ...)."""
        if self.sparse and x.device.type == "cpu":
            of_rows: Sequence[Tensor] = combine(of_pixels.unbind(), self.rows)
        else:
            together = self.matrix.to(of_pixels) @ of_pixels.flatten(1)
            of_rows = together.view(-1, *of_pixels.shape[1:]).unbind()
        value, slopes = self.waves.gradient(x[:-2], of_rows)
        amplitude = x[-2] * scales[0]
        of_z = [slope * amplitude for slope in slopes]
        return torch.stack([*of_z, value * scales[0], of_pixels.sum(0) * scales[1]])


@dataclass(frozen=True)
class How:
    """What decodes a draw, and how its weights are kept.

    ``channels_last``: in memory (out, k, in), as torch.channels_last has weights of convolutions. ``dtype``: of the weights;
    that of the parameters by default. ``scales`` are the prior's stds of alpha and beta, two numbers or
    a tensor of each that broadcasts with (out, in).
    """

    decoder: Decoder
    scales: tuple[float, float] | tuple[Tensor, Tensor]
    compiled: bool = False
    channels_last: bool = False
    dtype: torch.dtype | None = None


def combine(
    rows: Sequence[Tensor], coefficients: Sequence[Sequence[float]], start: Tensor | None = None
) -> list[Tensor]:
    """start + sum_i c_i row_i for every c of ``coefficients``.

    One multiply-add after the other: for a handful of rows a matrix product is no faster, and leaves the
    threads of the linear algebra library spinning in the way of the convolutions.
    """
    found = []
    for numbers in coefficients:
        total = start
        for row, c in zip(rows, numbers, strict=True):
            if not c:
                continue
            if total is None:
                total = row * c
            else:
                total = torch.add(total, row, alpha=c) if total is start else total.add_(row, alpha=c)
        found.append(torch.zeros_like(rows[0]) if total is None else total)
    return found
