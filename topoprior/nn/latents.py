"""Latents that learn faster than weights, and draws that are compiled."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from topoprior.priors.base import WeightPosterior
from topoprior.utils.checks import check_module, check_positive

# What a group of parameters that hold latents beside other numbers says of them, to any optimizer of torch.optim.
_LATENTS, _OTHERS = "latents", "lr_of_others"
# Values before a step, by optimizer.
_BEFORE: weakref.WeakKeyDictionary[torch.optim.Optimizer, list[Tensor]] = weakref.WeakKeyDictionary()


def parameter_groups(
    model: nn.Module, lr: float, *, latent_lr: float | None = None, weight_decay: float = 0.0
) -> list[dict[str, Any]]:
    r"""Groups for an optimizer: latents with a learning rate of their own, posteriors without weight decay.

    Adam's steps have about the length of the learning rate in every coordinate, whatever the gradient. A
    weight is done after a small part of its scale; a latent has to cross much of a space of size 1, and in
    short trainings it does not: ``latent_lr`` of 10 to 60 times ``lr`` is what the Klein prior learns from few images
    with (docs/experiments.md). Weight decay is a Gaussian prior, and a posterior is drawn to its prior by the KL
    already, so it concerns deterministic layers alone.

    Parameters, their names and order, and their gradients stay as they are. Schedulers see ordinary groups. Where one
    parameter holds latents beside amplitudes, its group has the rate of the latents; the group says which entries they
    are and how much shorter the other entries' steps have to be, and a step hook of torch.optim sees to it.

    Args:
        model: any network.
        lr: learning rate.
        latent_lr: that of the centers of latents; ``lr`` by default.
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
    latent_lr = lr if latent_lr is None else check_positive("latent_lr", latent_lr)
    weight_decay = check_positive("weight_decay", weight_decay, zero=True)
    posteriors = [module for module in model.modules() if isinstance(module, WeightPosterior)]
    of_posteriors = {id(p) for posterior in posteriors for p in posterior.parameters()}
    masks = {id(p.loc): _compact(p.latent_mask()) for p in _with_latents(model)} if latent_lr != lr else {}
    alone = {id(p) for posterior in posteriors for p in posterior.latent_parameters()}
    decaying: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    latent: list[nn.Parameter] = []
    mixed: list[nn.Parameter] = []
    for parameter in model.parameters():
        if id(parameter) in masks:
            mixed.append(parameter)
        elif id(parameter) in alone and latent_lr != lr:
            latent.append(parameter)
        else:
            (plain if id(parameter) in of_posteriors else decaying).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": decaying, "lr": lr, "weight_decay": weight_decay},
        {"params": plain, "lr": lr, "weight_decay": 0.0},
        {"params": latent, "lr": latent_lr, "weight_decay": 0.0},
        {
            "params": mixed,
            "lr": latent_lr,
            "weight_decay": 0.0,
            _LATENTS: [masks[id(parameter)] for parameter in mixed],
            _OTHERS: lr / latent_lr,
        },
    ]
    return [group for group in groups if group["params"]]


def _mixed(optimizer: torch.optim.Optimizer) -> Iterator[tuple[Tensor, Tensor, float]]:
    for group in optimizer.param_groups:
        for parameter, mask in zip(group["params"], group.get(_LATENTS, ()), strict=False):
            yield parameter, mask, group[_OTHERS]


def _remember(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    before = [parameter.detach().clone() for parameter, *_ in _mixed(optimizer)]
    if before:
        _BEFORE[optimizer] = before


@torch.no_grad()
def _shorten(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """The steps of what is no latent, to the length that its own learning rate gives."""
    before = _BEFORE.pop(optimizer, [])
    for start, (parameter, mask, part) in zip(before, _mixed(optimizer), strict=True):
        parameter.copy_(
            torch.where(mask.to(parameter.device), parameter, torch.lerp(start, parameter, part))
        )


register_optimizer_step_pre_hook(_remember)
register_optimizer_step_post_hook(_shorten)


def _compact(mask: Tensor) -> Tensor:
    """The mask with dimensions of size 1 where it is constant; it broadcasts to what it was."""
    for dim, size in enumerate(mask.shape):
        first = mask.narrow(dim, 0, min(1, size))
        if torch.equal(first.expand_as(mask), mask):
            mask = first
    return mask.clone()


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
