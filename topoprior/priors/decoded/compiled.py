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

if TYPE_CHECKING:
    from topoprior.priors.decoded.pixels import Decoder


_COMPILED: dict[Hashable, Callable[..., Any]] = {}


def _compiled(key: Hashable, formula: Callable[..., Any]) -> Callable[..., Any]:
    if key not in _COMPILED:
        _COMPILED[key] = torch.compile(formula, dynamic=True, fullgraph=True)
    return _COMPILED[key]


def draw(
    decoder: Decoder, loc: Tensor, log_scale: Tensor, noise: Tensor, scales: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    """Weights (S, out, in, k) and e^log_scale noise, for noise (S, dim + 2, out, in)."""

    def formula(loc: Tensor, log_scale: Tensor, noise: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
        steps = noise * log_scale.exp()
        return torch.stack(tuple(decoder.pixels((loc + steps).movedim(1, 0), scales)), -1), steps

    return _compiled(("draw", decoder.key), formula)(loc, log_scale, noise, loc.new_tensor(scales))


def gradient(
    decoder: Decoder, grad: Tensor, loc: Tensor, steps: Tensor, scales: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    """Gradients of loc and log_scale, for ``grad`` (S, out, in, k) of the weights."""

    def formula(grad: Tensor, loc: Tensor, steps: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
        of_steps = decoder.gradient((loc + steps).movedim(1, 0), grad.movedim(-1, 0), scales).movedim(0, 1)
        return of_steps.sum(0), (of_steps * steps).sum(0)

    return _compiled(("gradient", decoder.key), formula)(grad, loc, steps, loc.new_tensor(scales))


def latent_kl(periods: tuple[float, ...], loc: Tensor, log_scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The KL of latents and amplitudes, and its gradients in loc and log_scale."""
    d = len(periods)

    def formula(loc: Tensor, log_scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        scale = log_scale.exp()
        value, slopes = scale.new_zeros(()), []
        for row, period in zip(scale[:d], periods, strict=True):
            in_periods = row * (1 / period)
            kappa, slope = kappa_and_slope(in_periods)
            value = value + kappa.sum()
            slopes.append(slope * in_periods)
        variance, centers = scale[d:].square(), loc[d:]
        value = value + (0.5 * (variance + centers.square() - 1) - log_scale[d:]).sum()
        return (
            value,
            torch.cat([torch.zeros_like(loc[:d]), centers]),
            torch.cat([torch.stack(slopes), variance - 1]),
        )

    return _compiled(("kl", periods), formula)(loc, log_scale)
