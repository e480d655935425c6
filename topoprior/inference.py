"""Functions of a whole model: its KL, predictions, its posterior mean."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from topoprior.layers import BayesLayer


def bayes_layers(model: nn.Module) -> list[BayesLayer]:
    """The Bayesian layers of a model, each once."""
    return [module for module in model.modules() if isinstance(module, BayesLayer)]


def kl_divergence(model: nn.Module) -> Tensor:
    """Sum over the Bayesian layers of KL(posterior || prior): a scalar, in nats, in closed form.

    The loss of variational inference is the mean negative log likelihood plus this over the number of
    training examples. A model without Bayesian layers has KL 0.

    Example:
        >>> import topoprior as tp
        >>> net = nn.Sequential(tp.BayesLinear(4, 8), nn.ReLU(), tp.BayesLinear(8, 2))
        >>> bool(kl_divergence(net) > 0)
        True
    """
    kls = [layer.kl() for layer in bayes_layers(model)]
    if not kls:
        return torch.zeros(())
    return torch.stack([kl.to(kls[0]) for kl in kls]).sum()


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
    before = [layer.use_mean for layer in layers]
    for layer in layers:
        layer.use_mean = True
    try:
        yield model
    finally:
        for layer, value in zip(layers, before, strict=True):
            layer.use_mean = value


@torch.no_grad()
def predict(model: nn.Module, x: Tensor, num_samples: int = 32, *, max_batch: int | None = None) -> Tensor:
    """Class probabilities under ``num_samples`` draws of the weights, (num_samples, batch, classes).

    Their mean over the samples is the posterior predictive. Runs in evaluation mode and restores the
    mode it found.

    Args:
        model: returns logits (batch, classes).
        x: (batch, ...).
        num_samples: draws of the weights, each used for the whole batch.
        max_batch: inputs in one pass, to bound memory; default all.

    Raises:
        ValueError: ``num_samples`` or ``max_batch`` below 1.
    """
    for name, value in (("num_samples", num_samples), ("max_batch", max_batch)):
        if value is not None and value < 1:
            raise ValueError(f"{name}: expected at least 1, found {value}")
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        if max_batch is None or max_batch >= len(x):
            return torch.stack([model(x).softmax(-1) for _ in range(num_samples)])
        return _predict_in_parts(model, x.split(max_batch), num_samples)
    finally:
        for module, mode in modes:
            module.training = mode


def _predict_in_parts(model: nn.Module, parts: tuple[Tensor, ...], num_samples: int) -> Tensor:
    """Every draw must serve all parts: repeat it by restoring the random state before each part."""
    rows = []
    for _ in range(num_samples):
        device = parts[0].device
        devices = [device] if device.type == "cuda" else []
        outputs = []
        for i, part in enumerate(parts):
            if i < len(parts) - 1:
                with torch.random.fork_rng(devices):
                    outputs.append(model(part).softmax(-1))
            else:
                outputs.append(model(part).softmax(-1))
        rows.append(torch.cat(outputs))
    return torch.stack(rows)
