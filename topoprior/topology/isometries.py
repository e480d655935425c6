"""The best isometry of a space onto itself between two sets of points."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from topoprior.spaces.covering import Covering
from topoprior.spaces.flat.manifold import FlatManifold
from topoprior.spaces.spherical.manifold import SphericalSpaceForm
from topoprior.utils.checks import real_data
from topoprior.utils.plain import on_cpu, plain

# --- the best isometry -----------------------------------------------------------------------------


@plain
@on_cpu
def isometry_distance(space: Covering, truth: Tensor, found: Tensor) -> float:
    """Mean distance between points and their images, after the isometry of the space that fits best.

    On flat manifolds the isometries are x -> A x + t, A a signed permutation of the axes, that
    normalize the deck group; all A and discrete t are tried, and the continuous part of t is refined.
    On spheres modulo +-1 (spheres, projective spaces, rotations) they are orthogonal matrices, found by
    aligning nearest lifts from many random starts.

    Args:
        truth, found: lifts of the same N points before and after, (N, cover_dim).

    Raises:
        TypeError: no tensors of real numbers.
        ValueError: no points, different numbers of them, NaN or infinity.
        NotImplementedError: any other space.

    Example:
        >>> import topoprior as tp
        >>> x = torch.rand(50, 2, dtype=torch.float64)
        >>> mirrored = torch.stack([0.3 - x[:, 0], x[:, 1] + 0.5], 1)  # an isometry of the bottle
        >>> isometry_distance(tp.KleinBottle(), x, mirrored) < 1e-6
        True
    """
    truth, found = (
        space._check_lift(real_data(name, x), name).double().cpu()
        for name, x in (("truth", truth), ("found", found))
    )
    if truth.shape != found.shape:
        raise ValueError(
            f"found: expected shape {tuple(truth.shape)}, that of truth, found {tuple(found.shape)}"
        )
    with torch.no_grad():
        if isinstance(space, FlatManifold):
            return _flat_distance(space, truth, found)
        if isinstance(space, SphericalSpaceForm) and space.num_sheets <= 2:
            return _spherical_distance(space, truth, found)
    raise NotImplementedError(f"space: the isometries of {space!r} are not known")


def flat_isometries(space: FlatManifold) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
    """Isometries (A, t) of a flat manifold, up to translations along the directions (n, c) also returned.

    x -> A x + t is one if it normalizes the deck group: A maps the lattice to itself, and for every
    coset j there is a k with A_k = A A_j A^T and A t_j + (I - A_k) t - t_k in the lattice.
    """
    n, eye = space.dim, torch.eye(space.dim, dtype=torch.float64)
    fixed = torch.linalg.svd((eye - space.linear).reshape(-1, n))
    free = fixed.Vh[(fixed.S > 1e-9).sum() :].T
    steps = torch.arange(2 * space.num_sheets, dtype=torch.float64) / (2 * space.num_sheets)
    cells = torch.cartesian_prod(*[steps] * space.rank).reshape(-1, space.rank) @ space.lattice.T
    across = eye - free @ free.T  # translations along `free` are allowed anyway
    shifts: list[Tensor] = []
    for t in cells @ across:
        if all((space.wrap(t - s) - free @ (free.T @ space.wrap(t - s))).norm() > 1e-6 for s in shifts):
            shifts.append(t)
    found = []
    for order in itertools.permutations(range(n)):
        for signs in itertools.product((1.0, -1.0), repeat=n):
            a = torch.diag(torch.tensor(signs, dtype=torch.float64))[:, list(order)]
            found += [(a, t) for t in shifts if _normalizes(space, a, t)]
    return found, free


def _normalizes(space: FlatManifold, a: Tensor, t: Tensor) -> bool:
    if space.wrap((a @ space.lattice).T).abs().sum() > 1e-6:
        return False
    across = space.lattice - a @ space.lattice  # an open direction of the lattice would show here
    if (across - space.lattice @ torch.linalg.pinv(space.lattice) @ across).abs().sum() > 1e-6:
        return False
    for linear, shift in zip(space.linear, space.shift, strict=True):
        turned = a @ linear @ a.T
        same = (space.linear - turned).abs().amax((-2, -1)) < 1e-6
        if not same.any():
            return False
        k = int(same.to(torch.uint8).argmax())
        if space.wrap(a @ shift + t - turned @ t - space.shift[k]).norm() > 1e-6:
            return False
    return True


def _flat_distance(space: FlatManifold, truth: Tensor, found: Tensor) -> float:
    candidates, free = flat_isometries(space)
    # Along the free directions: a grid as fine as 1/12 of the longest period, then mean shifts.
    reach = space.lattice.norm(dim=0).max().item() if space.rank else 0.0
    line = torch.arange(12, dtype=torch.float64) / 12 * reach if reach else torch.zeros(1).double()
    grid = torch.cartesian_prod(*[line] * free.shape[1]).reshape(-1, free.shape[1]) @ free.T
    if not free.shape[1]:
        grid = torch.zeros(1, space.dim, dtype=torch.float64)
    some = torch.randperm(len(truth), generator=torch.Generator().manual_seed(0))[:200]
    best = []
    for a, t in candidates:
        moved = truth[some] @ a.T + t
        score = space.distance(moved + grid.unsqueeze(1), found[some]).mean(1)
        value, index = score.min(0)
        best.append((value.item(), a, t + grid[index]))
    best.sort(key=lambda item: item[0])
    return min(_refined(space, truth, found, a, t, free) for _, a, t in best[:6])


def _refined(
    space: FlatManifold, truth: Tensor, found: Tensor, a: Tensor, t: Tensor, free: Tensor
) -> float:
    score = math.inf
    for _ in range(50):
        gap = space.difference(truth @ a.T + t, found)
        score = min(score, gap.norm(dim=1).mean().item())
        t = t + free @ (free.T @ gap.mean(0))
    return score


def _spherical_distance(space: SphericalSpaceForm, truth: Tensor, found: Tensor, starts: int = 64) -> float:
    size, generator = (starts, space.cover_dim, space.cover_dim), torch.Generator().manual_seed(0)
    q = torch.linalg.qr(torch.randn(size, dtype=torch.float64, generator=generator)).Q
    images = space.lifts(found)
    for _ in range(60):
        moved = truth @ q.transpose(-1, -2)
        choice = torch.einsum("nmd,snd->snm", images, moved).argmax(-1)
        nearest = images[torch.arange(len(truth)), choice]
        u, _, vh = torch.linalg.svd(torch.einsum("snd,ne->sde", nearest, truth))
        q = u @ vh
    return space.distance(truth @ q.transpose(-1, -2), found).mean(1).min().item()
