"""The Klein bottle of convolution kernels: straight edges and ridges of every orientation and phase."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from topoprior.kernels.contrast import dct_basis, dct_coordinates
from topoprior.kernels.nearest import amplitudes, nearest_kernels
from topoprior.spaces.flat.harmonics import Harmonics
from topoprior.spaces.flat.named import KleinBottle
from topoprior.spaces.flat.waves import ProductWaves
from topoprior.utils.checks import check_int, check_values, real_tensor
from topoprior.utils.plain import on_cpu


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
    x = real_tensor("x", x)
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
    points = torch.rand(check_int("num", num, 0), 2, generator=generator)
    return klein_kernels(points, size), points


@on_cpu
def klein_subspace(size: int = 3, metric: str = "contrast") -> Tensor:
    """Orthonormal basis of the span of the analytic kernels without their means, (r, k^2 - 1) float64.

    Rows are coordinates as in :func:`kernel_coordinates`. r is 5 from 3x3 on: the span of x, y, x^2, y^2
    and xy; for 2x2 it is 3, all there is.

    Example:
        >>> klein_subspace(3).shape
        torch.Size([5, 8])
    """
    line = torch.arange(16, dtype=torch.float64) / 16
    family = kernel_coordinates(klein_kernels(torch.cartesian_prod(line, line), size), metric)
    _, values, rows = torch.linalg.svd(family, full_matrices=False)
    return rows[values > 1e-9 * values[0]]


@on_cpu
def kernel_coordinates(kernels: Tensor, metric: str = "contrast") -> Tensor:
    """Coordinates (..., k^2 - 1) of kernels (..., k, k) without their means, isometric in the metric.

    Args:
        metric: "contrast", the D-norm of natural patches
            (:func:`~topoprior.kernels.contrast.dct_coordinates`), or "pixels", the Euclidean one.
    """
    if metric not in ("contrast", "pixels"):
        raise ValueError(f"metric: expected 'contrast' or 'pixels', found {metric!r}")
    kernels = real_tensor("kernels", kernels)
    coordinates = dct_coordinates(kernels)
    if metric == "contrast":
        return coordinates
    return coordinates * dct_basis(kernels.shape[-1]).flatten(1).norm(dim=1).to(coordinates)


@on_cpu
def klein_energy(kernels: Tensor, metric: str = "contrast") -> Tensor:
    r"""The fraction of every kernel's energy that lies in the analytic family's span, (..., k, k) -> (...):

    .. math:: |P w|^2 / |w|^2, \quad w \text{ without its mean}, P \text{ the projection on klein\_subspace}

    1 for analytic kernels, 5/8 in the mean for 3x3 noise (in the metric in which it is isotropic).

    Example:
        >>> checkerboard = torch.tensor([[1.0, -1, 1], [-1, 1, -1], [1, -1, 1]])
        >>> round(klein_energy(checkerboard, "pixels").item(), 3)
        0.2
    """
    kernels = real_tensor("kernels", kernels)
    coordinates = kernel_coordinates(kernels, metric).double()
    inside = coordinates @ klein_subspace(kernels.shape[-1], metric).T
    return inside.square().sum(-1) / coordinates.square().sum(-1).clamp_min(1e-300)


@on_cpu
def nearest_klein(kernels: Tensor, metric: str = "contrast") -> tuple[Tensor, Tensor]:
    """Distance to the analytic kernels, (N,), and the nearest one's point of the Klein bottle, (N, 2).

    Kernels (N, k, k), and the analytic ones, are taken without their means and scaled to norm 1, so distances
    are at most sqrt(2) (F and -F are both in the family). The search is over the whole circle of
    orientations (:class:`~topoprior.kernels.planes.PlaneSearch`), so the distance is the least there is.

    Raises:
        TypeError, ValueError: no real tensor of this shape, or NaN or infinity in it.

    Example:
        >>> kernels, points = sample_klein_kernels(50, generator=torch.Generator().manual_seed(0))
        >>> bool((nearest_klein(kernels)[0] < 1e-3).all())
        True
    """
    kernels = real_tensor("kernels", kernels)
    if kernels.dim() != 3:
        raise ValueError(f"kernels: expected shape (N, k, k), found {tuple(kernels.shape)}")
    check_values("kernels", kernels)
    coordinates = kernel_coordinates(kernels, metric).double()
    unit = coordinates / coordinates.norm(dim=-1, keepdim=True).clamp_min(1e-300)
    # The five harmonics of the family are among the lowest eight.
    harmonics = Harmonics(KleinBottle(), 8)
    line = torch.arange(16, dtype=torch.float64) / 16
    grid = torch.cartesian_prod(2 * line, line)
    family = kernel_coordinates(klein_kernels(grid, kernels.shape[-1]), metric)
    coefficients = harmonics(grid).T @ family / len(grid)  # the trapezoid rule is exact here
    used = (coefficients.norm(dim=1) > 1e-9).nonzero().flatten().tolist()
    waves = ProductWaves(harmonics.select(used), coefficients[used])
    points = nearest_kernels(waves, unit, offset=False)
    family = kernel_coordinates(klein_kernels(points, kernels.shape[-1]), metric)
    alpha = amplitudes(unit, family, offset=False)[:, :1]
    # alpha < 0 stands for the negative kernel, half a turn of theta2 away.
    points = points + (alpha < 0) * points.new_tensor([0.0, 0.5])
    decoded = kernel_coordinates(klein_kernels(points, kernels.shape[-1]), metric)
    decoded = decoded / decoded.norm(dim=-1, keepdim=True)
    return (unit - decoded).norm(dim=-1).to(kernels), KleinBottle().project(points).to(kernels)
