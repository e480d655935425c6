r"""Scores of a map between spaces that no choice of latent metric can fool.

All compare, for the same N data, where they come from with where they were put: neighbourhoods by rank
(trustworthiness and continuity), all of the space at once (distance after the best isometry), and the
decoder across the seams. Loops are followed in `loops.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from topoprior.spaces.covering import Covering
from topoprior.utils.checks import check_int, check_values, real_tensor
from topoprior.utils.plain import on_cpu


def pairwise_distances(space: Covering, x: Tensor, chunk: int = 256) -> Tensor:
    """Geodesic distances between all points of ``x`` (N, cover_dim), (N, N), symmetric."""
    x = space._check_lift(x)
    rows = torch.cat([space.distance(part.unsqueeze(1), x) for part in x.split(chunk)])
    return 0.5 * (rows + rows.T).fill_diagonal_(0)


@on_cpu
def trustworthiness(truth: Tensor, found: Tensor, k: int = 10) -> float:
    r"""Are the neighbours in the latent space true ones? 1 at best, about 1/2 by chance.

    .. math:: T(k) = 1 - \frac{2}{N k (2 N - 3 k - 1)} \sum_i \sum_{j \in U_i} (r(i, j) - k)

    with U_i those of the k nearest in ``found`` that are not among the k nearest in ``truth``, and r the
    rank in ``truth`` (Venna and Kaski, 2001). Continuity is the same with the two exchanged.

    Args:
        truth, found: distances between the N points, (N, N).

    Raises:
        TypeError: no tensors of real numbers, or k no int.
        ValueError: no square matrices of one size, NaN or infinity, or k not below N / 2.

    Example:
        >>> x = torch.arange(10.0)
        >>> trustworthiness((x - x[:, None]).abs(), (2 * x - 2 * x[:, None]).abs(), k=3)
        1.0
    """
    truth, found = real_tensor("truth", truth), real_tensor("found", found)
    if truth.shape != found.shape or truth.dim() != 2 or len(truth) != truth.shape[1]:
        raise ValueError(
            f"truth, found: expected two (N, N) matrices, found {tuple(truth.shape)} and {tuple(found.shape)}"
        )
    n = len(truth)
    if not 1 <= check_int("k", k) < n / 2:
        raise ValueError(f"k: expected from 1 to less than N / 2 = {n / 2:g}, found {k}")
    for name, x in (("truth", truth), ("found", found)):
        check_values(name, x)  # NaN sorts last: an argsort would count it as merely far
    nearest = _away(found).argsort(dim=1, stable=True)[:, :k]
    order = _away(truth).argsort(dim=1, stable=True)
    ranks = torch.empty_like(order).scatter_(1, order, torch.arange(1, n + 1).to(order).expand(n, n))
    excess = (ranks.gather(1, nearest) - k).clamp_min(0).sum().item()
    return 1 - 2 * excess / (n * k * (2 * n - 3 * k - 1))


@on_cpu
def continuity(truth: Tensor, found: Tensor, k: int = 10) -> float:
    """Are true neighbours still neighbours in the latent space? See :func:`trustworthiness`."""
    return trustworthiness(found, truth, k)


def _away(distances: Tensor) -> Tensor:
    """No point is its own neighbour."""
    return distances.clone().fill_diagonal_(math.inf)


def seam_jump(space: Covering, decode: Callable[[Tensor], Tensor], num: int = 200) -> float:
    """Largest difference between what a decoder makes of two lifts of one point; 0 up to rounding.

    Args:
        decode: lifts (N, cover_dim) to anything (N, ...).
    """
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        x = space.sample_window(num, 0.5)
        radius = 1.01 * space.deck_group.lattice.norm(dim=0).sum().item()
        lifts = space.lifts(x, radius)
        values = decode(lifts.flatten(0, 1)).unflatten(0, lifts.shape[:2])
        return (values - values[:, :1]).abs().max().item()
