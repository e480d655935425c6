"""The nearest decodable kernel: min over z, alpha, beta of |w - alpha g(z) - beta c|^2, batched."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.functional import jvp

from topoprior.spaces.flat.waves import ProductWaves

# A step of the start grid, in turns of the fastest wave, and how many kernels x grid points at a time.
_GRID_STEP = 1 / 24
_CHUNK = 1 << 22
_ITERATIONS = 20


def nearest_kernels(waves: ProductWaves, matrix: Tensor, log_scale: Tensor, kernels: Tensor) -> Tensor:
    """Rows (z, alpha, beta) of the mean kernels nearest to ``kernels``, (N, dim + 2).

    The best point of a grid, then Levenberg-Marquardt. The mean over latents of the given scales is
    what is fitted: its waves are shorter than those at a point by known factors.

    Args:
        matrix: (P + 1, k), of alpha times the products and of beta.
        log_scale: (dim, N) of the latents.
        kernels: (N, k).
    """
    fitted = kernels.double()
    basis = matrix.to(fitted)
    rows, constant = basis[:-1], basis[-1]
    start = _grid_search(waves, rows, constant, fitted)
    decay = torch.stack(waves.decay(log_scale.double().exp().unbind()), -1)  # (N, P)
    return _refine(waves, rows, constant, decay, fitted, start).to(kernels)


def _grid_search(waves: ProductWaves, rows: Tensor, constant: Tensor, kernels: Tensor) -> Tensor:
    """The best point of a regular grid for every kernel, with alpha and beta by linear least squares."""
    axes = [
        torch.linspace(0, period, 1 + round(max(1, order) / _GRID_STEP), device=rows.device)[:-1]
        for period, order in zip(waves.periods, waves.orders, strict=True)
    ]
    grid = torch.cartesian_prod(*axes).reshape(-1, len(axes)).to(rows)
    decoded = torch.stack(waves.rows(grid.T), -1) @ rows
    unit = constant / constant.norm() if constant.any() else constant
    across = decoded - (decoded @ unit)[:, None] * unit
    length = across.norm(dim=-1, keepdim=True)
    # A kernel that is flat but for rounding explains nothing that the constant does not.
    direction = torch.where(length > 1e-6 * length.max(), across / length.clamp(min=1e-300), 0.0)
    found = []
    for part in kernels.split(max(1, _CHUNK // len(grid))):
        best = (part @ direction.T).square().argmax(-1)
        alpha = (part * direction[best]).sum(-1) / length[best, 0].clamp(min=1e-300)
        level = (part - alpha[:, None] * decoded[best]) @ unit
        beta = level / constant.norm() if constant.any() else torch.zeros_like(level)
        found.append(torch.cat([grid[best], alpha[:, None], beta[:, None]], -1))
    return torch.cat(found)


def _refine(
    waves: ProductWaves, rows: Tensor, constant: Tensor, decay: Tensor, kernels: Tensor, x: Tensor
) -> Tensor:
    """Levenberg-Marquardt on (z, alpha, beta), every kernel with its own damping."""
    dim = len(waves.periods)

    def decode(x: Tensor) -> tuple[Tensor, Tensor]:
        """Residuals (N, k) and their Jacobian (N, k, dim + 2)."""
        z, alpha, beta = x[:, :dim].T, x[:, dim, None], x[:, dim + 1, None]
        value, slopes = waves.values_and_slopes(z)
        decoded = (value * decay) @ rows
        columns = [alpha * ((slope * decay) @ rows) for slope in slopes]
        jacobian = torch.stack([*columns, decoded, constant.expand_as(decoded)], -1)
        return alpha * decoded + beta * constant - kernels, jacobian

    residual, jacobian = decode(x)
    damping = x.new_full((len(x), 1), 1e-3)
    for _ in range(_ITERATIONS):
        normal = jacobian.mT @ jacobian
        diagonal = normal.diagonal(dim1=-2, dim2=-1)
        floor = 1e-9 * diagonal.amax(-1, keepdim=True) + 1e-30
        system = normal + torch.diag_embed(damping * diagonal + floor)
        step = torch.linalg.solve(system, (jacobian.mT @ residual[..., None]).squeeze(-1))
        trial = x - step
        trial_residual, trial_jacobian = decode(trial)
        better = trial_residual.square().sum(-1, keepdim=True) < residual.square().sum(-1, keepdim=True)
        x = torch.where(better, trial, x)
        residual = torch.where(better, trial_residual, residual)
        jacobian = torch.where(better[..., None], trial_jacobian, jacobian)
        damping = torch.where(better, damping / 5, damping * 5).clamp(1e-12, 1e6)
    return x


_EXTENT, _SIDE = 3.0, {1: 241, 2: 41, 3: 15}  # the latents that are tried: a grid over +-3 prior stds
_STEPS = 12
_LATENT_BLOCK = 8192  # kernels in one block of work, to bound memory


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
    parts = [_latent_block(decode, block, dim, float(offset)) for block in kernels.split(_LATENT_BLOCK)]
    return torch.cat([z for z, _ in parts]), torch.cat([a for _, a in parts])


def _latent_block(
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
    return _refine_latents(decode, kernels, torch.cat([z, alpha, offset * rest], -1), dim, offset)


def _refine_latents(
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
