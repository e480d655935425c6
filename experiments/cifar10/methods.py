"""What is compared: a kind of convolution, and the candidates for its rates, as many for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

import topoprior as tp


class Method(NamedTuple):
    """``prior`` of points, or the law that plain weights start from; neither is torch's own layer."""

    words: str
    prior: Callable[[], tp.WeightPrior] | None = None
    start: str | None = None

    def convolution(self, inputs: int, outputs: int, stride: int = 1) -> nn.Module:
        if self.prior is not None:
            prior = self.prior()
            return tp.BayesConv2d(
                inputs, outputs, 3, stride, padding=1, bias=False, prior=prior, posterior="delta"
            )
        layer = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        if self.start is not None:
            with torch.no_grad():
                layer.weight.copy_(tp.get_prior(self.start).sample(layer.weight.shape))
        return layer

    def candidates(self) -> list[dict[str, float]]:
        """Rates of AdamW. A prior has a temperature where plain weights have a decay; its last layer and batch normalization have
        the rate and the decay of the plain network's, which are strong in three of four."""
        if self.prior is None:
            return [_rates(6e-3, 6e-3, decay, 0.0) for decay in (0.01, 0.3, 3.0, 10.0)]
        strong = (0.03, 0.1), (0.03, 1.0), (0.1, 1.0)
        return [
            _rates(3e-3, 0.03, 0.01, 1.0),
            *(_rates(6e-3, latent_lr, 3.0, temperature) for latent_lr, temperature in strong),
        ]


def _residual() -> tp.WeightPrior:
    return tp.DecoderPrior.from_pretrained("klein-3x3", residual_fraction=0.1)


METHODS: Mapping[str, Method] = {
    "nn.Conv2d": Method("nn.Conv2d"),
    "klein": Method("Klein, MAP", lambda: tp.get_prior("klein-3x3")),
    "klein-start": Method("nn.Conv2d, Klein start", start="klein-3x3"),
    "klein-residual": Method("Klein + residual, MAP", _residual),
    "gaussian": Method("Gaussian, MAP", lambda: tp.get_prior("gaussian")),
    "linear": Method("linear decoder, MAP", lambda: tp.linear_decoder("klein-3x3")),
}


def numbers(net: nn.Module) -> dict[str, int]:
    """Parameters: of the 3x3 convolutions, and of all."""
    kernels = [m for m in net.modules() if isinstance(m, tp.BayesConv2d | nn.Conv2d)]
    of_kernels = sum(p.numel() for layer in kernels for p in layer.parameters())
    return {"kernel numbers": of_kernels, "numbers": sum(p.numel() for p in net.parameters())}


#: What a candidate is: AdamW's rate and that of latents, its decay, the temperature of the prior.
RATES = ("lr", "latent_lr", "weight_decay", "temperature")


def _rates(*values: float) -> dict[str, float]:
    return dict(zip(RATES, values, strict=True))


#: Of the candidates, on validation images (``--select``).
CHOSEN: Mapping[str, Mapping[str, Any]] = {
    "nn.Conv2d": _rates(6e-3, 6e-3, 3.0, 0.0),
    "klein": _rates(6e-3, 0.03, 3.0, 1.0),
    "klein-start": _rates(6e-3, 6e-3, 3.0, 0.0),
    "klein-residual": _rates(3e-3, 0.03, 0.01, 1.0),
    "gaussian": _rates(6e-3, 0.03, 3.0, 0.1),
    "linear": _rates(6e-3, 0.03, 3.0, 0.1),
}
