"""Many small nonlinear least-squares problems at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def levenberg_marquardt(
    linearize: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]], x: Tensor, steps: int
) -> tuple[Tensor, Tensor]:
    """Minimize |r(x)|^2 for each of N problems by damped Gauss-Newton steps (Marquardt 1963).

    Every problem has its own damping, and a step that does not help is refused: no result is worse than its start.
    Problems lie along the last dimension, so that every operation is one on long rows.

    Args:
        linearize: x (n, N) -> |r|^2 (N,), J^T r (n, N) and J^T J (n, n, N), with J = dr / dx. The residuals
            themselves, of which there may be many, stay inside.
        x: where to start, (n, N).
        steps: how many.

    Returns:
        x and |r|^2.

    Example: the square root of 2, r = x^2 - 2.
        >>> def linearize(x):
        ...     r, slope = x * x - 2, 2 * x
        ...     return r[0].square(), slope * r, (slope * slope)[None]
        >>> x, error = levenberg_marquardt(linearize, torch.ones(1, 1), steps=8)
        >>> round(x.item(), 4)
        1.4142
    """
    error, gradient, normal = linearize(x)
    damping = torch.full_like(error, 1e-3)
    for _ in range(steps):
        trial = x - _solve(normal, gradient, damping)
        trial_error, trial_gradient, trial_normal = linearize(trial)
        better = trial_error < error
        x = torch.where(better, trial, x)
        error = torch.where(better, trial_error, error)
        gradient = torch.where(better, trial_gradient, gradient)
        normal = torch.where(better, trial_normal, normal)
        damping = torch.where(better, damping / 10, damping * 10).clamp(1e-9, 1e9)
    return x, error


def _solve(normal: Tensor, gradient: Tensor, damping: Tensor) -> Tensor:
    """(A + damping diag(A))^-1 gradient, (n, N), by Cholesky factors written out: n is small and N large."""
    n, diagonal = len(gradient), normal.diagonal().mT
    # A direction that moves nothing, such as a latent at amplitude 0, must not divide by 0.
    floor = 1e-7 * diagonal.amax(0) + torch.finfo(gradient.dtype).tiny
    factor: list[list[Tensor]] = []
    forward: list[Tensor] = []
    for i in range(n):
        row: list[Tensor] = []
        for j in range(i):
            row.append((normal[i, j] - _dot(row, factor[j])) / factor[j][j])
        row.append((diagonal[i] * (1 + damping) + floor - _dot(row, row)).clamp_min(floor).sqrt())
        factor.append(row)
        forward.append((gradient[i] - _dot(row, forward)) / row[i])
    found = [floor] * n
    for i in reversed(range(n)):
        known = _dot([factor[j][i] for j in range(i + 1, n)], found[i + 1 :])
        found[i] = (forward[i] - known) / factor[i][i]
    return torch.stack(found)


def _dot(a: list[Tensor], b: list[Tensor]) -> Tensor | float:
    return sum((x * y for x, y in zip(a, b, strict=False)), 0.0)
