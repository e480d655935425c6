"""Spectral warm start: read a covering space's latents off the data before any training.

An encoder that starts in the wrong homotopy class seldom leaves it. The class can be seen in the data:
on a flat manifold the lowest eigenfunctions of the Laplacian are its lowest harmonics, so the lowest
eigenvectors of a neighbour graph of the data span them up to an orthogonal matrix. Finding that matrix,
such that the rotated eigenvectors lie on the embedded space, gives a lift for every landmark; the
residual says whether the space was the right one, and more starts cure a bad fit.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from topoprior.coverings import Covering

EXTRA = 3  # eigenvectors to choose from, beyond the number of features


class WarmStart(NamedTuple):
    """Latents of landmarks: ``rows`` (N,) of the data, ``latents`` (N, cover_dim), ``residual``.

    ``residual`` is the mean squared distance of the eigenvectors to the embedded space, in units of
    their variance: below about .05 for the right class, about .1 and more for a wrong one.
    """

    rows: Tensor
    latents: Tensor
    residual: float


def graph_eigenvectors(x: Tensor, num: int, neighbours: int = 8) -> Tensor:
    """The first ``num`` non-trivial eigenvectors of the k-NN graph of ``x``, (N, num), of unit variance.

    Of the random-walk Laplacian of the symmetrized graph, D^-1/2 v with v those of I - D^-1/2 W D^-1/2.

    Raises:
        ValueError: fewer points than neighbours or eigenvectors asked for.
    """
    x = x.flatten(1).double()
    if len(x) <= max(num + 1, neighbours):
        raise ValueError(f"x: expected more than {max(num + 1, neighbours)} points, found {len(x)}")
    nearest = torch.cdist(x, x).topk(neighbours + 1, largest=False).indices[:, 1:]
    weights = torch.zeros(len(x), len(x), dtype=x.dtype, device=x.device).scatter_(1, nearest, 1.0)
    weights = torch.maximum(weights, weights.T)
    root = weights.sum(1).rsqrt()
    vectors = torch.linalg.eigh(root[:, None] * weights * root).eigenvectors
    psi = vectors.flip(1)[:, 1 : num + 1] * root[:, None]
    psi = psi - psi.mean(0)
    return psi / psi.std(0, unbiased=False)


# Successive halving: (starts kept, Adam steps, rows of data). Most starts are bad, and show it early.
_PLAN = ((1024, 30, 150), (32, 100, 400))


def fit_covering(
    psi: Tensor, space: Covering, *, target: float = 0.04, rounds: int = 8
) -> tuple[Tensor, float]:
    """Rotate columns of ``psi`` (N, E) onto the embedded space: latents (N, cover_dim), the residual.

    Minimizes E |y - f(r(y))|^2 / F, y = psi Q, over Q (E, F) with orthonormal columns, f the space's
    standardized features and r its retraction, by Adam on QR factors from many random matrices in one
    batch. E may exceed F: data are rarely isometric to the space, so the wanted functions need not be
    the first F eigenvectors. Repeats until a residual is below ``target``, at most ``rounds`` times.
    """
    center, spread = _moments(space, psi)

    def residual(q: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        y = rows @ q
        latents = space.spectral_retract(y * spread + center)
        gap = y - (space.spectral_embed(latents) - center) / spread
        return gap.square().mean((-1, -2)).nan_to_num(math.inf), latents

    best, chosen = math.inf, psi.new_zeros(len(psi), space.cover_dim)
    for _ in range(rounds):
        q = torch.randn(_PLAN[0][0], psi.shape[1], len(spread), dtype=psi.dtype, device=psi.device)
        q = torch.linalg.qr(q).Q
        for keep, steps, points in _PLAN:
            rows = psi[torch.randperm(len(psi), device=psi.device)[:points]]
            with torch.no_grad():
                q = q[residual(q, rows)[0].argsort()[:keep]]
            q = _descend(q, functools.partial(residual, rows=rows), steps)
        with torch.no_grad():
            scores, latents = residual(q, psi)
        if scores.min() < best:
            best, chosen = scores.min().item(), latents[scores.argmin()]
        if best < target:
            break
    return chosen, best


def _descend(q: Tensor, residual: Callable[[Tensor], tuple[Tensor, Tensor]], steps: int) -> Tensor:
    """Adam on a batch of matrices, each kept orthonormal as the Q of its QR factors."""
    raw = q.clone().requires_grad_()
    optimizer = torch.optim.Adam([raw], lr=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        residual(torch.linalg.qr(raw).Q)[0].sum().backward()
        assert raw.grad is not None
        raw.grad.nan_to_num_(0.0, 0.0, 0.0)  # on the retraction's singular set a start stands still
        optimizer.step()
        schedule.step()
    return torch.linalg.qr(raw.detach()).Q


def _moments(space: Covering, like: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and std of the space's spectral features under the uniform law."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        x = space.sample_uniform(torch.Size([20_000]), like.dtype, torch.device("cpu"))
    features = space.spectral_embed(x)
    return features.mean(0).to(like), features.std(0).to(like)


def warm_start(x: Tensor, space: Covering, *, landmarks: int = 1500, neighbours: int = 8) -> WarmStart:
    """Latents on ``space`` for a random subset of the data ``x`` (N, ...).

    Uses torch's global random state.

    Example:
        >>> import topoprior as tp
        >>> _ = torch.manual_seed(0)
        >>> points = tp.Circle().embed(torch.rand(300, 1))
        >>> warm_start(points, tp.Circle()).residual < 0.02
        True
    """
    index = torch.randperm(len(x))[:landmarks].to(x.device)
    num = space.spectral_embed(x.new_zeros(1, space.cover_dim)).shape[-1]
    psi = graph_eigenvectors(x[index], num + EXTRA, neighbours)
    latents, residual = fit_covering(psi.to(x.dtype), space)
    return WarmStart(index, latents, residual)
