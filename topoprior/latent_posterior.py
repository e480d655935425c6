"""The posterior of kernels decoded from Euclidean latents, and the frozen network that decodes them."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from topoprior.latent_projection import nearest_latents
from topoprior.priors import (
    BoundedScale,
    Shape,
    WeightPosterior,
    at_least_float32,
    draw_noise,
    narrow_,
    normal_kl,
)

if TYPE_CHECKING:
    from topoprior.latent_priors import EuclideanDecoderPrior

_MEAN_NODES = 7  # a dimension, of the quadrature for the mean


class FrozenMLP(nn.Module):
    """Linear layers with SiLU between them, whose numbers are buffers: nothing here is trained.

    Args:
        linears: pairs (weight, bias), first layer first.
    """

    def __init__(self, linears: Sequence[tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.depth = len(linears)
        for i, (weight, bias) in enumerate(linears):
            self.register_buffer(f"weight{i}", weight.detach().clone().float().cpu())
            self.register_buffer(f"bias{i}", bias.detach().clone().float().cpu())

    def linears(self) -> list[tuple[Tensor, Tensor]]:
        return [(getattr(self, f"weight{i}"), getattr(self, f"bias{i}")) for i in range(self.depth)]

    def forward(self, z: Tensor) -> Tensor:
        for i, (weight, bias) in enumerate(self.linears()):
            z = F.linear(F.silu(z) if i else z, weight, bias)
        return z


class EuclideanDecoderPosterior(WeightPosterior):
    """Mean-field normal over z, alpha and beta of every kernel, side by side: (out, in, dim + 2).

    Parameters ``loc`` and ``log_scale``; alpha and beta are in units of their prior stds.
    """

    amplitude_scales: Tensor
    nodes: Tensor
    node_weights: Tensor
    kl_kind = "bound"
    prior_buffers = ("amplitude_scales",)

    def __init__(
        self,
        prior: EuclideanDecoderPrior,
        shape: Shape,
        *,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.prior, self.shape = prior, torch.Size(shape)
        options: dict[str, Any] = {"device": device, "dtype": dtype}
        alpha_scale, beta_scale = prior.scales(shape)
        self._scales = alpha_scale, beta_scale / math.sqrt(math.prod(prior.kernel_size))
        self.loc = nn.Parameter(torch.empty(*self.shape[:2], prior.dim + 2, **options))
        self.log_scale = nn.Parameter(torch.empty_like(self.loc))
        self.register_buffer("amplitude_scales", torch.empty(2, **options))
        for name, size in (
            ("nodes", (_MEAN_NODES**prior.dim, prior.dim)),
            ("node_weights", (_MEAN_NODES**prior.dim,)),
        ):
            self.register_buffer(name, torch.empty(size, **options), persistent=False)
        # In the state_dict: the weights that it stands for must not depend on which decoder is installed.
        self.decoder = copy.deepcopy(prior.decoder).to(self.loc)
        self.factors = BoundedScale(2, prior.empirical_bayes, **options)
        self.reset_parameters()

    def fill_buffers(self) -> None:
        self.factors.fill_buffers()
        for i, scale in enumerate(self._scales):
            self.amplitude_scales[i] = scale
        nodes, weights = hermite_grid(self.prior.dim, _MEAN_NODES)
        self.nodes.copy_(nodes)
        self.node_weights.copy_(weights)
        for own, known in zip(self.decoder.buffers(), self.prior.decoder.buffers(), strict=True):
            own.copy_(known)

    def reset_parameters(self) -> None:
        self.fill_buffers()
        with torch.no_grad():
            self.loc.normal_()
            self.log_scale[..., : self.prior.dim].fill_(math.log(self.prior.init_latent_scale))
            self.log_scale[..., self.prior.dim :].fill_(math.log(self.prior.init_scale))
        self.factors.reset_parameters()

    def _weights(self, kernels: Tensor, amplitudes: Tensor) -> Tensor:
        alpha, beta = (amplitudes * self.amplitude_scales * self.factors()).split(1, -1)
        return (alpha * kernels + beta).unflatten(-1, self.prior.kernel_size)

    def rsample(self, sample_shape: Shape = (), *, antithetic: bool = False) -> Tensor:
        noise = draw_noise(sample_shape, self.loc.shape, self.loc, antithetic)
        latents = torch.addcmul(self.loc, self.log_scale.exp(), noise)
        z, amplitudes = latents.split([self.prior.dim, 2], -1)
        return self._weights(self.decoder(z), amplitudes)

    def mean(self) -> Tensor:
        """E[w] = E[alpha] E[g(z)] + E[beta] / sqrt(k), by Gauss-Hermite quadrature over z, 7 nodes a dimension.

        Error a pixel of g, for "euclidean-3x3": 4e-7 for latent scales up to .1, 2e-4 at .3, .04 at 1.
        """
        z_loc, amplitudes = self.loc.split([self.prior.dim, 2], -1)
        z_scale = self.log_scale[..., : self.prior.dim].exp()
        # One node at a time: all of them at once would not fit in memory.
        kernels = sum(
            w * self.decoder(z_loc + z_scale * x)
            for x, w in zip(self.nodes, self.node_weights, strict=True)
        )
        assert isinstance(kernels, Tensor)
        return self._weights(kernels, amplitudes)

    def kl(self) -> Tensor:
        """KL of the latents and amplitudes, whose units are the prior's: normal to standard normal."""
        return normal_kl(at_least_float32(self.loc), at_least_float32(self.log_scale), 1.0)

    @torch.no_grad()
    def project_(self, weight: Tensor) -> Tensor:
        """Center every kernel on the nearest decoded one: least squares over z, alpha and beta.

        The latent scales shrink to at most .01, so that the mean is sharp; the factors of empirical Bayes
        start afresh.
        """
        if weight.shape != self.shape:
            raise ValueError(f"weight: expected shape {tuple(self.shape)}, found {tuple(weight.shape)}")
        self.factors.reset_parameters()
        dim = self.prior.dim
        self.log_scale[..., :dim].clamp_(max=math.log(min(0.01, self.prior.init_latent_scale)))
        decoder = copy.deepcopy(self.prior.decoder).to(weight.device)
        kernels = weight.detach().float().flatten(2).flatten(0, 1)
        z, amplitudes = nearest_latents(decoder, kernels, dim, offset=self.prior.mean_fraction > 0)
        scales = self.amplitude_scales.float()
        found = torch.cat([z, amplitudes / torch.where(scales > 0, scales, 1.0)], -1)
        self.loc.copy_(found.unflatten(0, self.shape[:2]))
        left = (weight - self.mean().to(weight)).norm()
        return left / weight.norm().clamp_min(torch.finfo(weight.dtype).tiny)

    def narrow_(self, std: float) -> None:
        """The amplitudes; :meth:`project_` narrows the latents. E|g(z)|^2 = 1 over k pixels."""
        alpha_scale, beta_scale = self.amplitude_scales.tolist()
        narrow_(self.log_scale[..., -2], std, alpha_scale / math.sqrt(self.shape[2:].numel()))
        narrow_(self.log_scale[..., -1], std, beta_scale)

    def extra_repr(self) -> str:
        return f"{tuple(self.shape)}, prior={self.prior!r}"


def hermite_grid(dim: int, num_nodes: int) -> tuple[Tensor, Tensor]:
    """Nodes (N, dim) and weights (N,) with E f(z) = sum_i w_i f(z_i) for z ~ N(0, I), float64."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(num_nodes)
    weights = weights / weights.sum()
    grid = np.array(list(itertools.product(nodes, repeat=dim)))
    products = np.array([math.prod(row) for row in itertools.product(weights, repeat=dim)])
    return torch.from_numpy(grid), torch.from_numpy(products)
