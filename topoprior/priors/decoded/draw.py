"""From noise to decoded kernels and back: the inner loop of a layer with a decoder prior."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from topoprior.priors.decoded import compiled as fused
from topoprior.priors.decoded.pixels import Decoder
from topoprior.utils.tracing import values_known

# Kernels in one block of work. A row of a block stays in the processor's cache and below the size at which
# torch starts a second thread: on rows this short, waking a thread up costs more than it gains.
_BLOCK = 32768


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
        noises = noise.reshape(noise.shape[:-3].numel(), *loc.shape)
        make = fused.draw if compiled and values_known(loc, log_scale, noise) else _draw
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
        if ctx.compiled and not again and values_known(grad, loc, steps):
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
