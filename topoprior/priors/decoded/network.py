"""A frozen network as decoder, and Gauss-Hermite nodes."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from topoprior.kernels.nearest import Decodes
from topoprior.priors.buffers import KnownBuffers
from topoprior.priors.coordinates import StandardNormal
from topoprior.priors.decoded.decoder import KernelDecoder, check_kernel_size, times
from topoprior.spaces.flat.named import Euclidean
from topoprior.utils.checks import check_int

_MEAN_NODES = 7  # a dimension, of the quadrature for the mean


class FrozenMLP(KnownBuffers):
    """Linear layers with SiLU between them, whose numbers are buffers: nothing here is trained.

    Args:
        linears: pairs (weight, bias), first layer first.
    """

    weight0: Tensor

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
            z = F.linear(F.silu(z) if i else z, weight.to(z), bias.to(z))
        return z

    # --- what the search for the nearest kernel asks (kernels/nearest.py) -------------------------------

    extent = 3.0  # prior stds

    def linearize(self, x: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
        """basis^T g, (r, N), and its derivatives, (dim, r, N), at points ``x`` (dim, N)."""
        linears = [(weight.to(x), bias.to(x)) for weight, bias in self.linears()]
        linears[-1] = basis.T @ linears[-1][0], basis.T @ linears[-1][1]
        values, slopes = (
            x,
            torch.eye(len(x), dtype=x.dtype, device=x.device)[..., None].expand(-1, -1, x.shape[1]),
        )
        for i, (weight, bias) in enumerate(linears):
            if i:
                gate = values.sigmoid()
                slopes = slopes * (gate * (1 + values * (1 - gate)))  # of v sigmoid(v)
                values = values * gate
            values, slopes = weight @ values + bias[:, None], weight @ slopes
        return values, slopes

    def cells(self) -> tuple[Tensor, Tensor]:
        """Centers of a regular grid over +-3 prior stds, (G, dim), and its widths."""
        dim = self.weight0.shape[1]
        count = {1: 121, 2: 25}.get(dim, 11)
        line = torch.linspace(-self.extent, self.extent, count, dtype=torch.float64)
        grid = torch.cartesian_prod(*[line] * dim).reshape(-1, dim)
        return grid, torch.full((dim,), 2 * self.extent / (count - 1), dtype=torch.float64)

    def apart(self, x: Tensor) -> Tensor:
        return 2 * x


class NetworkDecoder(FrozenMLP, KernelDecoder):
    """A frozen network as decoder: z is standard normal on Euclidean space.

    Args:
        network: latents (..., dim) -> kernels (..., k), dim at most 3; its last layer is scaled to E|g(z)|^2 = 1.
        kernel_size: their product is k.

    Raises:
        ValueError: another number of outputs, too many latents, numbers that are not finite or all zero.

    Example:
        >>> network = FrozenMLP([(torch.randn(16, 2), torch.zeros(16)), (torch.randn(9, 16), torch.zeros(9))])
        >>> NetworkDecoder(network, (3, 3))(torch.randn(10, 2)).shape
        torch.Size([10, 9])
    """

    kl_periods = ()  # latents and amplitudes have one law
    format = "topoprior.EuclideanDecoderPrior/1"
    left_out: ClassVar[Mapping[str, Any]] = {"residual_fraction": 0.0}
    nodes: Tensor
    node_weights: Tensor

    def __init__(self, network: FrozenMLP, kernel_size: Sequence[int]) -> None:
        size, linears = check_kernel_size(kernel_size), network.linears()
        dim, pixels = linears[0][0].shape[1], linears[-1][0].shape[0]
        if pixels != math.prod(size):
            raise ValueError(
                f"decoder: expected {math.prod(size)} outputs for {times(size)} kernels, found {pixels}"
            )
        if dim > 3:
            raise ValueError(f"decoder: expected at most 3 latent dimensions, found {dim}")
        nodes, weights = hermite_grid(dim, 32 if dim < 3 else 16)
        energy = (weights * network(nodes.float()).square().sum(-1)).sum().item()
        if not math.isfinite(energy) or energy <= 0:
            raise ValueError("decoder: expected finite numbers, not all zero")
        *hidden, (weight, bias) = linears
        super().__init__([*hidden, (weight / math.sqrt(energy), bias / math.sqrt(energy))])
        self.kernel_size = size
        self.space, self.law, self.lengths = Euclidean(dim), StandardNormal(), [1.0] * dim
        for name, tensor in zip(("nodes", "node_weights"), hermite_grid(dim, _MEAN_NODES), strict=True):
            self.register_buffer(name, tensor, persistent=False)

    @property
    def search(self) -> Decodes:  # type: ignore[override]
        return self

    def mean(self, loc: Tensor, scale: Tensor) -> Tensor:
        """By Gauss-Hermite quadrature, 7 nodes a dimension.

        Error a pixel, for "euclidean-3x3": 4e-7 for latent scales up to .1, 2e-4 at .3, .04 at 1.
        """
        # One node at a time: all of them at once would not fit in memory.
        nodes = zip(self.nodes.to(loc), self.node_weights.to(loc), strict=True)
        kernels = sum(weight * self(loc + scale * node) for node, weight in nodes)
        assert isinstance(kernels, Tensor)
        return kernels

    def second_moment(self) -> Tensor:
        """By Gauss-Hermite quadrature, with the nodes that the scale is from."""
        nodes, weights = hermite_grid(self.space.dim, 32 if self.space.dim < 3 else 16)
        with torch.no_grad():
            kernels = self(nodes.to(self.weight0)).double().cpu()
        return (kernels * weights[:, None]).T @ kernels

    def latent_kl(self, loc: Tensor, log_scale: Tensor) -> Tensor:
        return (0.5 * ((2 * log_scale).exp() + loc.square() - 1) - log_scale).sum(-1)

    def describe(self) -> str:
        return f"dim={self.space.dim}, kernel_size={self.kernel_size}"

    # --- in a layer ------------------------------------------------------------------------------

    def draw_(self, loc: Tensor) -> None:
        loc.normal_()

    def installed(self, like: Tensor) -> NetworkDecoder:
        """A copy, whose state holds the network: that of another one is refused."""
        found = copy.deepcopy(self).to(like)
        found.prior_buffers = tuple(self.state_dict())
        return found

    @property
    def prior(self) -> NetworkDecoder:
        """What the refusal names."""
        return self

    def extra_repr(self) -> str:
        return self.describe()

    def refill_(self, known: KernelDecoder) -> None:
        assert isinstance(known, NetworkDecoder)
        for own, original in zip(self.buffers(), known.buffers(), strict=True):
            own.copy_(original)

    # --- checkpoints -----------------------------------------------------------------------------

    def to_config(self) -> dict[str, Any]:
        return {"kernel_size": list(self.kernel_size), "depth": self.depth}

    def tensors(self) -> dict[str, Tensor]:
        return self.state_dict()

    @classmethod
    def from_checkpoint(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> NetworkDecoder:
        depth = check_int("depth", config["depth"])
        if depth > 100:
            raise ValueError(f"depth: expected at most 100, found {depth}")
        names = [f"{kind}{i}" for i in range(depth) for kind in ("weight", "bias")]
        if set(tensors) != set(names) or not names:
            raise ValueError(f"expected tensors {names}, found {sorted(tensors)}")
        linears = [(tensors[w], tensors[b]) for w, b in zip(names[::2], names[1::2], strict=True)]
        _check_linears(linears)
        return cls(FrozenMLP(linears), config["kernel_size"])


def _check_linears(linears: Sequence[tuple[Tensor, Tensor]]) -> None:
    width = linears[0][0].shape[-1]
    for i, (weight, bias) in enumerate(linears):
        if weight.dim() != 2 or weight.shape[1] != width or bias.shape != weight.shape[:1]:
            raise ValueError(
                f"layer {i}: expected weight (n, {width}) and bias (n,), found {tuple(weight.shape)}, "
                f"{tuple(bias.shape)}"
            )
        width = weight.shape[0]


def hermite_grid(dim: int, num_nodes: int) -> tuple[Tensor, Tensor]:
    """Nodes (N, dim) and weights (N,) with E f(z) = sum_i w_i f(z_i) for z ~ N(0, I), float64."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(num_nodes)
    weights = weights / weights.sum()
    grid = np.array(list(itertools.product(nodes, repeat=dim)))
    products = np.array([math.prod(row) for row in itertools.product(weights, repeat=dim)])
    return torch.from_numpy(grid), torch.from_numpy(products)
