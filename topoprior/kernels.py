"""The Klein bottle of convolution kernels: straight edges and ridges of every orientation and phase."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def klein_kernels(x: Tensor, size: int = 3) -> Tensor:
    r"""Analytic kernels at lifts ``x`` = (u, v) of points of the Klein bottle, (..., size, size).

    .. math:: F(p) = \sin\theta_2\, t + \cos\theta_2\, (2 t^2 - 1), \quad
              t = p_x \cos\theta_1 + p_y \sin\theta_1, \quad \theta_1 = \pi u,\ \theta_2 = 2 \pi v

    at the pixels p of a regular grid on [-1, 1]^2, scaled so that the mean of |F|^2 over the Klein
    bottle is 1. Invariant under (theta1 + pi, -theta2), and linear in the five features of
    :class:`~topoprior.KleinBottle`. Carlsson et al. 2008; Love et al. 2023.

    Args:
        x: lifts, (..., 2).
        size: pixels a side, at least 2.

    Raises:
        ValueError: wrong shape or size.

    Example:
        >>> edge = klein_kernels(torch.tensor([0.0, 0.25]))  # theta2 = pi/2: an odd, linear filter
        >>> torch.allclose(edge, -edge.flip(-1), atol=1e-6)
        True
    """
    if size < 2:
        raise ValueError(f"size: expected at least 2 pixels a side, found {size}")
    if x.shape[-1:] != (2,):
        raise ValueError(f"x: expected shape (..., 2), lifts (u, v), found {tuple(x.shape)}")
    line = torch.linspace(-1, 1, size, dtype=x.dtype, device=x.device)
    grid_y, grid_x = torch.meshgrid(line, line, indexing="ij")
    theta1, theta2 = math.pi * x[..., 0, None, None], 2 * math.pi * x[..., 1, None, None]
    t = grid_x * theta1.cos() + grid_y * theta1.sin()
    kernels = theta2.sin() * t + theta2.cos() * (2 * t.square() - 1)
    return kernels / _root_mean_energy(grid_x, grid_y)


def _root_mean_energy(grid_x: Tensor, grid_y: Tensor) -> Tensor:
    """sqrt of E sum_p F(p)^2 = sum_p (E t^2 + E (2 t^2 - 1)^2) / 2, with t = rho cos(phi - theta1):
    E t^2 = rho^2 / 2 and E t^4 = 3 rho^4 / 8."""
    rho2 = grid_x.square() + grid_y.square()
    return (0.5 * (rho2 / 2 + 1.5 * rho2.square() - 2 * rho2 + 1)).sum().sqrt()


def sample_klein_kernels(
    num: int, size: int = 3, *, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Kernels at points drawn uniformly from the Klein bottle, and the points: (N, size, size), (N, 2).

    Example:
        >>> kernels, points = sample_klein_kernels(10, generator=torch.Generator().manual_seed(0))
        >>> kernels.shape, points.shape
        (torch.Size([10, 3, 3]), torch.Size([10, 2]))
    """
    points = torch.rand(num, 2, generator=generator)
    return klein_kernels(points, size), points
