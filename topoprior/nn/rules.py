"""What becomes of a layer that is converted: its prior, its arguments, where its posterior starts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from topoprior.nn.base import BayesLayer, PriorLike
from topoprior.nn.convolution import transpose_kernels
from topoprior.nn.layers import BayesConvTranspose2d, BayesLinear
from topoprior.nn.selection import COUNTERPARTS
from topoprior.priors.base import Shape
from topoprior.priors.registry import get_prior


class Rules:
    """Which prior a layer gets, and how it starts."""

    def __init__(
        self,
        priors: PriorLike | Sequence[PriorLike],
        linear_prior: PriorLike | None,
        fallback: PriorLike | None,
        posterior: str,
        init: str,
        relative_scale: float,
    ) -> None:
        self.priors: list[Any] = list(priors) if isinstance(priors, list | tuple) else [priors]
        if not self.priors:
            raise ValueError(f"prior: expected one or several, found {priors!r}")
        self.linear_prior, self.fallback = linear_prior, fallback
        self.posterior, self.init, self.relative_scale = posterior, init, relative_scale
        self.known = [get_prior(given) for given in self.priors]  # a wrong name fails here, before any work
        for given in (linear_prior, fallback):
            if given is not None:
                get_prior(given)
        self.served = self.convolutions = 0

    def choose(self, module: nn.Module, shape: Shape) -> tuple[PriorLike | None, str]:
        """The prior of a layer with weights of ``shape``; where it is the fallback, why."""
        if isinstance(module, nn.Linear):
            return self.linear_prior, ""
        self.convolutions += 1
        pairs = zip(self.priors, self.known, strict=True)
        prior, known = next((pair for pair in pairs if pair[1].serves(shape)), (None, None))
        if prior is None or known is None:
            return self.fallback, "x".join(map(str, shape[2:])) + " kernels"
        depthwise = shape[1] == 1 and getattr(module, "groups", 1) > 1
        other_size = (*shape[:2], *(size + 2 for size in shape[2:]))
        if depthwise and not known.for_shape(shape).serves(other_size):
            return self.fallback, "depthwise"
        self.served += 1
        return prior, ""

    def served_few(self) -> str:
        """A word where the priors asked for are those of less than a tenth of the convolutions."""
        if 10 * self.served >= self.convolutions:
            return ""
        return (
            f"prior: {', '.join(map(str, self.priors))} served {self.served} of {self.convolutions} convolutions, "
            + (
                "the others stay deterministic"
                if self.fallback is None
                else f"the others got {self.fallback}"
            )
            + "; topoprior.summary lists kernel sizes, and prior= takes several: the first that serves"
        )

    def convert(self, module: nn.Module) -> BayesLayer | None:
        weight, bias = _weights(module)
        prior, why = self.choose(module, weight.shape)
        if prior is None:
            return None
        counterpart: Any = COUNTERPARTS[type(module)]
        layer: BayesLayer = counterpart(
            **arguments_of(module),
            bias=bias is not None,
            device=weight.device,
            dtype=weight.dtype,
            prior=prior,
            posterior=self.posterior,
        )
        layer.note = f"fallback: {why}" if why else ""
        if self.init == "pretrained":
            self._start_from(layer, weight, bias)
        # Frozen stays frozen; what a prior itself does not learn must not be thawed.
        if not weight.requires_grad:
            layer.weight_posterior.requires_grad_(False)
        if bias is not None and not bias.requires_grad and layer.bias_posterior is not None:
            layer.bias_posterior.requires_grad_(False)
        return layer.train(module.training)

    def _start_from(self, layer: BayesLayer, weight: Tensor, bias: Tensor | None) -> None:
        """Center the layer's posteriors on ``weight`` and ``bias``, with stds small beside them."""
        posterior = layer.weight_posterior
        layer.projection_residual = float(posterior.project_(weight))
        size = _size(posterior.mean()) or _size(layer.prior.sample(weight.shape))
        posterior.narrow_(self.relative_scale * size)
        if bias is not None and layer.bias_posterior is not None:
            layer.bias_posterior.project_(bias)
            # A bias near 0 is no measure of what noise it can bear.
            layer.bias_posterior.narrow_(self.relative_scale * max(size, _size(bias)))


def arguments_of(module: Any) -> dict[str, Any]:
    """Constructor arguments that a torch.nn layer and its Bayesian counterpart share."""
    names = ["in_features", "out_features"]
    if not isinstance(module, nn.Linear | BayesLinear):
        names = ["in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups"]
        names.append("padding_mode")
    if isinstance(module, nn.ConvTranspose2d | BayesConvTranspose2d):
        names.append("output_padding")
    return {name: getattr(module, name) for name in names}


def _weights(module: Any) -> tuple[Tensor, Tensor | None]:
    """Weight, as priors hold it, and bias of a torch.nn layer."""
    weight = module.weight
    if isinstance(module, nn.ConvTranspose2d):
        weight = transpose_kernels(weight.detach(), module.groups).requires_grad_(weight.requires_grad)
    return weight, module.bias


def _size(x: Tensor) -> float:
    """Root mean square."""
    return float(x.detach().float().square().mean().sqrt())
