"""Latents that learn faster than weights, and draws that are compiled."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from topoprior.priors.base import WeightPosterior
from topoprior.utils.checks import check_module, check_positive

# In the prior's units, where everything has size 1: lr of the weights within these bounds.
_LATENT_LR = 0.02, 0.03


def parameter_groups(
    model: nn.Module, lr: float, *, latent_lr: float | None = None, weight_decay: float = 0.0
) -> list[dict[str, Any]]:
    r"""Groups for an optimizer: latents with a learning rate of their own, posteriors without weight decay.

    Adam's steps have about the length of the learning rate in every coordinate, whatever the gradient. A weight of a
    layer with many inputs has size 0.1 or less; latents and amplitudes of decoded kernels are in their prior's units, of size 1
    in every layer, and at the rate of weights they stay behind: networks then have learned too little, and are less sure
    than they are right. SGD's steps follow the gradient, which is steep along latents: at the rate of weights they jump.
    With 0.02 to 0.03 both learn in the steps that nn.Conv2d needs (experiments/results/drop-in). Weight decay is a Gaussian
    prior, and a posterior is drawn to its prior by the KL already, so it concerns deterministic layers alone.

    Parameters, their names and order, and their gradients stay as they are; groups are ordinary ones.

    Args:
        model: any network.
        lr: learning rate.
        latent_lr: that of the centers of latents and their amplitudes, ``posterior.latent_parameters()``; by default
            ``lr``, but at least 0.02 and at most 0.03.
        weight_decay: of the parameters outside of posteriors.

    Returns:
        a list for ``torch.optim.Adam(groups)`` and its kind; every parameter once, no empty group.

    Raises:
        TypeError: ``model`` is no module, a rate no number.
        ValueError: a rate that is not positive, a negative ``weight_decay``.

    Example:
        >>> import topoprior as tp
        >>> net = nn.Sequential(tp.BayesConv2d(1, 4, 3), nn.Flatten(), nn.Linear(36, 2))
        >>> groups = tp.parameter_groups(net, 1e-3, latent_lr=2e-2, weight_decay=1e-4)
        >>> [(group["lr"], group["weight_decay"], len(group["params"])) for group in groups]
        [(0.001, 0.0001, 2), (0.001, 0.0, 3), (0.02, 0.0, 1)]
        >>> optimizer = torch.optim.AdamW(groups)
    """
    check_module(model)
    lr = check_positive("lr", lr)
    least, most = _LATENT_LR
    latent_lr = min(max(lr, least), most) if latent_lr is None else check_positive("latent_lr", latent_lr)
    weight_decay = check_positive("weight_decay", weight_decay, zero=True)
    posteriors = [module for module in model.modules() if isinstance(module, WeightPosterior)]
    of_posteriors = {id(p) for posterior in posteriors for p in posterior.parameters()}
    latent = {id(p) for posterior in posteriors for p in posterior.latent_parameters()}
    groups: list[dict[str, Any]] = [
        {"params": [], "lr": lr, "weight_decay": weight_decay},
        {"params": [], "lr": lr, "weight_decay": 0.0},
        {"params": [], "lr": latent_lr, "weight_decay": 0.0},
    ]
    for parameter in model.parameters():
        kind = 2 if id(parameter) in latent else int(id(parameter) in of_posteriors)
        groups[kind]["params"].append(parameter)
    return [group for group in groups if group["params"]]


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
    warnings.warn(
        "faster_latents is deprecated: torch.optim.Adam(topoprior.parameter_groups(model, lr, latent_lr=factor * lr)) "
        "makes latents learn faster through the optimizer's groups",
        DeprecationWarning,
        stacklevel=3,
    )
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
    """Draw decoded kernels and differentiate them in fused kernels made by torch.compile.

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
