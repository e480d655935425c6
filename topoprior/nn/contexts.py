"""Contexts that fix which weights a network uses, and the mode that it predicts in."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from topoprior.nn.base import BayesLayer
from topoprior.nn.sharded import gathered
from topoprior.nn.weights_in_use import InUse, restored, tell
from topoprior.priors.joint import rsample_all
from topoprior.utils.checks import check_module


def bayes_layers(model: nn.Module) -> list[BayesLayer]:
    """The Bayesian layers of a model, each once; a :class:`TypeError` where ``model`` is no module."""
    check_module(model)
    return [module for module in model.modules() if isinstance(module, BayesLayer)]


def draws_by_itself(module: nn.Module) -> bool:
    """Whether a module may draw weights without calling a layer: traced or scripted, or a graph with no layer left in it."""
    if isinstance(module, torch.fx.GraphModule):  # of torch.export
        return not bayes_layers(module)
    return isinstance(module, torch.jit.ScriptModule)


def _layers_told(model: nn.Module, context: str) -> list[BayesLayer]:
    """The Bayesian layers; a word where there may be more than they."""
    layers = bayes_layers(model)
    if any(map(draws_by_itself, model.modules())):
        warnings.warn(
            f"model: {context} does not reach a part that is traced or exported, which goes on to draw as it did when it "
            "was made; trace or export it inside the context",
            stacklevel=4,
        )
    return layers


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
    layers = _layers_told(model, "posterior_mean")
    with restored(layers):
        tell(dict.fromkeys(layers, InUse(use_mean=True)))
        yield model


@contextmanager
def frozen_sample(model: nn.Module) -> Iterator[nn.Module]:
    """Inside, all forward passes of ``model`` use one and the same draw of its weights.

    For a function drawn from the posterior that is to be evaluated many times: a whole test set, a curve, a
    Jacobian. Gradients reach the posterior; several backward passes through the one draw need
    ``retain_graph=True``. Of nested contexts, also :func:`posterior_mean`, the innermost counts.

    The layers are drawn together, so in a network of many small layers a step of training inside of the context, a new one
    each step, is faster than one in which every layer draws when it runs (docs/development/speed.md).

    Example:
        >>> import torch
        >>> import topoprior as tp
        >>> net, x = tp.BayesLinear(4, 2), torch.ones(3, 4)
        >>> with frozen_sample(net):
        ...     torch.equal(net(x), net(x))
        True
        >>> with frozen_sample(net):  # a step of training
        ...     tp.elbo_loss(net(x), torch.tensor([0, 1, 1]), net, num_data=100).backward()
    """
    layers = _layers_told(model, "frozen_sample")
    with restored(layers):
        tell(_drawn(layers))
        yield model


def _drawn(layers: list[BayesLayer]) -> dict[nn.Module, InUse | None]:
    """One draw for each layer, made together."""
    posteriors = [posterior for layer in layers for posterior in layer.posteriors()]
    with gathered(posteriors):
        draws = (draw.unsqueeze(0) for draw in rsample_all(posteriors))
        return {
            layer: InUse(False, (next(draws), None if layer.bias_posterior is None else next(draws)))
            for layer in layers
        }


# Modules in evaluation mode because somebody predicts: by how many, and the mode to put back. torch keeps the mode on
# the module, so threads that predict have to share it.
_EVALUATED: dict[nn.Module, tuple[int, bool]] = {}
_LOCK = threading.Lock()


@contextmanager
def evaluation(model: nn.Module) -> Iterator[None]:
    """Evaluation mode; the last of the threads that ask for it puts the mode of every module back."""
    modules = [m for m in model.modules() if hasattr(m, "training")]  # torch.jit.freeze leaves none
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
