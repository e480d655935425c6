"""One table of cases for every law, and the brute-force oracles the laws are checked against.

To put a new space under test, add it to `SPACES`; if it is not flat, also teach `orbit` its deck group.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import mpmath
import numpy as np
import torch
from torch import Tensor

from topoprior import (
    Circle,
    Covering,
    Cylinder,
    Euclidean,
    FlatManifold,
    HalfTurnManifold,
    HantzscheWendt,
    KleinBottle,
    LensSpace,
    MoebiusBand,
    Product,
    RealProjectiveSpace,
    RotationGroup,
    Sphere,
    SphericalSpaceForm,
    Torus,
)

REFLECTION = [[1.0, 0.0], [0.0, -1.0]]


def hexagonal_torus() -> FlatManifold:
    return FlatManifold([[1.0, -0.5], [0.0, math.sqrt(3) / 2]])


def hantzsche_wendt() -> FlatManifold:
    cosets = [
        (np.diag([1.0, -1.0, -1.0]), [0.5, 0.5, 0.0]),
        (np.diag([-1.0, 1.0, -1.0]), [0.0, 0.5, 0.5]),
        (np.diag([-1.0, -1.0, 1.0]), [0.5, 0.0, 0.5]),
    ]
    return FlatManifold(np.eye(3), cosets)


def third_turn() -> FlatManifold:
    """The orientable flat 3-manifold with holonomy Z/3: a hexagonal prism, its ends glued with 120 degrees."""
    h = math.sqrt(3) / 2
    lattice = [[1.0, -0.5, 0.0], [0.0, h, 0.0], [0.0, 0.0, 1.0]]
    turn = np.array([[-0.5, -h, 0.0], [h, -0.5, 0.0], [0.0, 0.0, 1.0]])
    return FlatManifold(lattice, [(turn, [0, 0, 1 / 3]), (turn @ turn, [0, 0, 2 / 3])])


def third_turn_from_generators() -> FlatManifold:
    """The same, from its screw and one translation."""
    h = math.sqrt(3) / 2
    turn = [[-0.5, -h, 0.0], [h, -0.5, 0.0], [0.0, 0.0, 1.0]]
    return FlatManifold.from_generators([(turn, [0, 0, 1 / 3]), (np.eye(3), [1.0, 0.0, 0.0])])


def left(q: tuple[float, ...]) -> Tensor:
    """Left multiplication by a quaternion."""
    w, x, y, z = q
    return torch.tensor([[w, -x, -y, -z], [x, w, -z, y], [y, z, w, -x], [z, -y, x, w]], dtype=torch.float64)


def quaternion_group() -> SphericalSpaceForm:
    units = [tuple(s * float(i == j) for j in range(4)) for i in range(4) for s in (1, -1)]
    return SphericalSpaceForm([left(q) for q in units])


# Flat spaces on which distributions are tested too.
_CORE: dict[str, Callable[[], Covering]] = {
    "line": lambda: Euclidean(1),
    "plane": lambda: Euclidean(2),
    "circle": Circle,
    "torus": lambda: Torus(2),
    "torus-3": lambda: Torus(3),
    "klein": KleinBottle,
    "klein-generic": lambda: FlatManifold([[2.0, 0.0], [0.0, 1.0]], [(REFLECTION, [1.0, 0.0])]),
    "moebius": lambda: FlatManifold([[2.0], [0.0]], [(REFLECTION, [1.0, 0.0])]),
    "hexagonal": hexagonal_torus,
    "hantzsche-wendt": hantzsche_wendt,
    "third-turn": third_turn,
}
SPACES: dict[str, Callable[[], Covering]] = _CORE | {
    "cylinder": Cylinder,
    "moebius-band": MoebiusBand,
    "klein-3": lambda: KleinBottle(3),
    "half-turn": HalfTurnManifold,
    "hantzsche-wendt-named": HantzscheWendt,
    "third-turn-from-generators": third_turn_from_generators,
    "sphere": lambda: Sphere(2),
    "projective-plane": lambda: RealProjectiveSpace(2),
    "projective-5": lambda: RealProjectiveSpace(5),
    "rotations": RotationGroup,
    "lens": lambda: LensSpace(3, 1),
    "lens-5-2": lambda: LensSpace(5, 2),
    "projective-plane-generic": lambda: SphericalSpaceForm([-np.eye(3)]),
    "klein-x-circle-x-line": lambda: Product(KleinBottle(), Circle(), Euclidean(1)),
    "rotations-x-klein": lambda: Product(RotationGroup(), KleinBottle()),
}
# Further ones, for the laws alone.
MORE: dict[str, Callable[[], Covering]] = {
    "klein-4": lambda: KleinBottle(4),
    "sphere-1": lambda: Sphere(1),
    "projective-line": lambda: RealProjectiveSpace(1),
    "lens-1-1": lambda: LensSpace(1, 0),
    "lens-12-5": lambda: LensSpace(12, 5),
    "quaternions": quaternion_group,
    "projective-plane-x-sphere": lambda: Product(RealProjectiveSpace(2), Sphere(2)),
}


@functools.cache
def space_named(name: str) -> Covering:
    """One instance a name: features of generic spaces take a moment to find."""
    return (SPACES | MORE)[name]()


ALL = list(SPACES)
FLAT = list(_CORE)
COMPACT = [name for name in ALL if math.isfinite(space_named(name).volume)]
COMPACT_FLAT = [name for name in FLAT if name in COMPACT]
PERIODIC = [name for name in FLAT if space_named(name).rank > 0]


def points(space: Covering, *shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    """Lifts of random points, (*shape, cover_dim)."""
    torch.manual_seed(seed)
    if math.isfinite(space.volume):
        return space.sample_uniform(torch.Size(shape), dtype, torch.device("cpu"))
    return torch.randn(*shape, space.cover_dim, dtype=dtype)


def onto_cover(space: Covering, x: Tensor) -> Tensor:
    """Any coordinates to the nearest point of the cover: R^n itself, or the unit sphere in R^(n + 1)."""
    if isinstance(space, Product):
        parts = zip(space.parts, space.split(x), strict=True)
        return torch.cat([onto_cover(part, piece) for part, piece in parts], -1)
    return x if isinstance(space, FlatManifold) else x / x.norm(dim=-1, keepdim=True)


def tangent_basis(space: Covering, x: Tensor) -> Tensor:
    """Orthonormal basis of the tangent space of the cover at one point, (cover_dim, dim)."""
    if isinstance(space, Product):
        parts = zip(space.parts, space.split(x), strict=True)
        return torch.block_diag(*(tangent_basis(part, piece) for part, piece in parts))
    if isinstance(space, FlatManifold):
        return torch.eye(space.dim, dtype=x.dtype)
    return torch.linalg.svd(x.unsqueeze(-1), full_matrices=True).U[:, 1:]


def orbit(space: Covering, x: Tensor, reach: int = 4) -> Tensor:
    """All images of ``x`` under deck transformations with lattice part in -reach..reach; (L, cover_dim)."""
    if isinstance(space, Product):
        parts = zip(space.parts, space.split(x), strict=True)
        images = [orbit(part, piece, reach) for part, piece in parts]
        index = torch.cartesian_prod(*(torch.arange(len(i)) for i in images))
        return torch.cat([i[k] for i, k in zip(images, index.unbind(1), strict=True)], -1)
    if isinstance(space, SphericalSpaceForm):
        return torch.einsum("jab,b->ja", space.elements.to(x), x)
    assert isinstance(space, FlatManifold), f"teach tests/cases.py the deck group of {space!r}"
    line = torch.arange(-reach, reach + 1, dtype=x.dtype)
    k = (
        torch.cartesian_prod(*[line] * space.rank).reshape(-1, space.rank)
        if space.rank
        else x.new_zeros(1, 0)
    )
    parts = [
        x @ a.T.to(x) + t.to(x) + k @ space.lattice.T.to(x)
        for a, t in zip(space.linear, space.shift, strict=True)
    ]
    return torch.cat(parts, -2)


# --- wrapped normals ---------------------------------------------------------------------------

# Stds along the axes, in units of the first three periods at most 2: narrow, medium, wide, mixed.
SCALES: dict[str, list[float]] = {
    "narrow": [1e-3, 1e-3, 1e-3],
    "small": [0.04, 0.05, 0.06],
    "medium": [0.2, 0.3, 0.25],
    "crossover": [0.37, 0.3701, 0.36],
    "large": [0.9, 1.1, 0.8],
    "wide": [30.0, 20.0, 40.0],
    "flat": [1e3, 1e3, 1e3],
    "mixed": [1e-3, 1e3, 0.3],
    "mixed-other": [1e3, 1e-3, 1e-3],
    "mixed-medium": [0.05, 2.0, 0.4],
}


def diagonal(space: Covering, name: str, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor(SCALES[name][: space.dim], dtype=dtype)


def tilted(space: Covering, name: str, dtype: torch.dtype = torch.float64) -> Tensor:
    """A full triangular factor: those stds, along tilted axes."""
    n = space.dim
    generator = torch.Generator().manual_seed(n)
    q = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64)).Q
    factor = torch.linalg.qr((q * diagonal(space, name)).T).R.T
    return (factor * factor.diagonal().sign()).to(dtype)


def brute_log_prob(space: FlatManifold, x: Tensor, loc: Tensor, scale_tril: Tensor) -> Tensor:
    """log sum over deck transformations of N(gamma x; loc, L L^T), one float64 term at a time.

    Sums every lattice vector within 9 stds and, as nothing need be there, the nearest ones besides. x: (N, n).
    """
    x, loc, scale_tril = x.double(), loc.double(), scale_tril.double()
    n, rank = space.lattice.shape
    log_norm = scale_tril.diagonal().log().sum() + 0.5 * n * math.log(2 * math.pi)
    whitened = torch.linalg.solve_triangular(scale_tril, space.lattice, upper=False)
    if rank:
        q, r = torch.linalg.qr(whitened)
    total = []
    for a, t in zip(space.linear, space.shift, strict=True):
        y = torch.linalg.solve_triangular(scale_tril, (x @ a.T + t - loc).T, upper=False).T
        for point in y:
            # p + R k, row by row from the last: the box of k_i that keeps |row i| below 9.
            p = (q.T @ point)[None] if rank else point[None, :0]
            across = point.square().sum() - p.square().sum()
            for i in reversed(range(rank)):
                step = r[i, i].abs().item()
                reach = torch.arange(-math.ceil(9 / step) - 1, math.ceil(9 / step) + 2, dtype=torch.float64)
                k = (-p[:, i] / r[i, i]).round()[:, None] + reach
                p = (p[:, None] + k[..., None] * r[:, i]).flatten(0, 1)
                kept = p[:, i].abs() <= 9 + step
                p = p[kept]
                assert len(p) < 4e6, "too many terms for brute force"
            total.append((-0.5 * (p.square().sum(-1) + across.clamp_min(0))).logsumexp(0))
    return torch.stack(total).reshape(-1, len(x)).logsumexp(0) - log_norm


def exact_density(space: FlatManifold, x: Tensor, loc: Tensor, scale_tril: Tensor) -> float:
    """sum over deck transformations of N(gamma x; loc, L L^T) at one point, with 50 digits: the arguments
    count as exact. Every term within 9 stds, found row by row in triangular coordinates."""
    with mpmath.workdps(50):
        n, rank = space.lattice.shape
        factor = mpmath.matrix(scale_tril.double().tolist())
        q, r = mpmath.qr(factor**-1 * mpmath.matrix(space.lattice.tolist()), mode="skinny")
        total = mpmath.mpf(0)

        def visit(i: int, p: list, used: mpmath.mpf) -> None:
            nonlocal total
            if i < 0:
                total += mpmath.exp(-used / 2)
                return
            reach = mpmath.sqrt(max(81 - used, 0)) / abs(r[i, i])
            center = -p[i] / r[i, i]
            for k in range(int(mpmath.ceil(center - reach)), int(mpmath.floor(center + reach)) + 1):
                moved = [p[j] + k * r[j, i] for j in range(i + 1)]
                visit(i - 1, moved, used + moved[i] ** 2)

        value, center = mpmath.matrix(x.double().tolist()), mpmath.matrix(loc.double().tolist())
        for a, t in zip(space.linear.tolist(), space.shift.tolist(), strict=True):
            y = factor**-1 * (mpmath.matrix(a) * value + mpmath.matrix(t) - center)
            p = list(q.T * y)
            visit(rank - 1, p, mpmath.fsum(v * v for v in y) - mpmath.fsum(v * v for v in p))
        norm = mpmath.fprod(factor[i, i] for i in range(n)) * mpmath.sqrt(2 * mpmath.pi) ** n
        return float(total / norm)


def brute_terms(space: FlatManifold, scale_tril: Tensor) -> float:
    """About how many terms `brute_log_prob` sums a point and sheet."""
    if space.rank == 0:
        return 1
    whitened = torch.linalg.solve_triangular(scale_tril.double(), space.lattice, upper=False)
    return (18 / torch.linalg.qr(whitened).R.diagonal().abs() + 3).prod().item()


def cell_grid(space: FlatManifold, side: int) -> tuple[Tensor, float]:
    """A regular grid of the lattice cell, and the volume of the base that each of its points stands for:
    for deck-invariant f the integral over the base is weight * sum f, as the cell covers it num_sheets times."""
    line = (torch.arange(side, dtype=torch.float64) + 0.25) / side
    unit = torch.cartesian_prod(*[line] * space.rank).reshape(-1, space.rank)
    return unit @ space.lattice.T, space.volume / len(unit)


def brute_kl_to_uniform(
    space: FlatManifold, log_prob: Callable[[Tensor], Tensor], side: int = 400
) -> float:
    """Integral of f log f over the base plus log volume, on a fine grid."""
    grid, weight = cell_grid(space, side)
    log_f = log_prob(grid)
    return (weight * (log_f.exp() * log_f).sum()).item() + math.log(space.volume)
