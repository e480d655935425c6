"""From noise to decoded kernels and back: the inner loop of a layer with a decoder prior."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from topoprior.trigonometric import ProductWaves

# Kernels in one block of work. A row of a block stays in the processor's cache and below the size at which
# torch starts a second thread: on rows this short, waking a thread up costs more than it gains.
_BLOCK = 32768
# Up to so many multiply-adds they are faster one by one than as a matrix product.
_FEW = 64
_NEGLIGIBLE = 2e-6  # of the largest entry: below what float32 keeps of a sum


class Decoder:
    """[alpha products(z), beta] @ matrix: the waves, and the matrix (P + 1, k) as numbers."""

    def __init__(self, waves: ProductWaves, matrix: Tensor) -> None:
        self.waves, self.matrix = waves, matrix
        small = matrix.abs() <= _NEGLIGIBLE * matrix.abs().max()
        numbers = matrix.masked_fill(small, 0.0)
        self.rows, self.columns = numbers[:-1].tolist(), numbers[:-1].T.tolist()
        self.sparse = int((numbers[:-1] != 0).sum()) <= _FEW
        self.constant = float(numbers[-1, 0])  # of beta, the same in every pixel

    def decode(self, rows: Sequence[Tensor], level: Tensor) -> Sequence[Tensor]:
        """Pixels from the rows of alpha times the products, and from the level of beta."""
        if self.sparse and level.device.type == "cpu":
            return combine(rows, self.columns, level)
        stacked = torch.stack(list(rows))
        return (
            (self.matrix[:-1].T.to(stacked) @ stacked.flatten(1)).view(-1, *level.shape) + level
        ).unbind()

    def transposed(self, pixels: Tensor) -> Sequence[Tensor]:
        """Rows from pixels (k, ...): what the gradient in the pixels is in the rows."""
        if self.sparse and pixels.device.type == "cpu":
            return combine(pixels.unbind(), self.rows)
        return (self.matrix[:-1].to(pixels) @ pixels.flatten(1)).view(-1, *pixels.shape[1:]).unbind()


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


class Decode(torch.autograd.Function):
    """Weights (..., out, in, k) at (z, alpha, beta) = loc + e^log_scale noise, rows (dim + 2, out, in).

    The second output, e^log_scale noise, is what the backward pass keeps.
    """

    @staticmethod
    def forward(loc: Tensor, log_scale: Tensor, noise: Tensor, decoder: Decoder) -> tuple[Tensor, Tensor]:
        step = torch.empty_like(noise)
        steps, noises = step.view(-1, *loc.shape), noise.reshape(-1, *loc.shape)
        weights = loc.new_empty(len(steps), *loc.shape[1:], decoder.matrix.shape[1])
        together = max(1, _BLOCK // max(1, loc[0].numel()))  # draws of a small layer
        for block in _blocks(loc):
            scale, center = log_scale[:, block].exp(), loc[:, block]
            for first in range(0, len(steps), together):
                some = slice(first, first + together)
                torch.mul(noises[some, :, block], scale, out=steps[some, :, block])
                x = (center + steps[some, :, block]).movedim(1, 0)
                z, (alpha, beta) = x[:-2], x[-2:].unbind()
                pixels = decoder.decode(decoder.waves.rows(z, alpha), beta * decoder.constant)
                torch.stack(tuple(pixels), -1, out=weights[some, block])
        return weights.view(noise.shape[:-3] + weights.shape[1:]), step

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *args: Any) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
        *tensors, decoder = args
        if in_dims[:2] == (None, None):  # many draws from one posterior: as it stands
            loc, log_scale, noise = tensors
            return Decode.apply(loc, log_scale, noise.movedim(in_dims[2], 0), decoder), (0, 0)
        rows = [
            [t if d is None else t.select(d, i) for t, d in zip(tensors, in_dims, strict=False)]
            for i in range(info.batch_size)
        ]
        found = [Decode.apply(*row, decoder) for row in rows]
        return (torch.stack([w for w, _ in found]), torch.stack([s for _, s in found])), (0, 0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
        loc, log_scale, _, ctx.decoder = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(loc, log_scale, output[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
        loc, log_scale, steps = ctx.saved_tensors
        decoder: Decoder = ctx.decoder
        if torch.is_grad_enabled():  # to be differentiated again: as a function of the scales
            scale = log_scale.exp()
            steps = (steps / scale).detach() * scale
        grad = grad.to(loc.dtype)
        of_loc, of_scale = [], []
        for block in _blocks(loc, samples=steps.numel() // loc.numel()):
            step = steps[..., block, :].movedim(-3, 0)
            x = (loc[:, block] + steps[..., block, :]).movedim(-3, 0)
            pixels = torch.stack(grad[..., block, :, :].unbind(-1))
            of_rows = decoder.transposed(pixels)
            of_beta = pixels.sum(0) * decoder.constant
            of_alpha, slopes = decoder.waves.gradient(x[:-2], of_rows)
            of_x = [*(slope * x[-2] for slope in slopes), of_alpha, of_beta]
            of_step = torch.stack(of_x)
            of_loc.append(_over_samples(of_step))
            of_scale.append(_over_samples(of_step * step))
        return _joined(of_loc), _joined(of_scale), None, None


def _blocks(loc: Tensor, samples: int = 1) -> list[slice]:
    """Slices of the output channels with about ``_BLOCK`` kernels in each."""
    out, inputs = loc.shape[1:]
    step = max(1, min(out, _BLOCK // max(1, inputs * samples)))
    return [slice(start, min(start + step, out)) for start in range(0, out, step)]


def _joined(blocks: list[Tensor]) -> Tensor:
    return blocks[0] if len(blocks) == 1 else torch.cat(blocks, -2)


def _over_samples(grad: Tensor) -> Tensor:
    """Summed over the sample dimensions, (rows, ..., out, in) -> (rows, out, in)."""
    return grad if grad.dim() == 3 else grad.flatten(1, -3).sum(1)
