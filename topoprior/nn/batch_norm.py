"""Statistics of batch normalization, made again for the weights as they are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from topoprior.nn.batches import call, inputs_of, is_empty
from topoprior.utils.checks import check_int, check_module


def norms_of(model: nn.Module) -> list[_BatchNorm]:
    """Batch normalizations that predict with running statistics."""
    return [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]


@contextmanager
def statistics_kept(model: nn.Module) -> Iterator[None]:
    """Running statistics afterwards are those of before."""
    kept = [(norm, {n: b.clone() for n, b in norm.named_buffers()}) for norm in norms_of(model)]
    try:
        yield
    finally:
        for norm, buffers in kept:
            norm.load_state_dict(buffers, strict=False)


@torch.no_grad()
def update_bn(model: nn.Module, loader: Iterable[Any], num_samples: int = 1) -> None:
    r"""Make the running means and variances of batch normalization again, over draws of the weights.

    During training they are averages over the last draws *and* the last steps, and lag behind weights that move fast;
    predictions in evaluation mode suffer. Afterwards they are equally weighted averages over all batches and
    ``num_samples`` draws for each, as in :func:`torch.optim.swa_utils.update_bn`, of which this is the Bayesian
    counterpart. Draws shift the statistics, though, and one mean over them suits no draw: ``predict(..., bn_loader=)`` gives each
    draw its own. Inside :func:`~topoprior.posterior_mean` they are those of the mean weights. The network runs in training
    mode and is put back into the modes that it had.

    Args:
        model: without batch normalization, nothing is done.
        loader: batches as :func:`~topoprior.predict` takes them, of the training data.
        num_samples: draws of the weights for each batch.

    Raises:
        TypeError: ``model`` is no module, ``num_samples`` no int.
        ValueError: ``num_samples`` below 1, a loader without batches, or of empty ones; the statistics then are as before.

    Example:
        >>> import topoprior as tp
        >>> net = nn.Sequential(tp.BayesConv2d(1, 4, 3), nn.BatchNorm2d(4))
        >>> images = torch.randn(32, 1, 8, 8)
        >>> tp.update_bn(net, torch.utils.data.DataLoader(images, 8), num_samples=4)
        >>> int(net[1].num_batches_tracked)
        16
    """
    check_module(model)
    num_samples = check_int("num_samples", num_samples)
    norms = norms_of(model)
    if not norms:
        return
    modes = [(module, module.training) for module in model.modules()]
    momenta = [norm.momentum for norm in norms]
    kept = [{name: buffer.clone() for name, buffer in norm.named_buffers()} for norm in norms]
    device = next((p.device for p in model.parameters()), None)
    done = False
    try:
        model.train()
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # to torch: the average of all batches
        for batch in loader:
            inputs = inputs_of(batch, device)
            if is_empty(inputs):  # torch would count a mean of nothing, 0, like any other
                continue
            for _ in range(num_samples):
                call(model, inputs)
            done = True
        if not done:
            raise ValueError("loader: expected batches, found none")
    except BaseException:
        for norm, buffers in zip(norms, kept, strict=True):
            norm.load_state_dict(buffers, strict=False)
        raise
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, mode in modes:
            module.training = mode
