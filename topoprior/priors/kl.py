"""Closed-form KLs, summed over all posteriors of a network in one function of autograd that keeps their parameters alone.

In networks of usual size the number of operations is what costs, so values and gradients are written by hand.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from topoprior.distributions.kappa import NARROW, kappa, kappa_and_slope
from topoprior.utils.tracing import functions_work, values_known

_ENTROPY = 0.5 * math.log(2 * math.pi * math.e)  # of the standard normal


class Part(NamedTuple):
    r"""Independent normal coordinates N(m, s^2), for ``loc`` m and ``log_scale`` log s of one shape.

    The first ``len(periods)`` rows are latents, lifts of points on circles of these lengths, beside the uniform law; all others
    are beside N(0, unit^2).
    """

    loc: Tensor
    log_scale: Tensor
    periods: tuple[float, ...] = ()
    unit: float = 1.0


def total(kls: Sequence[Tensor], parts: Sequence[Part]) -> Tensor:
    r"""The sum of ``kls`` and of the KLs of ``parts``, a scalar in nats on the first one's device; at least one of either.

    The KL of a part is the cover bound of its latents and the normal KL of the others:

    .. math:: \sum_d \kappa(s_d / P_d) + \sum_a \big( (s_a^2 + m_a^2) / 2 u^2 - 1/2 - \log (s_a / u) \big)
    """
    found = list(kls)
    tensors = [tensor for part in parts for tensor in part[:2]]
    # By hand on a CPU. Elsewhere, reading a value would wait for the device.
    known = functions_work(*tensors) and all(t.device.type == "cpu" for t in tensors)
    # Derivatives in forward mode are not written.
    if parts and known and forward_ad._current_level < 0:
        found.append(_Closed.apply([part[2:] for part in parts], *tensors))
    else:
        found += map(_plainly, parts)
    return torch.stack([kl.to(found[0]) for kl in found]).sum() if len(found) > 1 else found[0]


def latent_kl(loc: Tensor, log_scale: Tensor, periods: Sequence[float]) -> Tensor:
    """Of latents and amplitudes in units of their prior's std, rows (dim + 2, ...)."""
    return total([], [Part(loc, log_scale, tuple(periods))])


def normal_kl(loc: Tensor, log_scale: Tensor, prior_scale: float | Tensor) -> Tensor:
    """Sum of KL(N(m, s^2) || N(0, p^2)) = (s^2 + m^2) / 2 p^2 - 1/2 - log(s / p), p a scalar."""
    if not isinstance(prior_scale, Tensor):
        return total([], [Part(loc, log_scale, unit=prior_scale)])
    second_moment = (loc.square() + (2 * log_scale).exp()).sum() / (2 * prior_scale**2)
    return second_moment - log_scale.sum() + loc.numel() * (prior_scale.log() - 0.5)


def _plainly(part: Part) -> Tensor:
    """The formula as it stands, for transformations of functions: vmap, second derivatives, compilation."""
    loc, log_scale, periods, unit = part
    d, scale = len(periods), log_scale.exp()
    of_latents = [kappa(row / period).sum() for row, period in zip(scale, periods, strict=False)]
    if d:
        loc, log_scale, scale = loc[d:], log_scale[d:], scale[d:]
    of_others = 0.5 * ((scale.square() + loc.square()) / unit**2 - 1) - log_scale + math.log(unit)
    return torch.stack([*of_latents, of_others.sum()]).sum()


class _Closed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, kinds: Sequence[Any], *tensors: Tensor) -> Tensor:
        parts = _parts(kinds, tensors)
        ctx.kinds, ctx.widest = kinds, [_widest(part) for part in parts]
        ctx.save_for_backward(*tensors)
        return tensors[0].new_tensor(sum(map(_value, parts, ctx.widest)))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        tensors = ctx.saved_tensors
        # To be differentiated again, as functions of the parameters; or of several sums at once.
        if torch.is_grad_enabled() or not values_known(grad):
            with torch.enable_grad():
                own = [t.view_as(t) for t in tensors]  # a tensor may be in several parts
                value = torch.stack([_plainly(part).to(grad) for part in _parts(ctx.kinds, own)]).sum()
                wanted = [t for t in own if t.requires_grad]
                slopes = iter(torch.autograd.grad(value, wanted, create_graph=True))
            return None, *(grad.to(t) * next(slopes) if t.requires_grad else None for t in own)
        pairs = zip(_parts(ctx.kinds, tensors), ctx.widest, strict=True)
        return None, *(of for part, widest in pairs for of in _gradient(part, widest, grad))


def _parts(kinds: Sequence[Any], tensors: Sequence[Tensor]) -> list[Part]:
    return [Part(tensors[2 * i], tensors[2 * i + 1], *kind) for i, kind in enumerate(kinds)]


def _value(part: Part, widest: Sequence[float]) -> float:
    """The KL. kappa(s) is -log s and a constant while s is narrow, as most are for most of a training: then only the
    others need kappa's polynomials."""
    loc, log_scale, periods, unit = part
    d, row = len(periods), loc.shape[1:].numel()
    centers, stds = (loc[d:], log_scale[d:]) if d else (loc, log_scale)
    length = torch.linalg.vector_norm(centers).item()
    moments = torch.mul(stds, 2).exp_().sum().item() + length * length
    value = 0.5 * moments / unit**2 + centers.numel() * (math.log(unit) - 0.5) - log_scale.sum().item()
    value += row * sum(math.log(period) - _ENTROPY for period in periods)
    for _, _, s in _wide(part, widest):
        value += (kappa_and_slope(s)[0] + s.log()).sum().item() + s.numel() * _ENTROPY
    return value


def _gradient(part: Part, widest: Sequence[float], grad: Tensor) -> tuple[Tensor, Tensor]:
    """Of loc and log_scale, times ``grad``: in log s, -1 while a latent's s is narrow."""
    loc, log_scale, periods, unit = part
    of_loc, of_log_scale = torch.empty_like(loc), torch.empty_like(log_scale)
    rows, factor = [loc, log_scale, of_loc, of_log_scale], grad.item()
    if d := len(periods):
        of_loc[:d].zero_()
        of_log_scale[:d].fill_(-factor)
        rows = [t[d:] for t in rows]
    centers, stds, of_centers, of_stds = rows
    slope = factor / unit**2
    torch.mul(centers, slope, out=of_centers)
    # exp and a difference: expm1 takes four times as long, for digits that the sum with the likelihood's gradient drops.
    torch.mul(stds, 2, out=of_stds).exp_().mul_(slope).sub_(factor)
    for axis, wide, s in _wide(part, widest):
        of_log_scale[axis][wide] = kappa_and_slope(s)[1] * s * factor
    return of_loc, of_log_scale


def _widest(part: Part) -> list[float]:
    """The largest log s of every row of latents."""
    latents = part.log_scale[: len(part.periods)]
    return latents.reshape(len(latents), -1).amax(1).tolist() if latents.numel() else []


def _wide(part: Part, widest: Sequence[float]) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Of every axis with stds that are not narrow: its number, which they are, and they, in periods."""
    for axis, (most, period) in enumerate(zip(widest, part.periods, strict=False)):
        row = part.log_scale[axis]
        bound = math.log(period * NARROW[row.dtype])
        if most > bound:
            wide = row > bound
            yield axis, wide, (row[wide] - math.log(period)).exp()
