"""Functions of a whole model: predictions, its KL, and contexts that fix which weights it uses."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from topoprior.nn.base import BayesLayer
from topoprior.nn.weights_in_use import InUse, restored, tell
from topoprior.utils.checks import check_int, check_module

# Draws x inputs in one pass when nothing is asked for: on a CPU, wider passes gain nothing.
_DEFAULT_ROWS = 64
# Weights that are drawn at a time, 16 MiB in float32: much larger tensors are fresh memory each time, which costs
# more than the drawing. It depends on the model alone, so that the draws do not depend on max_batch.
_DRAWN_WEIGHTS = 2**22


def bayes_layers(model: nn.Module) -> list[BayesLayer]:
    """The Bayesian layers of a model, each once; a :class:`TypeError` where ``model`` is no module."""
    check_module(model)
    return [module for module in model.modules() if isinstance(module, BayesLayer)]


# --- which weights a forward pass uses -------------------------------------------------------


@contextmanager
def posterior_mean(model: nn.Module) -> Iterator[nn.Module]:
    """Inside, every Bayesian layer of ``model`` uses the mean of its weights instead of a draw.

    Example:
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
def _evaluation(model: nn.Module) -> Iterator[None]:
    """Evaluation mode; the last of the threads that ask for it puts the mode of every module back."""
    modules = list(model.modules())
    with _LOCK:
        for module in modules:
            count, mode = _EVALUATED.get(module, (0, module.training))
            _EVALUATED[module] = count + 1, mode
        model.eval()
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


# --- predictions -----------------------------------------------------------------------------


def predict(
    model: nn.Module,
    x: Tensor,
    num_samples: int = 32,
    *,
    max_batch: int | None = None,
    antithetic: bool = False,
) -> Tensor:
    r"""Class probabilities under draws of the weights: softmax for each draw, p(y | x, w_s), w_s ~ q.

    Their mean over the samples is the posterior predictive; :func:`~topoprior.predictive_entropy` and
    :func:`~topoprior.mutual_information` say how sure it is. The arguments and errors are those of
    :func:`sample_outputs`, the model returns logits (batch, classes, ...), classes in dimension 1 as for
    :func:`torch.nn.functional.cross_entropy`.

    Returns:
        (num_samples, batch, classes, ...), in float32 where the model computes in half precision.

    Raises:
        ValueError: also for a model that does not return at least two logits.

    Example:
        >>> import topoprior as tp
        >>> net = nn.Sequential(tp.BayesLinear(4, 8), nn.ReLU(), tp.BayesLinear(8, 3))
        >>> tp.predict(net, torch.randn(5, 4), num_samples=10).shape
        torch.Size([10, 5, 3])
    """
    logits = sample_outputs(model, x, num_samples, max_batch=max_batch, antithetic=antithetic)
    if logits.dim() < 3 or logits.shape[2] < 2:
        raise ValueError(
            f"model: expected logits (batch, classes, ...) of 2 classes or more, found {tuple(logits.shape[1:])}; "
            "sample_outputs returns what the model returns"
        )
    half = logits.dtype in (torch.float16, torch.bfloat16)
    return logits.softmax(2, dtype=torch.float32 if half else None)


@torch.no_grad()
def sample_outputs(
    model: nn.Module,
    x: Tensor,
    num_samples: int = 32,
    *,
    max_batch: int | None = None,
    antithetic: bool = False,
) -> Tensor:
    """What the model returns under draws of its weights, for regression or a likelihood of one's own.

    Weights are drawn for many samples at once and the samples folded into the batch: one pass of the
    network serves ``max_batch // batch`` draws, and each draw serves the whole batch, however it is split.
    Runs without gradients in evaluation mode and restores the mode it found. The same seed gives the same
    draws, whatever ``max_batch`` and the batch are.

    A module that mixes the examples of a batch, or draws random numbers of its own, sees the examples of
    several draws together; batch normalization in evaluation mode does neither. For such modules, and for
    a model whose first dimension is not the batch throughout, ``max_batch=len(x)`` gives each draw a pass
    of its own.

    Args:
        model: takes ``x`` and returns a tensor (batch, ...). Inside :func:`posterior_mean` or
            :func:`frozen_sample` its samples are all the same.
        x: (batch, ...).
        num_samples: draws of the weights.
        max_batch: rows, draws times inputs, in one pass, to bound memory; a larger batch is split. By
            default the batch or 64, whichever is more: no pass is larger than the deterministic one.
        antithetic: draw the noise in mirrored pairs, which cancels the error of the mean of whatever is
            odd in the noise.

    Returns:
        (num_samples, batch, ...).

    Raises:
        TypeError: ``model`` is no module, ``x`` no tensor, ``num_samples`` or ``max_batch`` no int.
        ValueError: ``num_samples`` or ``max_batch`` below 1, an odd number of antithetic samples, a model
            that does not return one row for each it is given.

    Example:
        >>> import topoprior as tp
        >>> sample_outputs(tp.BayesLinear(4, 1), torch.randn(5, 4), num_samples=10).std(0).shape
        torch.Size([5, 1])
    """
    check_module(model)
    num_samples, rows = _checked(x, num_samples, max_batch, antithetic)
    layers = bayes_layers(model)
    if layers and all(layer.drawn is None and layer.is_point for layer in layers):
        with posterior_mean(model), _evaluation(model):  # all draws are one: one pass
            output = torch.cat([_one_pass(model, part, 1) for part in x.split(rows)], 1)
        return output.expand(num_samples, *output.shape[1:])
    draws_a_pass = max(1, rows // max(1, len(x)))
    parts = x.split(rows)
    outputs: list[Tensor] = []
    free = [layer for layer in bayes_layers(model) if layer._in_use() == (False, None)]
    with _evaluation(model), restored(free):
        for count in _draws_at_a_time(free, num_samples, antithetic):
            draws = [layer.draw_samples(count, antithetic=antithetic) for layer in free]
            for first in range(0, count, draws_a_pass):
                samples = min(draws_a_pass, count - first)
                some = slice(first, first + samples)
                chosen = [(weight[some], None if bias is None else bias[some]) for weight, bias in draws]
                tell({layer: InUse(False, drawn) for layer, drawn in zip(free, chosen, strict=True)})
                outputs.append(torch.cat([_one_pass(model, part, samples) for part in parts], 1))
    return torch.cat(outputs)


def _one_pass(model: nn.Module, x: Tensor, samples: int) -> Tensor:
    """Every sample of the inputs in one pass, (samples, batch, ...)."""
    folded = x if samples == 1 else x.expand(samples, *x.shape).flatten(0, 1)
    output = model(folded)
    if not isinstance(output, Tensor) or output.shape[:1] != folded.shape[:1]:
        found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(f"model: expected a tensor of {len(folded)} rows, one an input, found {found}")
    return output.unflatten(0, (samples, len(x)))


def _draws_at_a_time(layers: list[BayesLayer], num_samples: int, antithetic: bool) -> list[int]:
    """How many samples to draw at once, so that their weights take bounded memory."""
    weights = sum(layer.weight_posterior.shape.numel() for layer in layers)
    most = max(1, _DRAWN_WEIGHTS // max(1, weights))
    if antithetic:
        most = max(2, most - most % 2)
    whole, rest = divmod(num_samples, most)
    return [most] * whole + [rest] * bool(rest)


def _checked(x: Tensor, num_samples: int, max_batch: int | None, antithetic: bool) -> tuple[int, int]:
    """Samples and rows in a pass, once the arguments are in order."""
    if not isinstance(x, Tensor):
        raise TypeError(f"x: expected a tensor (batch, ...), found {type(x).__name__}")
    if x.dim() == 0:
        raise ValueError("x: expected shape (batch, ...), found a scalar")
    num_samples = check_int("num_samples", num_samples)
    most = None if max_batch is None else check_int("max_batch", max_batch)
    if antithetic and num_samples % 2:
        raise ValueError(f"num_samples: antithetic samples come in pairs, found {num_samples}")
    return num_samples, max(len(x), _DEFAULT_ROWS) if most is None else most
