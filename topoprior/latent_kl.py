"""KL of the latents and amplitudes of decoded kernels, for all layers of a network in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from topoprior import fused
from topoprior.divergences import kappa_and_slope

_Periods = tuple[tuple[float, ...], ...]


def latent_kl(
    posteriors: Sequence[tuple[Tensor, Tensor, Sequence[float]]], compiled: bool = False
) -> Tensor:
    r"""Sum over (loc, log_scale, periods) of

    .. math:: \sum_d \kappa(\sigma_d / P_d) + \sum_a \big( (\sigma_a^2 + \mu_a^2 - 1) / 2 - \log \sigma_a \big)

    with one row a coordinate: the first ``len(periods)`` rows are latents, the others amplitudes in units
    of their prior's std. A scalar, in nats: the cover bound of the latents and the normal KL.
    """
    tensors = [t for loc, log_scale, _ in posteriors for t in (loc, log_scale)]
    if compiled and fused.usable(*tensors):
        parts = [_CompiledKL.apply(tuple(p), loc, log_scale)[0] for loc, log_scale, p in posteriors]
        return torch.stack(parts).sum()
    return _LatentKL.apply(tuple(tuple(p) for *_, p in posteriors), *tensors)[0]


def _value_and_slopes(periods: _Periods, tensors: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """The KL, and its gradient in the log scales of the latents, (dim, out, in) a posterior."""
    latents, amplitudes, sizes = [], [], []
    for loc, log_scale, period in zip(tensors[::2], tensors[1::2], periods, strict=True):
        d = len(period)
        scale = log_scale.exp()
        latents += [(row * (1 / p)).flatten() for row, p in zip(scale[:d], period, strict=True)]
        sizes.append(scale[:d].numel())
        for x in (scale[d:].flatten(), loc[d:].flatten()):
            amplitudes.append(0.5 * x.dot(x))
        amplitudes.append(-log_scale[d:].sum() - 0.5 * loc[d:].numel())
    scale_in_periods = torch.cat(latents)
    value, slope = kappa_and_slope(scale_in_periods)
    # d/d log s of kappa(s / P) is kappa'(s / P) s / P
    slopes = (slope * scale_in_periods).split(sizes)
    shaped = [s.view(-1, *loc.shape[1:]) for s, loc in zip(slopes, tensors[::2], strict=True)]
    return value.sum() + torch.stack(amplitudes).sum(), shaped


class _LatentKL(torch.autograd.Function):
    """The KL, and with it at once the slopes of kappa; the rest of the gradient follows from the parameters."""

    generate_vmap_rule = True

    @staticmethod
    def forward(periods: _Periods, *tensors: Tensor) -> tuple[Tensor, ...]:
        kl, slopes = _value_and_slopes(periods, tensors)
        # Views of one tensor: an output of its own each.
        return kl, *(slope.clone() for slope in slopes)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, ...]) -> None:
        ctx.periods, *tensors = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*tensors, *output[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        count = 2 * len(ctx.periods)
        tensors, slopes = ctx.saved_tensors[:count], ctx.saved_tensors[count:]
        if torch.is_grad_enabled():  # to be differentiated again: as functions of the parameters
            slopes = _value_and_slopes(ctx.periods, tensors)[1]
        return None, *_gradients(tensors, slopes, grad)


def _gradients(tensors: Sequence[Tensor], slopes: Sequence[Tensor], grad: Tensor) -> list[Tensor]:
    """In loc and log_scale of every posterior."""
    found = []
    for loc, log_scale, slope in zip(tensors[::2], tensors[1::2], slopes, strict=True):
        d = len(slope)
        of_amplitudes = (2 * log_scale[d:]).exp() - 1
        found.append(torch.cat([torch.zeros_like(loc[:d]), loc[d:] * grad]))
        found.append(torch.cat([slope, of_amplitudes]) * grad)
    return found


class _CompiledKL(torch.autograd.Function):
    """The KL of one posterior, and with it at once its gradients."""

    @staticmethod
    def forward(
        periods: tuple[float, ...], loc: Tensor, log_scale: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        kl, of_loc, of_log_scale = fused.latent_kl(periods, loc, log_scale)
        return kl, of_loc, of_log_scale

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, ...]) -> None:
        ctx.periods, *tensors = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*tensors, *output[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        *tensors, of_loc, of_log_scale = ctx.saved_tensors
        if torch.is_grad_enabled():  # as above
            return None, *_gradients(tensors, _value_and_slopes((ctx.periods,), tensors)[1], grad)
        return None, of_loc * grad, of_log_scale * grad
