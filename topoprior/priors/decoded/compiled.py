"""The arithmetic of decoded kernels in a few compiled kernels, for :func:`topoprior.compile_posteriors`.

Eager torch passes over its operands once an operation; the compiler makes one pass of a whole formula.
Compiled are the three formulas that cost something (a draw, its gradient, the KL) and nothing else, with
sizes left open: one compilation serves all layers of a prior. They live here and not on a posterior, so
that posteriors are copied and pickled as ever.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from topoprior.distributions.kappa import kappa_and_slope
from topoprior.utils.precision import without_autocast

if TYPE_CHECKING:
    from topoprior.priors.decoded.draw import How


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


def latent_kl(periods: tuple[float, ...], loc: Tensor, log_scale: Tensor) -> Tensor:
    """The KL of latents and amplitudes."""
    d = len(periods)

    def formula(loc: Tensor, log_scale: Tensor) -> Tensor:
        scale = log_scale.exp()
        kappas = [kappa_and_slope(row / p)[0].sum() for row, p in zip(scale[:d], periods, strict=True)]
        of_amplitudes = 0.5 * (scale[d:].square() + loc[d:].square() - 1) - log_scale[d:]
        return sum(kappas, of_amplitudes.sum())

    return _compiled(("kl", periods), formula)(loc, log_scale)


def latent_kl_gradient(
    periods: tuple[float, ...], loc: Tensor, log_scale: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor]:
    """Its gradients in loc and log_scale, times ``grad``."""
    d = len(periods)

    def formula(loc: Tensor, log_scale: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
        scale = log_scale.exp()
        in_periods = [row / p for row, p in zip(scale[:d], periods, strict=True)]
        slopes = torch.stack([s * kappa_and_slope(s)[1] for s in in_periods])
        of_loc = torch.cat([torch.zeros_like(loc[:d]), loc[d:]])
        return of_loc * grad, torch.cat([slopes, scale[d:].square() - 1]) * grad

    return _compiled(("kl gradient", periods), formula)(loc, log_scale, grad)
