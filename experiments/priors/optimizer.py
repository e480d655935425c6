"""Which numbers learn how fast: the last layer, the convolutions' weights, the latents of decoded kernels.

One learning rate for latents and for weights suits one of them (see `tp.faster_latents`), so every method has a
second one, relative to the first: of the latents where kernels are decoded, of the convolutions' weights or their means
elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from experiments.priors.methods import Settings
from topoprior.nn.base import BayesLayer


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
            posterior: Any = module.weight_posterior
            if posterior.latent_mask() is None:
                yield posterior.loc
        elif isinstance(module, nn.Conv2d):
            yield module.get_parameter("weight")
        elif hasattr(
            module, "weight_sampler"
        ):  # BLiTZ, whose gradients go to a second parameter of the same numbers
            yield module.get_parameter("weight_sampler.mu")
