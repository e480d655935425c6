"""From noise to decoded kernels and back: the inner loop of a layer with a decoder prior."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from topoprior import fused
from topoprior.trigonometric import ProductWaves

# Kernels in one block of work. A row of a block stays in the processor's cache and below the size at which
# torch starts a second thread: on rows this short, waking a thread up costs more than it gains.
_BLOCK = 32768
# Up to so many multiply-adds they are faster one by one than as a matrix product.
_FEW = 64
_NEGLIGIBLE = 2e-6  # of the largest entry: below what float32 keeps of a sum

# Numbers, or a tensor where the formula is compiled.
_Scales: TypeAlias = "tuple[float, float] | Tensor"


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
    def forward(
        loc: Tensor,
        log_scale: Tensor,
        noise: Tensor,
        decoder: Decoder,
        scales: tuple[float, float],
        compiled: bool,
    ) -> tuple[Tensor, Tensor]:
        noises = noise.reshape(-1, *loc.shape)
        make = fused.draw if compiled and fused.usable(loc, log_scale, noise) else _draw
        weights, steps = make(decoder, loc, log_scale, noises, scales)
        return weights.view(noise.shape[:-3] + weights.shape[1:]), steps.view(noise.shape)

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *args: Any) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
        tensors, rest = args[:3], args[3:]
        if in_dims[:2] == (None, None):  # many draws from one posterior: as it stands
            loc, log_scale, noise = tensors
            return Decode.apply(loc, log_scale, noise.movedim(in_dims[2], 0), *rest), (0, 0)
        rows = [
            [t if d is None else t.select(d, i) for t, d in zip(tensors, in_dims, strict=False)]
            for i in range(info.batch_size)
        ]
        found = [Decode.apply(*row, *rest) for row in rows]
        return (torch.stack([w for w, _ in found]), torch.stack([s for _, s in found])), (0, 0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
        loc, log_scale, _, ctx.decoder, ctx.scales, ctx.compiled = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(loc, log_scale, output[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
        loc, log_scale, steps = ctx.saved_tensors
        again = torch.is_grad_enabled()
        if again:  # to be differentiated again: as a function of the scales
            scale = log_scale.exp()
            steps = (steps / scale).detach() * scale
        make = _gradient
        if ctx.compiled and not again and fused.usable(grad, loc, steps):
            make = fused.gradient
        grad, steps = grad.to(loc.dtype).reshape(-1, *grad.shape[-3:]), steps.view(-1, *loc.shape)
        return *make(ctx.decoder, grad, loc, steps, ctx.scales), None, None, None, None


def _draw(
    decoder: Decoder, loc: Tensor, log_scale: Tensor, noises: Tensor, scales: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    """Weights (S, out, in, k) and e^log_scale noise, for noise (S, dim + 2, out, in), block by block."""
    steps = torch.empty_like(noises)
    weights = loc.new_empty(len(steps), *loc.shape[1:], decoder.matrix.shape[1])
    together = max(1, _BLOCK // max(1, loc[0].numel()))  # draws of a small layer
    for block in _blocks(loc):
        scale, center = log_scale[:, block].exp(), loc[:, block]
        for first in range(0, len(steps), together):
            some = slice(first, first + together)
            torch.mul(noises[some, :, block], scale, out=steps[some, :, block])
            x = (center + steps[some, :, block]).movedim(1, 0)
            torch.stack(tuple(decoder.pixels(x, scales)), -1, out=weights[some, block])
    return weights, steps


def _gradient(
    decoder: Decoder, grad: Tensor, loc: Tensor, steps: Tensor, scales: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    """Gradients of loc and log_scale, for ``grad`` (S, out, in, k) of the weights."""
    of_loc, of_scale = [], []
    for block in _blocks(loc, samples=len(steps)):
        step = steps[:, :, block].movedim(1, 0)
        x = (loc[:, block] + steps[:, :, block]).movedim(1, 0)
        of_step = decoder.gradient(x, torch.stack(grad[:, block].unbind(-1)), scales)
        of_loc.append(of_step.sum(1) if len(steps) > 1 else of_step[:, 0])
        of_step = of_step * step
        of_scale.append(of_step.sum(1) if len(steps) > 1 else of_step[:, 0])
    return _joined(of_loc), _joined(of_scale)


def _blocks(loc: Tensor, samples: int = 1) -> list[slice]:
    """Slices of the output channels with about ``_BLOCK`` kernels in each."""
    out, inputs = loc.shape[1:]
    step = max(1, min(out, _BLOCK // max(1, inputs * samples)))
    return [slice(start, min(start + step, out)) for start in range(0, out, step)]


def _joined(blocks: list[Tensor]) -> Tensor:
    return blocks[0] if len(blocks) == 1 else torch.cat(blocks, -2)
