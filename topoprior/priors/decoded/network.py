"""A frozen network as decoder, and Gauss-Hermite nodes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


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


def hermite_grid(dim: int, num_nodes: int) -> tuple[Tensor, Tensor]:
    """Nodes (N, dim) and weights (N,) with E f(z) = sum_i w_i f(z_i) for z ~ N(0, I), float64."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(num_nodes)
    weights = weights / weights.sum()
    grid = np.array(list(itertools.product(nodes, repeat=dim)))
    products = np.array([math.prod(row) for row in itertools.product(weights, repeat=dim)])
    return torch.from_numpy(grid), torch.from_numpy(products)
