"""One small convolutional network, four kinds of 3x3 convolution in it: the "methods" that are compared.

Only the convolutions differ. The last layer is deterministic for every method: with a Bayesian last layer
at temperature 1, small data leave the whole posterior at the prior, and then there is nothing to compare.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

import topoprior as tp

WIDTHS = (16, 32, 64)
_HE_GAIN = math.sqrt(2)
_LEAK = 0.1


@dataclass(frozen=True)
class Settings:
    """How a method is trained; what validation chose is in `SETTINGS`.

    Args:
        learning_rate: the highest one of the one-cycle schedule.
        weight_decay: AdamW's, for the deterministic weights: all of them for "deterministic",
            those of the last layer for the Bayesian methods, whose prior does this work.
        options: of the prior (`tp.DecoderPrior`, `tp.Gaussian`), or of BLiTZ's layer.
    """

    learning_rate: float
    weight_decay: float
    options: dict[str, float] = field(default_factory=dict)


# The best validation NLL of nine candidates a method (learning rate x start of the posterior, or x weight
# decay), 500 steps on 70% of the embedded training images, scored on the other 30%: `tune.py`.
SETTINGS = {
    "klein": Settings(1e-2, 0.1, {"init_scale": 0.03, "init_latent_scale": 0.005}),
    "gaussian": Settings(1e-2, 0.1, {"init_scale": 0.01}),
    "blitz": Settings(1e-2, 0.1, {"prior_scale": 1.0, "posterior_rho_init": -8.0}),
    "deterministic": Settings(1e-3, 0.3),
}

Convolution = Callable[[int, int], nn.Module]


@dataclass(frozen=True)
class Method:
    """A kind of convolution: how to make a layer, how to draw weights from what is believed at first."""

    name: str
    settings: Settings
    convolution: Convolution
    sample_prior: Callable[[tuple[int, ...]], Tensor]
    bayesian: bool = True


def get_method(name: str, settings: Settings | None = None) -> Method:
    """The method of a name: a key of `SETTINGS`, a prior that topoprior knows, or a checkpoint folder.

    Raises:
        ValueError: no such prior, or a damaged checkpoint (`CheckpointError`).
    """
    if name == "deterministic":
        return Method(name, settings or SETTINGS[name], _plain, _plain_start, bayesian=False)
    if name == "blitz":
        settings = settings or SETTINGS[name]
        return Method(name, settings, _blitz(settings.options), _blitz_prior(settings.options))
    if name == "klein":
        settings = settings or SETTINGS[name]
        prior: tp.WeightPrior = tp.DecoderPrior.from_pretrained("klein-3x3", **settings.options)
    elif name == "gaussian":
        settings = settings or SETTINGS[name]
        prior = tp.Gaussian(**settings.options)
    else:
        try:
            prior = tp.get_prior(name)
        except ValueError as error:
            ours = ", ".join(SETTINGS)
            raise ValueError(f"--priors: {error}; of this experiment: {ours}") from None
        like = SETTINGS["klein" if isinstance(prior, tp.DecoderPrior) else "gaussian"]
        settings = settings or replace(like, options={})

    def convolution(inputs: int, outputs: int) -> nn.Module:
        return tp.BayesConv2d(inputs, outputs, 3, padding=1, prior=prior)

    return Method(name, settings, convolution, prior.sample)


def build(method: Method, channels: int, classes: int, widths: tuple[int, ...] = WIDTHS) -> nn.Sequential:
    """The network, for images (N, channels, H, W) of any size from 8 on; returns logits (N, classes)."""
    layers: list[nn.Module] = []
    for width in widths:
        layers += [method.convolution(channels, width), nn.MaxPool2d(2), nn.LeakyReLU(_LEAK)]
        channels = width
    layers += [nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(9 * channels, classes)]
    return _blitz_sequential()(*layers) if method.name == "blitz" else nn.Sequential(*layers)


def kl(network: nn.Module) -> Tensor:
    """KL(posterior || prior) in nats; BLiTZ's is that of the weights drawn in the last forward pass."""
    if hasattr(network, "nn_kl_divergence"):
        return network.nn_kl_divergence()  # type: ignore[operator]
    return tp.kl_divergence(network)


@torch.no_grad()
def first_kernels(network: nn.Sequential) -> Tensor:
    """Weights of the first layer, drawn from its posterior."""
    layer: Any = network[0]
    if isinstance(layer, tp.BayesConv2d):
        return layer.draw()[0]
    return layer.weight if isinstance(layer, nn.Conv2d) else layer.weight_sampler.sample()


def _plain(inputs: int, outputs: int) -> nn.Module:
    conv = nn.Conv2d(inputs, outputs, 3, padding=1)
    # The same start as the Bayesian layers, which draw it from priors with He's variance.
    nn.init.kaiming_normal_(conv.weight, a=0, nonlinearity="relu")
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return conv


def _plain_start(shape: tuple[int, ...]) -> Tensor:
    return nn.init.kaiming_normal_(torch.empty(shape), nonlinearity="relu")


def _blitz(options: dict[str, float]) -> Convolution:
    try:
        from blitz.modules import BayesianConv2d
    except ImportError:
        raise ValueError(
            "--priors: blitz needs pip install blitz-bayesian-pytorch, or leave it out"
        ) from None

    def convolution(inputs: int, outputs: int) -> nn.Module:
        scale = options["prior_scale"] * _HE_GAIN / math.sqrt(9 * inputs)
        # prior_pi=1: a single Gaussian, as in the other methods, not a scale mixture.
        layer = BayesianConv2d(
            inputs, outputs, (3, 3), padding=1, prior_sigma_1=scale, prior_pi=1,
            posterior_rho_init=options["posterior_rho_init"],
        )  # fmt: skip
        with torch.no_grad():
            layer.weight_mu.normal_(0, scale)
        return layer

    return convolution


def _blitz_prior(options: dict[str, float]) -> Callable[[tuple[int, ...]], Tensor]:
    def sample(shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape) * options["prior_scale"] * _HE_GAIN / math.sqrt(math.prod(shape[1:]))

    return sample


def _blitz_sequential() -> type[nn.Sequential]:
    from blitz.utils import variational_estimator

    @variational_estimator
    class BlitzSequential(nn.Sequential):
        """A sequence with BLiTZ's methods, among them `nn_kl_divergence`."""

    return BlitzSequential
