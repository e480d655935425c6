"""Latents that learn faster than weights, and draws that are compiled."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from topoprior.priors.base import WeightPosterior
from topoprior.utils.checks import check_module, check_positive


@contextmanager
def faster_latents(model: nn.Module, factor: float) -> Iterator[nn.Module]:
    r"""Inside, every step that an optimizer of torch.optim makes moves the centers of latents ``factor`` times as far.

    Adam's steps have about the length of the learning rate in every coordinate, whatever the gradient. A
    weight is done after a small part of its scale; a latent has to cross much of a space of size 1, and in
    short trainings it does not. With factors of 10 to 60 the Klein prior learns from few images what with 1 it
    does not (docs/development/comparison.md). Amplitudes, all stds and other parameters keep their rates; parameters, their
    names and order, gradients, states and copies are as without it.

    Args:
        model: with Bayesian layers whose priors decode kernels; all else stays as it is.
        factor: positive; 1 changes nothing.

    Raises:
        TypeError: ``model`` is no module, ``factor`` no number.
        ValueError: a factor that is not positive and finite.

    Example:
        >>> import topoprior as tp
        >>> net = tp.BayesConv2d(1, 4, 3)
        >>> optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
        >>> with tp.faster_latents(net, 20):
        ...     net(torch.randn(2, 1, 8, 8)).square().mean().backward()
        ...     optimizer.step()
    """
    check_module(model)
    factor = check_positive("factor", factor)
    before: dict[
        tuple[int, WeightPosterior], Tensor
    ] = {}  # by optimizer, for some step others inside of a step

    def remember(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        stepped = {id(p) for group in optimizer.param_groups for p in group["params"]}
        for posterior in _with_latents(model):
            if id(posterior.loc) in stepped:
                before[id(optimizer), posterior] = posterior.loc.detach().clone()

    @torch.no_grad()
    def lengthen(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        posterior: Any
        for owner, posterior in [key for key in before if key[0] == id(optimizer)]:
            start, loc = before.pop((owner, posterior)), posterior.loc
            loc.copy_(torch.where(posterior.latent_mask(), torch.lerp(start, loc, factor), loc))

    handles = [register_optimizer_step_pre_hook(remember), register_optimizer_step_post_hook(lengthen)]
    try:
        yield model
    finally:
        for handle in handles:
            handle.remove()


def _with_latents(model: nn.Module) -> list[Any]:
    posteriors = (module for module in model.modules() if isinstance(module, WeightPosterior))
    return [posterior for posterior in posteriors if posterior.latent_mask() is not None]


def compile_posteriors(model: nn.Module, compiled: bool = True) -> int:
    """Draw decoded kernels, differentiate them and sum their KL in fused kernels made by torch.compile.

    The network itself stays eager. Numbers stay the same up to rounding, and so do the random draws of a
    seed. It pays for networks with many kernels: a 512-512 layer draws three times as fast; on layers of
    a few thousand kernels, calling compiled code costs what it saves. The first step waits about half a
    minute for the compiler, which must be installed (a C++ compiler on a CPU, Triton on a GPU); all
    layers of a prior share what is compiled. Under vmap and inside torch.compile of the network itself
    the plain formulas are used.

    Args:
        model: with Bayesian layers whose priors decode kernels (``klein-3x3`` and its kind); other posteriors
            are bound by their random numbers and are left as they are.
        compiled: False goes back.

    Returns:
        how many posteriors it concerns.

    Raises:
        TypeError: ``model`` is no module.

    Example:
        >>> import topoprior as tp
        >>> net = nn.Sequential(tp.BayesConv2d(1, 4, 3), nn.ReLU(), tp.BayesConv2d(4, 8, 3))
        >>> compile_posteriors(net)
        2
    """
    check_module(model)
    posteriors = [module for module in model.modules() if isinstance(module, WeightPosterior)]
    return sum(posterior.compile_(compiled) for posterior in posteriors)
