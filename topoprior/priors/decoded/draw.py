"""From noise to decoded kernels and back: the inner loop of a layer with a decoder prior."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from topoprior.priors.decoded import compiled as fused
from topoprior.priors.decoded.pixels import How
from topoprior.utils.autograd import with_signature
from topoprior.utils.precision import without_autocast
from topoprior.utils.tracing import values_known

# Kernels in one block of work. A row of a block stays in the processor's cache and below the size at which
# torch starts a second thread: on rows this short, waking a thread up costs more than it gains.
_BLOCK = 32768


class Decode(torch.autograd.Function):
    """Weights (..., out, in, k) at (z, alpha, beta) = loc + e^log_scale noise, rows (dim + 2, out, in).

    The second output, e^log_scale noise, is all that the backward pass keeps beside the parameters.
    """

    @staticmethod
    @with_signature
    def forward(loc: Tensor, log_scale: Tensor, noise: Tensor, how: How) -> tuple[Tensor, Tensor]:
        noises = noise.reshape(noise.shape[:-3].numel(), *loc.shape)
        make = fused.draw if how.compiled and values_known(loc, log_scale, noise) else _draw
        weights, steps = make(loc, log_scale, noises, how)
        return weights.view(noise.shape[:-3] + weights.shape[1:]), steps.view(noise.shape)

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *args: Any) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
        *tensors, how = args
        if in_dims[:2] == (None, None):  # many draws from one posterior: as it stands
            loc, log_scale, noise = tensors
            return Decode.apply(loc, log_scale, noise.movedim(in_dims[2], 0), how), (0, 0)
        rows = [
            [t if d is None else t.select(d, i) for t, d in zip(tensors, in_dims, strict=False)]
            for i in range(info.batch_size)
        ]
        found = [Decode.apply(*row, how) for row in rows]
        return (torch.stack([w for w, _ in found]), torch.stack([s for _, s in found])), (0, 0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
        loc, log_scale, _, ctx.how = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(loc, log_scale, output[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
        loc, log_scale, steps = ctx.saved_tensors
        again = torch.is_grad_enabled()
        if again:  # to be differentiated again: as a function of the scales
            scale = log_scale.exp()
            steps = (steps / scale).detach() * scale
        known = not again and values_known(grad, loc, steps)
        make = fused.gradient if ctx.how.compiled and known else _gradient
        grad, steps = grad.reshape(-1, *grad.shape[-3:]), steps.reshape(-1, *loc.shape)
        return *make(grad, loc, steps, ctx.how), None, None


@without_autocast
def _draw(loc: Tensor, log_scale: Tensor, noises: Tensor, how: How) -> tuple[Tensor, Tensor]:
    """Weights (S, out, in, k) and e^log_scale noise, for noise (S, dim + 2, out, in), block by block."""
    steps, (out, inputs) = torch.empty_like(noises), loc.shape[1:]
    pixels = how.decoder.matrix.shape[1]
    shape = (out, pixels, inputs) if how.channels_last else (out, inputs, pixels)
    weights = loc.new_empty(len(noises), *shape, dtype=how.dtype)
    weights = weights.mT if how.channels_last else weights
    together = max(1, _BLOCK // max(1, loc[0].numel()))  # draws of a small layer
    for block in _blocks(loc):
        scale, center = log_scale[:, block].exp(), loc[:, block]
        for first in range(0, len(steps), together):
            some = slice(first, first + together)
            torch.mul(noises[some, :, block], scale, out=steps[some, :, block])
            x = (center + steps[some, :, block]).movedim(1, 0)
            # Pixel by pixel, which copies lines of inputs: kernel by kernel takes four times as long.
            into = weights.mT[some, block] if how.channels_last and weights.dtype == loc.dtype else None
            rows = torch.stack(tuple(how.decoder.pixels(x, how.scales)), -2, out=into)
            if into is None:
                weights[some, block] = rows.to(weights.dtype).mT
    return weights, steps


@without_autocast
def _gradient(grad: Tensor, loc: Tensor, steps: Tensor, how: How) -> tuple[Tensor, Tensor]:
    """Gradients of loc and log_scale, for ``grad`` (S, out, in, k) of the weights."""
    blocks = _blocks(loc, samples=len(steps))
    of_loc = of_log_scale = loc
    for block in blocks:
        step = steps[:, :, block].movedim(1, 0)
        of_pixels = torch.stack(grad[:, block].to(loc.dtype).unbind(-1))
        of_step = how.decoder.gradient(loc[:, None, block] + step, of_pixels, how.scales)
        found = [t[:, 0] if len(steps) == 1 else t.sum(1) for t in (of_step, of_step * step)]
        if len(blocks) == 1:
            return found[0], found[1]
        if block.start == 0:  # made of what was found, which vmap may have batched
            of_loc, of_log_scale = (f.new_empty(loc.shape) for f in found)
        of_loc[:, block], of_log_scale[:, block] = found
    return of_loc, of_log_scale


def _blocks(loc: Tensor, samples: int = 1) -> list[slice]:
    """Slices of the output channels with about ``_BLOCK`` kernels in each."""
    out, inputs = loc.shape[1:]
    step = max(1, min(out, _BLOCK // max(1, inputs * samples)))
    return [slice(start, min(start + step, out)) for start in range(0, out, step)]
