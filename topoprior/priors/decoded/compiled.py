"""The arithmetic of decoded kernels in a few compiled kernels, for :func:`topoprior.compile_posteriors`.

Eager torch passes over its operands once an operation; the compiler makes one pass of a whole formula.
Compiled are a draw and its gradient and nothing else, with sizes left open: one compilation serves all layers of a prior. (The
KL is no faster so: it would compute what eager torch leaves out where stds are narrow.) They live here and not on a posterior, so
that posteriors are copied and pickled as ever.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor

from topoprior.priors.decoded.pixels import How
from topoprior.utils.precision import without_autocast

_COMPILED: dict[Hashable, Callable[..., Any]] = {}


def _compiled(key: Hashable, formula: Callable[..., Any]) -> Callable[..., Any]:
    """For tensors that are no parameters, whose sizes torch.compile would not leave open. Where it has compiled too often, the
    formula itself."""
    if key not in _COMPILED:
        _COMPILED[key] = torch.compile(formula, dynamic=True)
    return _COMPILED[key]


@without_autocast
def draw(loc: Tensor, log_scale: Tensor, noises: Tensor, how: How) -> tuple[Tensor, Tensor]:
    """Weights (S, out, in, k) and e^log_scale noise, for noise (S, dim + 2, out, in)."""
    decoder, dtype, last = how.decoder, how.dtype or loc.dtype, how.channels_last

    def formula(loc: Tensor, log_scale: Tensor, noise: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
        steps = noise * log_scale.exp()
        pixels = decoder.pixels((loc + steps).movedim(1, 0), scales)
        return torch.stack([row.to(dtype) for row in pixels], -2 if last else -1), steps

    compiled = _compiled(("draw", decoder.key, dtype, last), formula)
    weights, steps = compiled(loc.detach(), log_scale.detach(), noises, loc.new_tensor(how.scales))
    return (weights.mT if last else weights), steps


@without_autocast
def gradient(grad: Tensor, loc: Tensor, steps: Tensor, how: How) -> tuple[Tensor, Tensor]:
    """Gradients of loc and log_scale, for ``grad`` (S, out, in, k) of the weights."""
    decoder = how.decoder

    def formula(grad: Tensor, loc: Tensor, steps: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
        of_pixels = grad.to(loc.dtype).movedim(-1, 0)
        of_steps = decoder.gradient((loc + steps).movedim(1, 0), of_pixels, scales).movedim(0, 1)
        return of_steps.sum(0), (of_steps * steps).sum(0)

    return _compiled(("gradient", decoder.key), formula)(
        grad, loc.detach(), steps, loc.new_tensor(how.scales)
    )
