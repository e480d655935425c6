"""The same convolution, 3x3 with padding 1, from every library that `layers.py` compares."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import topoprior as tp

REFERENCE = "nn.Conv2d"
COMPILED = "topoprior klein-3x3, compiled draws"
TOGETHER = "topoprior klein-3x3, drawn together"
OURS = ("topoprior klein-3x3", "topoprior gaussian", COMPILED)
FROZEN = "topoprior klein-3x3, freeze_draws"
BLITZ = "BLiTZ BayesianConv2d"


@dataclass(frozen=True)
class Peer:
    """How to make a layer, how to get the KL after a forward pass, and the network's container."""

    convolution: Callable[[int, int], nn.Module]
    kl: Callable[[nn.Module], Tensor | float]
    container: Callable[..., nn.Sequential] = nn.Sequential


def network(peer: Peer, classes: int = 10) -> nn.Sequential:
    """64-128-256 channels, for images (N, 3, 32, 32); the last layer is deterministic for all."""
    return peer.container(
        peer.convolution(3, 64), nn.ReLU(), nn.MaxPool2d(2),
        peer.convolution(64, 128), nn.ReLU(), nn.MaxPool2d(2),
        peer.convolution(128, 256), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(256, classes),
    )  # fmt: skip


def deep_network(peer: Peer, classes: int = 10) -> nn.Sequential:
    """18 convolutions of 16 channels, as many as the first stage of a ResNet-56 has: operations are many and small."""
    layers: list[nn.Module] = [peer.convolution(3, 16), nn.ReLU()]
    for _ in range(17):
        layers += [peer.convolution(16, 16), nn.ReLU()]
    return peer.container(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, classes))


def available(compiled: bool = True) -> tuple[dict[str, Peer], dict[str, str]]:
    """The peers that are installed, and why the others are missing; ours ``compiled`` takes its time at first."""
    peers, missing = {}, {}
    for name, load in _LOADERS.items():
        if name == COMPILED and not compiled:
            continue
        try:
            peers[name] = load()
        except ImportError as error:
            missing[name] = f"not installed ({error})"
    return peers, missing


def get(name: str) -> Peer:
    return _LOADERS[name]()


class _KeepsKl(nn.Module):
    """bayesian-torch's layers return (output, KL): pass the output on, keep the KL."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.kl = torch.zeros(())

    def forward(self, x: Tensor) -> Tensor:
        output, self.kl = self.layer(x)
        return output


class _DrawnTogether(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        with tp.frozen_sample(self):
            output: Tensor = super().forward(x)
            return output


def _plain() -> Peer:
    return Peer(lambda i, o: nn.Conv2d(i, o, 3, padding=1), lambda net: 0.0)


def _ours(prior: str, container: type[nn.Sequential] = nn.Sequential) -> Callable[[], Peer]:
    def convolution(inputs: int, outputs: int) -> nn.Module:
        return tp.BayesConv2d(inputs, outputs, 3, padding=1, prior=prior)

    return lambda: Peer(convolution, tp.kl_divergence, container)


def _compiled() -> Peer:
    if not any(map(shutil.which, ("c++", "g++", "clang++"))):
        raise ImportError("no C++ compiler")

    def convolution(inputs: int, outputs: int) -> nn.Module:
        layer = tp.BayesConv2d(inputs, outputs, 3, padding=1, prior="klein-3x3")
        tp.compile_posteriors(layer)
        return layer

    return Peer(convolution, tp.kl_divergence)


def _blitz() -> Peer:
    from blitz.modules import BayesianConv2d
    from blitz.utils import variational_estimator

    @variational_estimator
    class BlitzSequential(nn.Sequential):
        """A sequence with BLiTZ's methods."""

    def kl(net: Any) -> Tensor:
        return net.nn_kl_divergence()

    return Peer(lambda i, o: BayesianConv2d(i, o, (3, 3), padding=1), kl, BlitzSequential)


def _bayesian_torch(name: str) -> Callable[[], Peer]:
    def load() -> Peer:
        from bayesian_torch import layers

        layer = getattr(layers, name)

        def kl(net: nn.Module) -> Tensor:
            return torch.stack([m.kl for m in net.modules() if isinstance(m, _KeepsKl)]).sum()

        return Peer(lambda i, o: _KeepsKl(layer(i, o, 3, padding=1)), kl)

    return load


def _torch_uncertainty() -> Peer:
    from torch_uncertainty.layers.bayesian import BayesConv2d
    from torch_uncertainty.losses import KLDiv

    def kl(net: nn.Module) -> Tensor:
        return KLDiv(net)().squeeze()

    return Peer(lambda i, o: BayesConv2d(i, o, 3, padding=1), kl)


_LOADERS: dict[str, Callable[[], Peer]] = {
    REFERENCE: _plain,
    OURS[0]: _ours("klein-3x3"),
    OURS[1]: _ours("gaussian"),
    TOGETHER: _ours("klein-3x3", _DrawnTogether),
    COMPILED: _compiled,
    BLITZ: _blitz,
    "bayesian-torch Reparameterization": _bayesian_torch("Conv2dReparameterization"),
    "bayesian-torch Flipout": _bayesian_torch("Conv2dFlipout"),
    "torch-uncertainty BayesConv2d": _torch_uncertainty,
}


def sample_predictions(name: str, net: Any, x: Tensor, num_samples: int) -> Tensor:
    """The library's own way to ``num_samples`` predictions; for plain convolutions, as many forward passes."""
    if name in OURS:
        return tp.predict(net, x, num_samples)
    with torch.no_grad():
        if name == BLITZ:
            return net.mfvi_forward(x, num_samples)[0]
        return torch.stack([net(x).softmax(-1) for _ in range(num_samples)])
