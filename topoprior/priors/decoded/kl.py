"""KL of the latents and amplitudes of decoded kernels, with its gradient in the same pass."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from topoprior.distributions.kappa import NARROW, kappa, kappa_and_slope
from topoprior.priors.decoded import compiled as fused
from topoprior.utils.tracing import values_known

_ENTROPY = 0.5 * math.log(2 * math.pi * math.e)  # of the standard normal


def latent_kl(loc: Tensor, log_scale: Tensor, periods: Sequence[float], compiled: bool = False) -> Tensor:
    r"""The cover bound of the latents and the normal KL of the amplitudes, a scalar in nats:

    .. math:: \sum_d \kappa(\sigma_d / P_d) + \sum_a \big( (\sigma_a^2 + \mu_a^2 - 1) / 2 - \log \sigma_a \big)

    with one row a coordinate: the first ``len(periods)`` rows are latents, the others amplitudes in units
    of their prior's std.
    """
    if values_known(loc, log_scale):
        return _LatentKL.apply(tuple(periods), loc, log_scale, compiled)[0]
    return _plainly(periods, loc, log_scale)


def _plainly(periods: Sequence[float], loc: Tensor, log_scale: Tensor) -> Tensor:
    """The formula as it stands, for transformations of functions: vmap, second derivatives, compilation."""
    d = len(periods)
    scale = log_scale.exp()
    of_latents = [kappa(row / period).sum() for row, period in zip(scale[:d], periods, strict=True)]
    of_amplitudes = 0.5 * (scale[d:].square() + loc[d:].square() - 1) - log_scale[d:]
    return torch.stack([*of_latents, of_amplitudes.sum()]).sum()


def _with_gradients(
    periods: tuple[float, ...], loc: Tensor, log_scale: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The KL, and its gradients in loc and log_scale.

    kappa(s) is -log s and a constant while s is narrow, as most are for most of a training: there the
    gradient in log s is -1, and only the others need kappa's polynomials.
    """
    d = len(periods)
    of_loc, of_log_scale = torch.zeros_like(loc), torch.empty_like(log_scale)
    of_loc[d:] = loc[d:]
    variance = torch.exp(2 * log_scale[d:], out=of_log_scale[d:])
    flat = of_loc.view(-1)
    value = 0.5 * (variance.sum() + flat.dot(flat)) - log_scale.sum()
    variance -= 1
    of_log_scale[:d] = -1
    value += log_scale[0].numel() * (
        sum(math.log(period) for period in periods) - d * _ENTROPY - 0.5 * (len(loc) - d)
    )
    for row, slope, period in zip(log_scale[:d], of_log_scale, periods, strict=False):
        wide = row > math.log(period * NARROW[row.dtype])
        if not wide.any():
            continue
        log_s = row[wide] - math.log(period)
        s = log_s.exp()
        kappas, slopes = kappa_and_slope(s)
        value += (kappas + log_s).sum() + log_s.numel() * _ENTROPY
        slope[wide] = slopes * s
    return value, of_loc, of_log_scale


class _LatentKL(torch.autograd.Function):
    @staticmethod
    def forward(
        periods: tuple[float, ...], loc: Tensor, log_scale: Tensor, compiled: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        return (fused.latent_kl if compiled else _with_gradients)(periods, loc, log_scale)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, ...]) -> None:
        ctx.periods, *tensors, _ = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*tensors, *output[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        loc, log_scale, of_loc, of_log_scale = ctx.saved_tensors
        if torch.is_grad_enabled():  # to be differentiated again: as functions of the parameters
            with torch.enable_grad():
                value = _plainly(ctx.periods, loc, log_scale)
                of_loc, of_log_scale = torch.autograd.grad(value, (loc, log_scale), create_graph=True)
        return None, of_loc * grad, of_log_scale * grad, None
