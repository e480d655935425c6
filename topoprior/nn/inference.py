"""Predictions: what a network, or an ensemble of networks, returns under draws of its weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from topoprior.nn.advice import warn_no_bayesian_layer, warn_probabilities
from topoprior.nn.base import BayesLayer
from topoprior.nn.batch_norm import norms_of, statistics_kept, update_bn, warn_old_statistics
from topoprior.nn.batches import Batch, Output, call, inputs_of, is_loader, map_tensors, pick, rows, split
from topoprior.nn.contexts import bayes_layers, draws_by_itself, evaluation, frozen_sample, posterior_mean
from topoprior.nn.weights_in_use import ROWS, Draws, InUse, Unfoldable, restored, tell
from topoprior.utils.checks import check_int, check_module
from topoprior.utils.real_module import REAL_DTYPES

# Draws x inputs in one pass when nothing is asked for: on a CPU, wider passes gain nothing.
_DEFAULT_ROWS = 64
# Weights that are drawn at a time, 16 MiB in float32: much larger tensors are fresh memory each time, which costs
# more than the drawing. It depends on the model alone, so that the draws do not depend on max_batch.
_DRAWN_WEIGHTS = 2**22


def predict(
    model: nn.Module | Sequence[nn.Module],
    x: Batch | Iterable[Any],
    num_samples: int = 32,
    *,
    max_batch: int | None = None,
    antithetic: bool = False,
    output: Output = None,
    bn_loader: Iterable[Any] | None = None,
) -> Tensor:
    r"""Class probabilities under draws of the weights: softmax for each draw, p(y | x, w_s), w_s ~ q.

    Their mean over the samples is the posterior predictive; :func:`~topoprior.predictive_entropy` and
    :func:`~topoprior.mutual_information` say how sure it is. The arguments and errors are those of
    :func:`sample_outputs`, the model returns logits (batch, classes, ...), classes in dimension 1 as for
    :func:`torch.nn.functional.cross_entropy`.

    Returns:
        (num_samples, batch, classes, ...), in float32 where the model computes in half precision; for M models
        (M * num_samples, batch, classes, ...).

    Raises:
        ValueError: also for a model that does not return at least two logits.

    Warns:
        UserWarning: the model returns probabilities; it has no Bayesian layer and its samples are all the same; it has
            been trained, and its batch normalization has statistics of training.

    Example:
        >>> import topoprior as tp
        >>> net = nn.Sequential(tp.BayesLinear(4, 8), nn.ReLU(), tp.BayesLinear(8, 3))
        >>> tp.predict(net, torch.randn(5, 4), num_samples=10).shape
        torch.Size([10, 5, 3])
    """
    return as_probabilities(_sample(model, x, num_samples, max_batch, antithetic, output, bn_loader))


def as_probabilities(logits: Tensor) -> Tensor:
    """Softmax over dimension 2 of what a network returned, in float32 at least; errors are those of :func:`predict`."""
    if logits.dtype not in REAL_DTYPES:
        raise TypeError(f"model: expected logits, floating-point numbers, found {logits.dtype}")
    if logits.dim() < 3 or logits.shape[2] < 2:
        raise ValueError(
            f"model: expected logits (batch, classes, ...) of 2 classes or more, found {tuple(logits.shape[1:])}; "
            "sample_outputs returns what the model returns, one logit wants sigmoid in place of softmax"
        )
    warn_probabilities(logits, 3)
    half = logits.dtype in (torch.float16, torch.bfloat16)
    return logits.softmax(2, dtype=torch.float32 if half else None)


def sample_outputs(
    model: nn.Module | Sequence[nn.Module],
    x: Batch | Iterable[Any],
    num_samples: int = 32,
    *,
    max_batch: int | None = None,
    antithetic: bool = False,
    output: Output = None,
    bn_loader: Iterable[Any] | None = None,
) -> Tensor:
    """What the model returns under draws of its weights, for regression or a likelihood of one's own.

    Weights are drawn for many samples at once and the samples folded into the batch: one pass of the
    network serves ``max_batch // batch`` draws, and each draw serves the whole batch, however it is split.
    Runs without gradients in evaluation mode and restores the mode it found. The same seed gives the same
    draws, whatever ``max_batch`` and the batch are.

    A module that mixes the examples of a batch, or draws random numbers of its own, sees the examples of
    several draws together; batch normalization in evaluation mode does neither. For such modules, and for
    a model whose first dimension is not the batch throughout, ``max_batch=len(x)`` gives each draw a pass
    of its own. A network whose draws are seen not to fold gets that too: one that is traced or exported, shows no
    Bayesian layer or uses one that it does not show, or gives a layer rows that are no multiple of the batch's.

    Args:
        model: takes ``x`` and returns a tensor (batch, ...). Inside :func:`posterior_mean` or
            :func:`frozen_sample` its samples are all the same. Several are an ensemble.
        x: (batch, ...); a tuple or list of what the model takes, or a dict of it by name; or a loader of
            such batches, of which a tuple or list counts by its first element, as in
            :func:`torch.optim.swa_utils.update_bn`. Draws serve all batches of a loader, which is read once,
            and are kept for it: ``num_samples`` times the weights.
        num_samples: draws of the weights, of each model.
        max_batch: rows, draws times inputs, in one pass, to bound memory; a larger batch is split. By
            default the batch or 64, whichever is more: no pass is larger than the deterministic one.
        antithetic: draw the noise in mirrored pairs, which cancels the error of the mean of whatever is
            odd in the noise.
        output: which part of what the model returns, if not a tensor: a key, such as "out" or "logits", an
            index, or a function of it.
        bn_loader: batches of training data, a few hundred examples. Each draw then has statistics of batch normalization of
            its own, made from them, and a pass of its own; those that the network has stay as they are. Draws shift
            the inputs of batch normalization, and with statistics that are means over draws predictions are
            less sure, and worse, than in training (docs/concepts/layers.md).

    Returns:
        (num_samples, batch, ...); for M models (M * num_samples, batch, ...), one model's after the other's.

    Raises:
        TypeError: ``model`` is no module, ``x`` has no tensor, ``num_samples`` or ``max_batch`` no int.
        ValueError: ``num_samples`` or ``max_batch`` below 1, an odd number of antithetic samples, or any with a ``bn_loader``;
            a ``bn_loader`` or loader that can be read only once where it is read for each draw; inputs of different length, no model, no batch, a model that does not return one row for each it is given.

    Warns:
        UserWarning: no Bayesian layer, and samples that are all the same; batch normalization with statistics of training.

    Example:
        >>> import topoprior as tp
        >>> sample_outputs(tp.BayesLinear(4, 1), torch.randn(5, 4), num_samples=10).std(0).shape
        torch.Size([5, 1])
    """
    return _sample(model, x, num_samples, max_batch, antithetic, output, bn_loader)


@torch.no_grad()
def _sample(
    model: nn.Module | Sequence[nn.Module],
    x: Batch | Iterable[Any],
    num_samples: int,
    max_batch: int | None,
    antithetic: bool,
    output: Output,
    bn_loader: Iterable[Any] | None = None,
) -> Tensor:
    models: list[Any] = list(model) if isinstance(model, list | tuple | nn.ModuleList) else [model]
    for each in models:
        check_module(each)
    if not models:
        raise ValueError("model: expected one or several, found none")
    num_samples = check_int("num_samples", num_samples)
    most = None if max_batch is None else check_int("max_batch", max_batch)
    if antithetic and num_samples % 2:
        raise ValueError(f"num_samples: antithetic samples come in pairs, found {num_samples}")
    if bn_loader is not None and any(map(norms_of, models)):
        return _sample_with_statistics(models, x, num_samples, max_batch, antithetic, output, bn_loader)
    for each in models:
        warn_old_statistics(each, 4)
    streamed = is_loader(x)
    if not streamed:
        rows(x)
    with ExitStack() as stack:
        samplers = [_Sampler(each, num_samples, antithetic) for each in models]
        for sampler in samplers:
            stack.enter_context(sampler.sampling(keep=streamed))
        device = next((p.device for p in models[0].parameters()), None)
        batches: Iterable[Any] = (inputs_of(batch, device) for batch in x) if streamed else [x]
        found = [torch.cat([s.outputs(batch, most, output) for s in samplers]) for batch in batches]
    if not found:
        raise ValueError("x: expected a loader of batches, found none in it")
    outputs = torch.cat(found, 1)
    for each, of_one in zip(models, outputs.split(num_samples), strict=True):
        # Whoever draws in ways that are not seen here gets no word.
        if (
            num_samples > 1
            and of_one.numel()
            and not bayes_layers(each)
            and torch.equal(of_one[0], of_one[1])
        ):
            warn_no_bayesian_layer(each, f"its {num_samples} samples are all the same", 4)
    return outputs


def _sample_with_statistics(
    models: list[nn.Module],
    x: Batch | Iterable[Any],
    num_samples: int,
    max_batch: int | None,
    antithetic: bool,
    output: Output,
    bn_loader: Iterable[Any],
) -> Tensor:
    """As :func:`_sample`, draw by draw, each with its statistics of batch normalization."""
    if antithetic:
        raise ValueError("antithetic: expected False with a bn_loader, found True")
    for name, loader in (("x", x), ("bn_loader", bn_loader)):
        if isinstance(loader, Iterator):
            raise ValueError(f"{name}: expected batches that can be read for each draw, found an iterator")
    found = []
    for model in models:
        with statistics_kept(model):
            for _ in range(num_samples):
                with frozen_sample(model):
                    update_bn(model, bn_loader)
                    found.append(_sample(model, x, 1, max_batch, False, output))
    return torch.cat(found)


class _Sampler:
    """Passes of one network with many draws of its weights."""

    def __init__(self, model: nn.Module, num_samples: int, antithetic: bool) -> None:
        self.model, self.num_samples, self.antithetic = model, num_samples, antithetic
        layers = bayes_layers(model)
        self.free = [layer for layer in layers if layer._in_use() == (False, None)]
        self.point = bool(layers) and all(layer.drawn is None and layer.is_point for layer in layers)
        self.folds = bool(layers) and not any(
            draws_by_itself(module) or isinstance(module, nn.DataParallel) for module in model.modules()
        )
        self.kept: list[list[Draws]] | None = None

    @contextmanager
    def sampling(self, *, keep: bool) -> Iterator[None]:
        """Evaluation mode. To ``keep`` is to draw once, for all batches to come."""
        with evaluation(self.model), restored(self.free):
            self.kept = list(self._draws()) if keep else None
            yield

    def _draws(self) -> Iterator[list[Draws]]:
        """Draws of every free layer, of as many samples at once as bounded memory allows."""
        for count in _draws_at_a_time(self.free, self.num_samples, self.antithetic):
            yield [layer.draw_samples(count, antithetic=self.antithetic) for layer in self.free]

    def outputs(self, batch: Batch, max_batch: int | None, output: Output) -> Tensor:
        """(num_samples, batch, ...)."""
        size = rows(batch)
        most = max(size, _DEFAULT_ROWS) if max_batch is None else max_batch
        if self.point:  # all draws are one: one pass
            with posterior_mean(self.model):
                passes = [_one_pass(self.model, part, 1, output) for part in split(batch, most)]
            return torch.cat(passes, 1).expand(self.num_samples, *[-1] * (passes[0].dim() - 1))
        draws_a_pass = max(1, most // max(1, size))
        parts = list(split(batch, most))
        found: list[Tensor] = []
        counts = _draws_at_a_time(self.free, self.num_samples, self.antithetic)
        for count, draws in zip(counts, self._draws() if self.kept is None else self.kept, strict=True):
            first = 0
            while first < count:
                samples = min(draws_a_pass if self.folds else 1, count - first)
                some = slice(first, first + samples)
                chosen = [(weight[some], None if bias is None else bias[some]) for weight, bias in draws]
                tell({layer: InUse(False, drawn) for layer, drawn in zip(self.free, chosen, strict=True)})
                try:
                    passes = [_one_pass(self.model, part, samples, output) for part in parts]
                except Unfoldable:
                    if samples == 1:
                        raise
                    self.folds = False  # from now on a pass for each draw
                    continue
                found.append(torch.cat(passes, 1))
                first += samples
        return torch.cat(found)


def _one_pass(model: nn.Module, batch: Batch, samples: int, output: Output) -> Tensor:
    """Every sample of the inputs in one pass, (samples, batch, ...)."""
    size = rows(batch)
    if samples > 1:
        batch = map_tensors(lambda x: x.expand(samples, *x.shape).flatten(0, 1), batch)
    entered = ROWS.set(samples * size if samples > 1 else 0)
    try:
        found = pick(call(model, batch), output)
    finally:
        ROWS.reset(entered)
    if found.shape[:1] != (samples * size,):
        raise ValueError(
            f"model: expected a tensor of {samples * size} rows, one an input, found {tuple(found.shape)}"
        )
    return found.unflatten(0, (samples, size))


def _draws_at_a_time(layers: list[BayesLayer], num_samples: int, antithetic: bool) -> list[int]:
    """How many samples to draw at once, so that their weights take bounded memory."""
    weights = sum(layer.weight_posterior.shape.numel() for layer in layers)
    most = max(1, _DRAWN_WEIGHTS // max(1, weights))
    if antithetic:
        most = max(2, most - most % 2)
    whole, rest = divmod(num_samples, most)
    return [most] * whole + [rest] * bool(rest)
