"""Contexts that fix which weights a network uses, and the mode that it predicts in."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from topoprior.nn.base import BayesLayer
from topoprior.nn.weights_in_use import InUse, restored, tell
from topoprior.utils.checks import check_module


def bayes_layers(model: nn.Module) -> list[BayesLayer]:
    """The Bayesian layers of a model, each once; a :class:`TypeError` where ``model`` is no module."""
    check_module(model)
    return [module for module in model.modules() if isinstance(module, BayesLayer)]


@contextmanager
def posterior_mean(model: nn.Module) -> Iterator[nn.Module]:
    """Inside, every Bayesian layer of ``model`` uses the mean of its weights instead of a draw.

    Example:
        >>> import torch
        >>> import topoprior as tp
        >>> net, x = tp.BayesLinear(4, 2), torch.ones(3, 4)
        >>> with posterior_mean(net):
        ...     torch.equal(net(x), net(x))
        True
    """
    layers = bayes_layers(model)
    with restored(layers):
        tell(dict.fromkeys(layers, InUse(use_mean=True)))
        yield model


@contextmanager
def frozen_sample(model: nn.Module) -> Iterator[nn.Module]:
    """Inside, all forward passes of ``model`` use one and the same draw of its weights.

    For a function drawn from the posterior that is to be evaluated many times: a whole test set, a curve, a
    Jacobian. Gradients reach the posterior; several backward passes through the one draw need
    ``retain_graph=True``. Of nested contexts, also :func:`posterior_mean`, the innermost counts.

    Example:
        >>> import torch
        >>> import topoprior as tp
        >>> net, x = tp.BayesLinear(4, 2), torch.ones(3, 4)
        >>> with frozen_sample(net):
        ...     torch.equal(net(x), net(x))
        True
    """
    layers = bayes_layers(model)
    with restored(layers):
        tell(dict.fromkeys(layers, InUse(use_mean=False)))
        for layer in layers:
            layer.draw_samples(1)
        yield model


# Modules in evaluation mode because somebody predicts: by how many, and the mode to put back. torch keeps the mode on
# the module, so threads that predict have to share it.
_EVALUATED: dict[nn.Module, tuple[int, bool]] = {}
_LOCK = threading.Lock()


@contextmanager
def evaluation(model: nn.Module) -> Iterator[None]:
    """Evaluation mode; the last of the threads that ask for it puts the mode of every module back."""
    modules = list(model.modules())
    with _LOCK:
        for module in modules:
            count, mode = _EVALUATED.get(module, (0, module.training))
            _EVALUATED[module] = count + 1, mode
        try:
            model.eval()
        except NotImplementedError:  # what torch.export returns has one mode
            for module in modules:
                module.training = False
    try:
        yield
    finally:
        with _LOCK:
            for module in modules:
                count, mode = _EVALUATED.pop(module)
                if count > 1:
                    _EVALUATED[module] = count - 1, mode
                else:
                    module.training = mode
