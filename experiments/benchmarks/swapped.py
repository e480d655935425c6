"""Layers that a user may put in place of nn.Conv2d, each with its library's defaults, or with options of ours.

"klein-3x3" is a layer as it comes. "klein-3x3 init_scale=0.01 latent_lr=0.03" is a candidate: options of the prior, and two of the
loop: `latent_lr` of `tp.parameter_groups`, and the `temperature` of the KL.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

from torch import Tensor, nn

import topoprior as tp
from experiments.benchmarks import peers
from experiments.benchmarks.peers import Peer
from experiments.benchmarks.recipes import RATES, Groups

PRIORS = (
    "klein-3x3",
    "gaussian",
    "klein-natural-3x3",
    "circle-3x3",
    "torus-3x3",
    "euclidean-3x3",
    "laplace",
    "scale-mixture",
)
_PEERS = {
    "nn.Conv2d": (peers.REFERENCE, "torch"),
    "BLiTZ": (peers.BLITZ, "blitz-bayesian-pytorch"),
    "bayesian-torch": ("bayesian-torch Reparameterization", "bayesian-torch"),
    "torch-uncertainty": ("torch-uncertainty BayesConv2d", "torch-uncertainty"),
}
LAYERS = ("nn.Conv2d", "klein-3x3", "gaussian", "BLiTZ", "bayesian-torch", "torch-uncertainty", *PRIORS[2:])


@dataclass(frozen=True)
class Swapped:
    """A kind of layer in the loop that its documentation shows.

    defaults: what decides its results beside the code: a library's version, the options of a prior.
    latent_lr: the learning rate of latents, by recipe.
    """

    peer: Peer
    defaults: dict[str, Any]
    groups: Groups
    temperature: float = 1.0
    ours: bool = False
    draws: bool = True
    latent_lr: Mapping[str, float] = field(default_factory=dict)

    def defaults_in(self, recipe: str) -> dict[str, Any]:
        """The defaults that decide a run by this recipe."""
        rate = {"latent_lr": self.latent_lr[recipe]} if self.latent_lr else {}
        return self.defaults | rate

    def kl(self, net: nn.Module) -> Tensor | float:
        return self.temperature * self.peer.kl(net)


def make(name: str) -> Swapped:
    """Raises ValueError for a name or an option that does not exist, ImportError for a library that is not installed."""
    kind, *options = name.split()
    if kind in _PEERS:
        if options:
            raise ValueError(f"--layers {name}: options are for priors of topoprior")
        peer, package = _PEERS[kind]
        version = {"version": metadata.version(package)}
        return Swapped(
            peers.get(peer),
            version,
            lambda net, lr, decay: list(net.parameters()),
            draws=kind != "nn.Conv2d",
        )
    chosen: dict[str, float] = {}
    for option in options:
        key, _, value = option.partition("=")
        try:
            chosen[key] = float(value)
        except ValueError:
            raise ValueError(f"--layers {name}: {option}: expected KEY=NUMBER") from None
    latent_lr, temperature = chosen.pop("latent_lr", None), chosen.pop("temperature", 1.0)
    try:
        prior = tp.get_prior(kind)
        if chosen:
            again = getattr(type(prior), "from_pretrained", None)
            prior = again(kind, **chosen) if again else type(prior)(**chosen)
    except (TypeError, ValueError) as error:
        raise ValueError(f"--layers {name}: {error}") from None

    def groups(net: nn.Module, lr: float, decay: float) -> list[dict[str, Any]]:
        return tp.parameter_groups(net, lr, latent_lr=latent_lr, weight_decay=decay)

    def convolution(inputs: int, outputs: int) -> nn.Module:
        return tp.BayesConv2d(inputs, outputs, 3, padding=1, prior=prior)

    def default_rate(lr: float) -> float:
        return tp.parameter_groups(convolution(1, 1), lr)[-1]["lr"]

    scales = {
        key: getattr(prior, key) for key in ("init_scale", "init_latent_scale") if hasattr(prior, key)
    }
    defaults = {**scales, "statistics": "of draws", "temperature": temperature}
    rates = {recipe: latent_lr or default_rate(lr) for recipe, lr in RATES.items()}
    ours = Peer(convolution, tp.kl_divergence)
    return Swapped(ours, defaults, groups, temperature, ours=True, latent_lr=rates)
