"""A frozen network as decoder, and Gauss-Hermite nodes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from topoprior.priors.buffers import KnownBuffers


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
            z = F.linear(F.silu(z) if i else z, weight, bias)
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


def hermite_grid(dim: int, num_nodes: int) -> tuple[Tensor, Tensor]:
    """Nodes (N, dim) and weights (N,) with E f(z) = sum_i w_i f(z_i) for z ~ N(0, I), float64."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(num_nodes)
    weights = weights / weights.sum()
    grid = np.array(list(itertools.product(nodes, repeat=dim)))
    products = np.array([math.prod(row) for row in itertools.product(weights, repeat=dim)])
    return torch.from_numpy(grid), torch.from_numpy(products)
