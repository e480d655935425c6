"""Eigenvectors of a neighbour graph of data: the lowest harmonics of the space that they lie on."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from topoprior.utils.checks import check_values, real_tensor


def graph_spectrum(x: Tensor, num: int, neighbours: int = 8) -> tuple[Tensor, Tensor]:
    """The first ``num`` non-trivial eigenvectors of the k-NN graph of ``x``, (N, num), and eigenvalues.

    Of the random-walk Laplacian of the symmetrized graph, D^-1/2 v with v those of I - D^-1/2 W D^-1/2;
    centered and scaled to unit variance.

    Raises:
        TypeError: no tensor of real numbers.
        ValueError: NaN or infinity, fewer points than neighbours or eigenvectors asked for.
    """
    x = real_tensor("x", x).flatten(1).double()
    check_values("x", x)
    if len(x) <= max(num + 1, neighbours):
        raise ValueError(f"x: expected more than {max(num + 1, neighbours)} points, found {len(x)}")
    distances = torch.cdist(x, x).fill_diagonal_(math.inf)
    nearest = distances.topk(neighbours, largest=False).indices
    weights = torch.zeros(len(x), len(x), dtype=x.dtype, device=x.device).scatter_(1, nearest, 1.0)
    weights = torch.maximum(weights, weights.T)
    root = weights.sum(1).rsqrt()
    values, vectors = torch.linalg.eigh(root[:, None] * weights * root)
    psi = vectors.flip(1)[:, 1 : num + 1] * root[:, None]
    psi = psi - psi.mean(0)
    return psi / psi.std(0, unbiased=False), 1 - values.flip(0)[1 : num + 1]
