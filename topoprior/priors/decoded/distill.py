"""The simplest harmonics for a learned decoder.

A decoder is determined only up to a change of coordinates of its latent space: g o phi decodes the same
kernels as g. A network that was trained by gradient stops at some phi, and needs many harmonics to say so.
Here latents and coefficients are fitted again to the kernels, with as few harmonics as they allow.
"""

from __future__ import annotations

import torch
from torch import Tensor

from topoprior.spaces.flat.harmonics import Harmonics
from topoprior.spaces.flat.waves import ProductWaves

_ITERATIONS = 100
_GRID = 48


def fewest_harmonics(
    harmonics: Harmonics, coefficients: Tensor, kernels: Tensor, *, tolerance: float = 1e-3
) -> tuple[Harmonics, Tensor, float]:
    r"""Fewer harmonics that decode ``kernels`` as well as ``harmonics @ coefficients`` does, or better.

    Alternates between the linear least squares of the coefficients and a Gauss-Newton step of every
    latent, min over C and z of sum_i |h(z_i) C - w_i|^2, from the strongest harmonics on, and takes the
    first number of them whose relative error is within ``tolerance`` of the error with all of them.

    Args:
        harmonics: on a compact flat manifold whose lattice lies along the axes.
        coefficients: (num_features, k), of the decoder to begin with.
        kernels: (N, k).
        tolerance: allowed growth of |h(z) C - w| / |w|.

    Returns:
        the harmonics, their coefficients, and the relative error.
    """
    targets, start = kernels.double(), coefficients.double()
    latents = _nearest_on_grid(harmonics, start, targets)
    order = start.square().sum(1).argsort(descending=True).tolist()
    _, best = _fit(harmonics, latents, targets)
    # Fewer than one harmonic a latent dimension and one more cannot embed the space.
    for count in range(min(len(order), 1 + harmonics.covering.dim), len(order)):
        chosen = harmonics.select(sorted(order[:count]))
        fitted, error = _fit(chosen, latents, targets)
        if error <= best + tolerance:
            return chosen, sparsest_origin(chosen, fitted), error
    fitted, error = _fit(harmonics, latents, targets)
    return harmonics, sparsest_origin(harmonics, fitted), error


def sparsest_origin(harmonics: Harmonics, coefficients: Tensor) -> Tensor:
    """The coefficients after the shift along each axis that makes sum |coefficient| of the waves smallest.

    Where a shift is an isometry of the space, it changes the names of the points and nothing else; zeros in
    the matrix are multiplications that a layer need not do.
    """
    covering = harmonics.covering
    assert covering.periods is not None
    generator = torch.Generator().manual_seed(0)
    size = torch.Size([4 * harmonics.num_features + 8, covering.dim])
    points = torch.rand(size, generator=generator, dtype=torch.float64) * covering.periods.double()
    inverse = torch.linalg.pinv(harmonics(points))

    def shifted(start: Tensor, axis: int, length: float) -> Tensor:
        step = torch.zeros(covering.dim, dtype=torch.float64)
        step[axis] = length
        return inverse @ harmonics(points + step) @ start

    def cost(candidate: Tensor) -> float:
        return float(ProductWaves(harmonics, candidate).matrix.abs().sum())

    for axis, period in enumerate(covering.periods.tolist()):
        if not torch.allclose(
            covering.linear[:, axis, axis], torch.ones_like(covering.linear[:, axis, axis])
        ):
            continue  # some deck transformation turns this axis round: a shift is no map of the space
        moved = harmonics(points + period / 7 * torch.eye(covering.dim, dtype=torch.float64)[axis])
        if not torch.allclose(harmonics(points) @ (inverse @ moved), moved, atol=1e-9):
            continue  # these harmonics do not span what they are shifted to
        best, width = 0.0, period / 360
        lengths = [i * width for i in range(360)]
        for _ in range(8):  # ever finer around the best one so far
            best = min(lengths, key=lambda s: cost(shifted(coefficients, axis, s)))  # noqa: B023
            width /= 8
            lengths = [best + i * width for i in range(-8, 9)]
        coefficients = shifted(coefficients, axis, best)
    return coefficients


def _nearest_on_grid(harmonics: Harmonics, coefficients: Tensor, targets: Tensor) -> Tensor:
    periods = harmonics.covering.periods
    assert periods is not None
    axes = [torch.arange(_GRID, dtype=torch.float64) / _GRID * p for p in periods.tolist()]
    grid = torch.cartesian_prod(*axes).reshape(-1, len(axes))
    decoded = harmonics(grid) @ coefficients
    parts = targets.split(1024)
    return grid[torch.cat([torch.cdist(part, decoded).argmin(1) for part in parts])]


def _fit(harmonics: Harmonics, latents: Tensor, targets: Tensor) -> tuple[Tensor, float]:
    """Coefficients and relative error after alternating from ``latents``."""
    before = float("inf")
    damping = 1e-6 * torch.eye(latents.shape[-1], dtype=latents.dtype)
    while True:
        for _ in range(_ITERATIONS):
            coefficients = torch.linalg.lstsq(harmonics(latents), targets).solution
            waves = ProductWaves(harmonics, coefficients)
            values, slopes = waves.values_and_slopes(latents.T)
            residual = values.T @ waves.matrix - targets
            jacobian = torch.stack([slope.T @ waves.matrix for slope in slopes], -1)
            step = torch.linalg.solve(jacobian.mT @ jacobian + damping, jacobian.mT @ residual[..., None])
            latents = latents - step.squeeze(-1)
        coefficients = torch.linalg.lstsq(harmonics(latents), targets).solution
        error = float((harmonics(latents) @ coefficients - targets).norm() / targets.norm())
        if error > 0.9 * before or error < 1e-6:
            return coefficients, error
        before = error
