"""The nearest decodable kernel: min over z, alpha, beta of |w - alpha g(z) - beta c|^2, batched."""

from __future__ import annotations

import torch
from torch import Tensor

from topoprior.trigonometric import ProductWaves

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
