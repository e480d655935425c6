"""Latents that learn faster than weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from topoprior.priors.decoded.posterior import DecoderPosterior, EuclideanDecoderPosterior
from topoprior.utils.checks import check_module, check_positive


@contextmanager
def faster_latents(model: nn.Module, factor: float) -> Iterator[nn.Module]:
    r"""Inside, the centers of latents are parameters in units of ``factor``: Adam moves them so many times as fast.

    Adam's steps have about the length of the learning rate in every coordinate, whatever the gradient. A
    weight is done after a small part of its scale; a latent has to cross much of a space of size 1, and in
    short trainings it does not. With factors of 10 to 60 the Klein prior learns from few images what with 1 it
    does not (docs/experiments.md). Amplitudes, all stds and other parameters keep their rates; gradients with
    respect to the weights, the KL, and the random draws are what they were. An optimizer without steps of its own
    length, such as SGD, moves the latents by ``factor`` squared.

    Train inside, then leave: the posteriors and their state_dict are then the usual ones. Inside, pickling a layer
    whose latents are faster raises torch's RuntimeError for parametrized modules, its state_dict has other names
    and units and loads inside such a context alone, and deep copies stop working when the context is left: copy and save
    outside.

    Args:
        model: with Bayesian layers whose priors decode kernels; all else stays as it is.
        factor: positive; 1 changes nothing.

    Raises:
        TypeError: ``model`` is no module, ``factor`` no number.
        ValueError: a factor that is not positive and finite.

    Example:
        >>> import topoprior as tp
        >>> net = tp.BayesConv2d(1, 4, 3)
        >>> with tp.faster_latents(net, 20):
        ...     optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
        ...     net(torch.randn(2, 1, 8, 8)).square().mean().backward()
        ...     optimizer.step()
    """
    check_module(model)
    factor = check_positive("factor", factor)
    posteriors: list[DecoderPosterior | EuclideanDecoderPosterior] = [
        module
        for module in model.modules()
        if isinstance(module, DecoderPosterior | EuclideanDecoderPosterior)
    ]
    changed = []
    try:
        for posterior in posteriors:
            parametrize.register_parametrization(posterior, "loc", _Units(_units(posterior, factor)))
            changed.append(posterior)
        yield model
    finally:
        for posterior in changed:
            parametrize.remove_parametrizations(posterior, "loc")


def _units(posterior: DecoderPosterior | EuclideanDecoderPosterior, factor: float) -> Tensor:
    units = torch.ones_like(posterior.loc)
    if isinstance(posterior, DecoderPosterior):
        units[: posterior.dim] = factor
    else:
        units[..., : posterior.prior.dim] = factor
    return units


class _Units(nn.Module):
    units: Tensor

    def __init__(self, units: Tensor) -> None:
        super().__init__()
        self.register_buffer("units", units)

    def forward(self, numbers: Tensor) -> Tensor:
        return numbers * self.units

    def right_inverse(self, values: Tensor) -> Tensor:
        return values / self.units


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
    posteriors = [module for module in model.modules() if isinstance(module, DecoderPosterior)]
    for posterior in posteriors:
        posterior.compiled = compiled
    return len(posteriors)
