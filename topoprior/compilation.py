"""Compiled draws: what torch.compile gains, without compiling the network."""

from __future__ import annotations

from torch import nn

from topoprior.bayes_layer import check_module
from topoprior.decoder_posterior import DecoderPosterior


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
