"""Least squares on the image of a decoder with Euclidean latents."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.functional import jvp

_EXTENT, _SIDE = 3.0, {1: 241, 2: 41, 3: 15}  # the latents that are tried: a grid over +-3 prior stds
_STEPS = 12
_BLOCK = 8192  # kernels in one block of work, to bound memory


def nearest_latents(
    decode: Callable[[Tensor], Tensor], kernels: Tensor, dim: int, *, offset: bool = True
) -> tuple[Tensor, Tensor]:
    r"""Minimize |w - alpha g(z) - b 1|^2 over z, alpha and b for every kernel w (b = 0 without ``offset``).

    First over a grid of z, where the best alpha and b are known in closed form, then by 12 damped
    Gauss-Newton (Levenberg-Marquardt) steps, all kernels at once. Every step that would raise the error
    is refused, so the result is never worse than the grid's.

    Args:
        decode: g, latents (N, dim) -> kernels (N, k).
        kernels: (N, k).

    Returns:
        z (N, dim) and (alpha, b), (N, 2).
    """
    parts = [_block(decode, block, dim, float(offset)) for block in kernels.split(_BLOCK)]
    return torch.cat([z for z, _ in parts]), torch.cat([a for _, a in parts])


def _block(
    decode: Callable[[Tensor], Tensor], kernels: Tensor, dim: int, offset: float
) -> tuple[Tensor, Tensor]:
    line = torch.linspace(-_EXTENT, _EXTENT, _SIDE[dim], dtype=kernels.dtype, device=kernels.device)
    grid = torch.cartesian_prod(*[line] * dim).reshape(-1, dim)
    shapes = decode(grid)
    shapes = shapes - offset * shapes.mean(-1, keepdim=True)
    norms = shapes.norm(dim=-1).clamp_min(1e-6)
    # What alpha g + b explains at z is the squared cosine between w and g, which is less its mean.
    best = (kernels @ (shapes / norms.unsqueeze(-1)).T).abs().argmax(-1)
    z = grid[best]
    shape, norm = shapes[best], norms[best].unsqueeze(-1)
    alpha = (kernels * shape).sum(-1, keepdim=True) / norm.square()
    rest = (kernels - alpha * decode(z)).mean(-1, keepdim=True)
    return _refine(decode, kernels, torch.cat([z, alpha, offset * rest], -1), dim, offset)


def _refine(
    decode: Callable[[Tensor], Tensor], kernels: Tensor, x: Tensor, dim: int, offset: float
) -> tuple[Tensor, Tensor]:
    def residual(x: Tensor) -> Tensor:
        return kernels - x[:, dim : dim + 1] * decode(x[:, :dim]) - offset * x[:, dim + 1 :]

    axes = torch.eye(dim, dtype=x.dtype, device=x.device)
    left, error = residual(x), residual(x).square().sum(-1)
    damping = torch.full_like(error, 1e-3)
    for _ in range(_STEPS):
        z, alpha = x[:, :dim], x[:, dim : dim + 1]
        slopes = [jvp(decode, z, axis.expand_as(z).contiguous())[1] for axis in axes]
        columns = [*(-alpha * slope for slope in slopes), -decode(z), torch.full_like(kernels, -offset)]
        jacobian = torch.stack(columns, -1)  # (N, k, dim + 2)
        normal = jacobian.mT @ jacobian
        diagonal = normal.diagonal(dim1=-2, dim2=-1) + 1e-12
        gradient = (jacobian * left.unsqueeze(-1)).sum(1)
        system = normal + torch.diag_embed(damping.unsqueeze(-1) * diagonal + 1e-12)
        step = torch.linalg.solve_ex(system, gradient)[0].nan_to_num()
        moved = x - step
        moved[:, :dim] = moved[:, :dim].clamp(-_EXTENT, _EXTENT)
        new_left = residual(moved)
        new_error = new_left.square().sum(-1)
        better = new_error < error
        x = torch.where(better.unsqueeze(-1), moved, x)
        left = torch.where(better.unsqueeze(-1), new_left, left)
        error = torch.where(better, new_error, error)
        damping = torch.where(better, damping / 10, damping * 10).clamp(1e-9, 1e9)
    return x[:, :dim], x[:, dim:]
