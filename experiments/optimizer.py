"""Which numbers learn how fast: the last layer, the convolutions' weights, the latents of decoded kernels.

Adam's steps have about the length of the learning rate, whatever the scale of a gradient. Latents live on a space of
size 1 and have to cross much of it; a weight's mean is done after a small part of that. One learning rate for
both suits one of them, so every method has a second one, relative to the first: of the latents where kernels are
decoded, of the convolutions' weights or their means elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from experiments.methods import Settings
from topoprior.bayes_layer import BayesLayer
from topoprior.decoder_posterior import DecoderPosterior
from topoprior.latent_posterior import EuclideanDecoderPosterior


def make_optimizer(network: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    """AdamW. Weight decay for deterministic layers only: a posterior is drawn to its prior by the KL."""
    decaying = {
        id(p)
        for module in network.modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
        for p in module.parameters()
    }
    relative = {id(p) for p in _weights(network)}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for parameter in network.parameters():
        kind = id(parameter) in decaying, id(parameter) in relative
        groups.setdefault(kind, []).append(parameter)
    return torch.optim.AdamW(
        {
            "params": parameters,
            "lr": settings.learning_rate * (settings.relative_rate if is_weight else 1),
            "weight_decay": settings.weight_decay if decays else 0.0,
        }
        for (decays, is_weight), parameters in groups.items()
    )


def _weights(network: nn.Module) -> Iterator[nn.Parameter]:
    """Weights of convolutions, or the means of their posteriors."""
    for module in network.modules():
        if isinstance(module, BayesLayer):
            posterior = module.weight_posterior
            if not isinstance(posterior, DecoderPosterior | EuclideanDecoderPosterior):
                yield posterior.loc
        elif isinstance(module, nn.Conv2d):
            yield module.weight
        elif hasattr(module, "weight_mu"):  # BLiTZ
            yield module.weight_mu


@contextmanager
def scaled_latents(network: nn.Module, factor: float) -> Iterator[None]:
    """Inside, latents are parameters in units of ``factor``: Adam moves them so many times as fast."""
    posteriors = [
        layer.weight_posterior
        for layer in network.modules()
        if isinstance(layer, BayesLayer)
        and isinstance(layer.weight_posterior, DecoderPosterior | EuclideanDecoderPosterior)
    ]
    for posterior in posteriors:
        units = torch.ones_like(posterior.loc)
        if isinstance(posterior, DecoderPosterior):
            units[: posterior.dim] = factor
        else:
            units[..., : posterior.prior.dim] = factor
        parametrize.register_parametrization(posterior, "loc", _Units(units))
    try:
        yield
    finally:
        for posterior in posteriors:
            parametrize.remove_parametrizations(posterior, "loc")


class _Units(nn.Module):
    units: Tensor

    def __init__(self, units: Tensor) -> None:
        super().__init__()
        self.register_buffer("units", units)

    def forward(self, numbers: Tensor) -> Tensor:
        return numbers * self.units

    def right_inverse(self, values: Tensor) -> Tensor:
        return values / self.units
