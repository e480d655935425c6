"""Statistics of batch normalization, made again for the weights as they are."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from topoprior.nn.batches import call, inputs_of, is_empty
from topoprior.nn.contexts import bayes_layers
from topoprior.utils.checks import check_int, check_module

# Of batch normalizations whose statistics `update_bn` has made: how many batches they had seen then.
_MADE: weakref.WeakKeyDictionary[_BatchNorm, int] = weakref.WeakKeyDictionary()


def norms_of(model: nn.Module) -> list[_BatchNorm]:
    """Batch normalizations that predict with running statistics."""
    return [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]


def warn_old_statistics(model: nn.Module, stacklevel: int) -> None:
    """Of a network that was trained here (its posteriors have gradients) and has the statistics of training."""
    layers = bayes_layers(model)
    trained = any(
        p.grad is not None for layer in layers for q in layer.posteriors() for p in q.parameters()
    )
    if trained and any(_MADE.get(norm) != _batches(norm) for norm in norms_of(model)):
        warnings.warn(
            "model: its batch normalization has statistics of training, means over the last steps and their draws, which are older "
            "than the weights and suit no draw; give a bn_loader (a few hundred training examples), or call "
            "topoprior.update_bn(model, loader) first",
            stacklevel=stacklevel + 1,
        )


def _batches(norm: _BatchNorm) -> int:
    assert norm.num_batches_tracked is not None  # of a norm with running statistics
    return int(norm.num_batches_tracked)


@contextmanager
def statistics_kept(model: nn.Module) -> Iterator[None]:
    """Running statistics afterwards are those of before."""
    kept = [(norm, {n: b.clone() for n, b in norm.named_buffers()}) for norm in norms_of(model)]
    made = {norm: _MADE.get(norm, -1) for norm, _ in kept}
    try:
        yield
    finally:
        _MADE.update(made)
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
        _MADE.update({norm: _batches(norm) for norm in norms})
    except BaseException:
        for norm, buffers in zip(norms, kept, strict=True):
            norm.load_state_dict(buffers, strict=False)
        raise
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, mode in modes:
            module.training = mode
