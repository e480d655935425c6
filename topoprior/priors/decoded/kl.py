"""KL of the latents and amplitudes of decoded kernels, with its gradient in the same pass."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from topoprior.distributions.kappa import NARROW, kappa, kappa_and_slope
from topoprior.utils.autograd import with_signature
from topoprior.utils.tracing import values_known

_ENTROPY = 0.5 * math.log(2 * math.pi * math.e)  # of the standard normal


def latent_kl(loc: Tensor, log_scale: Tensor, periods: Sequence[float]) -> Tensor:
    r"""The cover bound of the latents and the normal KL of the amplitudes, a scalar in nats:

    .. math:: \sum_d \kappa(\sigma_d / P_d) + \sum_a \big( (\sigma_a^2 + \mu_a^2 - 1) / 2 - \log \sigma_a \big)

    with one row a coordinate: the first ``len(periods)`` rows are latents, the others amplitudes in units
    of their prior's std.
    """
    if values_known(loc, log_scale):
        return _LatentKL.apply(tuple(periods), loc, log_scale)
    return _plainly(periods, loc, log_scale)


def _plainly(periods: Sequence[float], loc: Tensor, log_scale: Tensor) -> Tensor:
    """The formula as it stands, for transformations of functions: vmap, second derivatives, compilation."""
    d = len(periods)
    scale = log_scale.exp()
    of_latents = [kappa(row / period).sum() for row, period in zip(scale[:d], periods, strict=True)]
    of_amplitudes = 0.5 * (scale[d:].square() + loc[d:].square() - 1) - log_scale[d:]
    return torch.stack([*of_latents, of_amplitudes.sum()]).sum()


def _value(periods: tuple[float, ...], loc: Tensor, log_scale: Tensor) -> Tensor:
    """The KL. kappa(s) is -log s and a constant while s is narrow, as most are for most of a training: then only the
    others need kappa's polynomials."""
    d = len(periods)
    centers, variance = loc[d:], torch.mul(log_scale[d:], 2)
    value = 0.5 * (variance.exp_().sum() + torch.linalg.vector_norm(centers).square()) - log_scale.sum()
    value += log_scale[0].numel() * (
        sum(math.log(period) for period in periods) - d * _ENTROPY - 0.5 * (len(loc) - d)
    )
    for _, _, s in _wide(periods, log_scale):
        value += (kappa_and_slope(s)[0] + s.log()).sum() + s.numel() * _ENTROPY
    return value


def _gradient(
    periods: tuple[float, ...], loc: Tensor, log_scale: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor]:
    """Of loc and log_scale, times ``grad``: in log s, -1 while s is narrow."""
    d = len(periods)
    of_loc, of_log_scale = torch.empty_like(loc), torch.empty_like(log_scale)
    of_loc[:d] = 0
    torch.mul(loc[d:], grad, out=of_loc[d:])
    of_log_scale[:d] = -grad
    torch.mul(log_scale[d:], 2, out=of_log_scale[d:])
    of_log_scale[d:].expm1_().mul_(grad)
    for slope, wide, s in _wide(periods, log_scale, of_log_scale):
        slope[wide] = kappa_and_slope(s)[1] * s * grad
    return of_loc, of_log_scale


def _wide(
    periods: tuple[float, ...], log_scale: Tensor, beside: Tensor | None = None
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Of every axis with stds that are not narrow: its row of ``beside``, which they are, and they, in periods."""
    for row, other, period in zip(
        log_scale, log_scale if beside is None else beside, periods, strict=False
    ):
        bound = math.log(period * NARROW[row.dtype])
        if row.numel() and row.max() > bound:
            wide = row > bound
            yield other, wide, (row[wide] - math.log(period)).exp()


class _LatentKL(torch.autograd.Function):
    """Keeps its parameters alone for the backward pass."""

    @staticmethod
    @with_signature
    def forward(periods: tuple[float, ...], loc: Tensor, log_scale: Tensor) -> Tensor:
        return _value(periods, loc, log_scale)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.periods, *tensors = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        loc, log_scale = ctx.saved_tensors
        if torch.is_grad_enabled():  # to be differentiated again: as functions of the parameters
            with torch.enable_grad():
                value = _plainly(ctx.periods, loc, log_scale)
                gradients = torch.autograd.grad(value, (loc, log_scale), create_graph=True)
            return None, *(of * grad for of in gradients)
        return None, *_gradient(ctx.periods, loc, log_scale, grad)
