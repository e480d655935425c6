r"""Does a map to a space keep the space's loops? Read off deck transformations along encoded paths.

A loop on base = cover / Gamma lifts to a path of the cover from x to gamma x; gamma is its class. A
continuous map of the space to itself sends classes by a homomorphism of Gamma, and is a homotopy
equivalence (on a flat manifold) only if that is an automorphism. The groups here are finitely generated
and residually finite, so a homomorphism onto Gamma is one to one (Malcev): the loops are kept if and only
if the images of generators generate Gamma.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from topoprior.spaces.covering import Covering
from topoprior.spaces.flat.group import generate_group
from topoprior.spaces.flat.lattices import solvable
from topoprior.spaces.flat.manifold import FlatManifold
from topoprior.spaces.spherical.manifold import SphericalSpaceForm

Isometry = tuple[Tensor, Tensor]  # x -> A x + t
SAFE_STEP = 0.25  # of the shortest loop: nearest lifts are unique below half of it
_TOL = 1e-6
_FINEST = 2.0**-22  # of a loop: what lies closer cannot be told apart in float32


class LoopReport(NamedTuple):
    """What became of the generating loops.

    Attributes:
        generators: the class of every loop before, as isometries (A, t) of the cover.
        images: and after.
        preserved: whether the images generate the whole group; None where a path jumps so far that its
            lift is a guess, ``largest_step`` above a quarter of ``shortest_loop``.
        largest_step: the longest step of the lifted paths.
        shortest_loop: length of the shortest closed geodesic that is no point.
    """

    generators: list[Isometry]
    images: list[Isometry]
    preserved: bool | None
    largest_step: float
    shortest_loop: float


def generators(space: Covering) -> list[Isometry]:
    """Deck transformations that generate the group of ``space``, none of them superfluous.

    Raises:
        TypeError: neither a flat manifold nor a spherical space form.

    Example:
        >>> import topoprior as tp
        >>> [t.tolist() for _, t in generators(tp.KleinBottle())]
        [[1.0, 0.0], [0.0, 1.0]]
    """
    chosen = _elements(space)
    for item in reversed(chosen.copy()):
        rest = [other for other in chosen if other is not item]
        if generate_all(space, rest):
            chosen = rest
    return chosen


def _generic_point(space: Covering) -> Tensor:
    """Some point without symmetries, the same every time."""
    if isinstance(space, FlatManifold):
        inside = torch.arange(1, space.rank + 1, dtype=torch.float64).sqrt().frac() + 0.17
        return space.lattice @ inside + 0.1 * space.across_basis.sum(1)
    x = torch.arange(1, space.cover_dim + 1, dtype=torch.float64).sqrt()
    return x / x.norm()


def _elements(space: Covering) -> list[Isometry]:
    eye, zero = _identity(space)
    if isinstance(space, FlatManifold):
        cosets = list(zip(space.linear[1:], space.shift[1:], strict=True))
        return cosets + [(eye, column) for column in space.lattice.T.flip(0)]
    if isinstance(space, SphericalSpaceForm):
        return [(a, zero) for a in space.elements[1:]]
    raise TypeError(f"space: expected a flat manifold or a spherical space form, found {space!r}")


def _identity(space: Covering) -> Isometry:
    eye = torch.eye(space.cover_dim, dtype=torch.float64)
    return eye, torch.zeros(space.cover_dim, dtype=torch.float64)


def generate_all(space: Covering, elements: list[Isometry]) -> bool:
    """Whether deck transformations generate the whole group.

    Example:
        >>> import topoprior as tp
        >>> eye = torch.eye(1, dtype=torch.float64)
        >>> [generate_all(tp.Circle(), [(eye, torch.full((1,), n).double())]) for n in (1, -1, 2)]
        [True, True, False]
    """
    if isinstance(space, SphericalSpaceForm):
        found = [torch.eye(space.cover_dim, dtype=torch.float64)]
        for a in found:  # grows while it is read
            for b, _ in elements:
                if all((a @ b - c).abs().max() > _TOL for c in found):
                    found.append(a @ b)
        return len(found) == space.num_sheets
    assert isinstance(space, FlatManifold)
    moving = [(a, t) for a, t in elements if (a - _identity(space)[0]).abs().max() + t.abs().max() > _TOL]
    if not moving:
        return space.rank == 0 and space.num_sheets == 1
    lattice, cosets = generate_group(moving)
    same_rank = lattice.shape[1] == space.rank
    return (
        same_rank and len(cosets) == space.num_sheets and math.isclose(_cell(lattice), _cell(space.lattice))
    )


def _cell(lattice: Tensor) -> float:
    return (lattice.T @ lattice).det().sqrt().item()


def shortest_loop(space: Covering) -> float:
    """Length of the shortest loop that cannot be drawn together, ``inf`` where every loop can.

    On flat manifolds an element (A, t), A of order o, moves points by |v| / o at least, v the lattice
    vector that its o-th power translates by.

    Raises:
        TypeError: neither a flat manifold nor a spherical space form.

    Example:
        >>> import topoprior as tp
        >>> shortest_loop(tp.KleinBottle()), round(shortest_loop(tp.RealProjectiveSpace(2)), 4)
        (1.0, 3.1416)
    """
    if isinstance(space, SphericalSpaceForm):
        return space.shortest if space.num_sheets > 1 else math.inf
    if not isinstance(space, FlatManifold):
        raise TypeError(f"space: expected a flat manifold or a spherical space form, found {space!r}")
    if not space.rank:
        return math.inf
    best = space.lattice.norm(dim=0).min().item()
    if space.periods is None:  # along axes the shortest period is the shortest vector
        best = math.hypot(*space._short_vectors(best)[1])
    dual = torch.linalg.pinv(space.lattice)
    for a, t in zip(space.linear[1:], space.shift[1:], strict=True):
        order, power, total = 1, a, torch.eye(space.dim, dtype=a.dtype)
        while (power - _identity(space)[0]).abs().max() > _TOL:
            order, total, power = order + 1, total + power, power @ a
        rows = (dual @ total @ space.lattice).round().long().tolist()
        for vector in space._short_vectors(order * best):
            shift = dual @ (torch.tensor(vector, dtype=a.dtype) - total @ t)
            if solvable(rows, shift.round().long().tolist()):
                best = min(best, math.hypot(*vector) / order)
                break  # they come by length
    return best


def path_to(space: Covering, base: Tensor, element: Isometry, s: Tensor) -> Tensor:
    """Points at s in [0, 1] (M,) of the shortest path of the cover from ``base`` to its image, (M, cover_dim)."""
    a, t = element
    end = a.to(base) @ base + t.to(base)
    s = s.to(base).unsqueeze(1)
    if isinstance(space, FlatManifold):
        return base + s * (end - base)
    across = end - (end @ base) * base
    if across.norm() < 1e-6:  # the antipode: any great circle
        axis = torch.zeros_like(base)
        axis[base.abs().argmin()] = 1
        across = axis - (axis @ base) * base
    angle = s * torch.atan2((end - (end @ base) * base).norm(), end @ base)
    return angle.cos() * base + angle.sin() * across / across.norm()


def lift_path(space: Covering, points: Tensor) -> Tensor:
    """Lifts of ``points`` (M, cover_dim), each the nearest to the one before: a continuous path."""
    lifted = [points[0]]
    for point in points[1:]:
        here = lifted[-1]
        if isinstance(space, FlatManifold):
            lifted.append(here + space.difference(here, point))
        else:
            images = space.lifts(point, math.inf)
            lifted.append(images[(images @ here).argmax()])
    return torch.stack(lifted)


def deck_element(space: Covering, start: Tensor, end: Tensor) -> Isometry:
    """The deck transformation that takes ``start`` nearest to ``end``, both lifts of one point."""
    start, end = start.double().cpu(), end.double().cpu()
    if not isinstance(space, FlatManifold):
        candidates = _elements(space)
        candidates.insert(0, _identity(space))
        return min(candidates, key=lambda pair: (pair[0] @ start - end).norm().item())
    images = space.sheets(start)
    cells = space.lattice_coordinates(end - images).round() @ space.lattice.T
    best = (images + cells - end).norm(dim=-1).argmin()
    return space.linear[best], space.shift[best] + cells[best]


def follow_loops(
    space: Covering,
    encode: Callable[[Tensor], Tensor],
    *,
    base: Tensor | None = None,
    num: int = 400,
    max_points: int = 20_000,
) -> LoopReport:
    """Send the generating loops of ``space`` through ``encode``, and read off what they became.

    A loop is encoded at ``num`` points, and again between any two that came out farther apart than a quarter
    of the shortest loop of the space, where the nearest lift could be the wrong one. Where halving does
    not help, ``encode`` jumps: then ``preserved`` is None.

    Args:
        encode: points of the space, lifts (N, cover_dim), to points of the same space: render and encode.
        base: where the loops start, a lift (cover_dim,).
        num: points on each loop at first.
        max_points: and at most.

    Raises:
        ValueError: ``num`` below 2, or ``base`` or what ``encode`` returns of another shape.

    Example:
        >>> import topoprior as tp
        >>> twice = follow_loops(tp.Circle(), lambda x: 2 * x)  # winds round twice
        >>> twice.preserved, twice.images[0][1].tolist()
        (False, [2.0])
        >>> print(follow_loops(tp.Circle(), lambda x: 0.4 * x.floor()).preserved)  # jumps
        None
    """
    if num < 2:
        raise ValueError(f"num: expected at least 2, found {num}")
    if base is None:
        base = _generic_point(space)
    space._check_lift(base, "base")
    shortest = shortest_loop(space)
    found, images, longest = generators(space), [], 0.0
    for element in found:
        points = _encoded(space, encode, base, element, num, max_points, SAFE_STEP * shortest)
        # The last point is the first one, on the other end of the loop: the same lift is asked for.
        lifted = lift_path(space, torch.cat([points, points[:1]]))
        longest = max(longest, _steps(space, points).max().item())
        images.append(deck_element(space, lifted[0], lifted[-1]))
    kept = generate_all(space, images) if longest <= SAFE_STEP * shortest else None
    return LoopReport(found, images, kept, longest, shortest)


def _encoded(
    space: Covering,
    encode: Callable[[Tensor], Tensor],
    base: Tensor,
    element: Isometry,
    num: int,
    max_points: int,
    safe: float,
) -> Tensor:
    """The loop from ``base`` to its image after ``encode``, halved where steps exceed ``safe``, (M, cover_dim)."""

    def at(s: Tensor) -> Tensor:
        points = encode(path_to(space, base, element, s)).detach().double().cpu()
        if points.shape != (len(s), space.cover_dim):
            raise ValueError(
                f"encode: expected to return shape {(len(s), space.cover_dim)}, found {tuple(points.shape)}"
            )
        return points

    s = torch.arange(num, dtype=torch.float64) / num
    points = at(s)
    while True:
        gaps = torch.cat([s[1:], s.new_ones(1)]) - s
        wide = (_steps(space, points) > safe) & (gaps > _FINEST)
        if not wide.any() or len(s) + int(wide.sum()) > max_points:
            return points
        between = s[wide] + gaps[wide] / 2
        s, order = torch.cat([s, between]).sort()
        points = torch.cat([points, at(between)])[order]


def _steps(space: Covering, points: Tensor) -> Tensor:
    """Distances between neighbours on a closed loop (M, cover_dim), (M,)."""
    return space.distance(points, points.roll(-1, 0))
