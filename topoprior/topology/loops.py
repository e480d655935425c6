r"""Does a map to a space keep the space's loops? Read off deck transformations along encoded paths.

A loop on base = cover / Gamma lifts to a path of the cover from x to gamma x; gamma is its class. A
continuous map of the space to itself sends classes by a homomorphism of Gamma, and is a homotopy
equivalence (on a flat manifold) only if that is an automorphism. The groups here are finitely generated
and residually finite, so a homomorphism onto Gamma is one to one (Malcev): the loops are kept if and only
if the images of generators generate Gamma. What sends the generators to elements that break a relation of
Gamma is no homomorphism: that map is torn, however smooth it is along the loops.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from topoprior.spaces.covering import Covering
from topoprior.spaces.deck import apply, inverse
from topoprior.utils.checks import check_int
from topoprior.utils.plain import on_cpu

SAFE_STEP = 0.25  # of the shortest loop: nearest lifts are unique below half of it
_TOL = 1e-6
_FINEST = 2.0**-22  # of a loop: what lies closer cannot be told apart in float32
_SECOND_GRID = (1 + math.sqrt(5)) / 2  # times as many points: no simple fraction, so the two share few


class LoopReport(NamedTuple):
    """What became of the generating loops.

    Attributes:
        generators: the class of every loop before, as isometries [[A, t], [0, 1]] of the cover,
            (G, cover_dim + 1, cover_dim + 1).
        images: and after, seen from the first base point.
        preserved: whether the images generate the whole group. False too where the map is torn: relations
            are broken, or other base points disagree. None where a path jumps so far that its lift is
            a guess, ``largest_step`` above a quarter of ``shortest_loop``, or turns too fast to follow.
        broken: relations of the group that the images do not satisfy, and images that another base point
            sees otherwise.
        largest_step: the longest step of the lifted paths.
        shortest_loop: length of the shortest closed geodesic that is no point.
    """

    generators: Tensor
    images: Tensor
    preserved: bool | None
    broken: int
    largest_step: float
    shortest_loop: float


def _along(space: Covering, points: Tensor) -> Tensor:
    """The deck transformations that make ``points`` (M, cover_dim) a continuous path, the first left where it is.

    That of a point is the product of all steps before it: a scan, in log M rounds.
    """
    eye = torch.eye(space.cover_dim + 1, dtype=torch.float64)
    moves = torch.cat([eye.unsqueeze(0), space.nearest_deck(points[:-1], points[1:])])
    reach = 1
    while reach < len(moves):
        moves = torch.cat([moves[:reach], moves[:-reach] @ moves[reach:]])
        reach *= 2
    return moves


@on_cpu
def follow_loops(
    space: Covering,
    encode: Callable[[Tensor], Tensor],
    *,
    base: Tensor | None = None,
    num: int = 400,
    max_points: int = 20_000,
) -> LoopReport:
    """Send the generating loops of ``space`` through ``encode``, and read off what they became.

    A loop is encoded at ``num`` points evenly spread, and again between any two that came out farther apart than
    a quarter of the shortest loop of the space, where the nearest lift could be the wrong one. All of it once
    more with 1.618 times as many points: a map that turns round between the points of one grid reads
    otherwise on the other, then both are doubled. Where that does not help, ``encode`` jumps, and
    ``preserved`` is None.

    The images must satisfy the relations of the group, and be the same from every base point, up to the path
    between: a map that is torn at points, where no loop passes, is found out by that.

    Args:
        encode: points of the space, lifts (N, cover_dim), to points of the same space: render and encode.
        base: where the loops start, lifts (cover_dim,) or (B, cover_dim); default three.
        num: points on each loop at first.
        max_points: and at most.

    Raises:
        TypeError, ValueError: ``num`` below 2, or ``base`` or what ``encode`` returns of another shape.

    Example:
        >>> import topoprior as tp
        >>> twice = follow_loops(tp.Circle(), lambda x: 2 * x)  # winds round twice
        >>> twice.preserved, twice.images[0, 0, 1].item()
        (False, 2.0)
        >>> print(follow_loops(tp.Circle(), lambda x: 0.4 * x.floor()).preserved)  # jumps
        None
    """
    check_int("num", num, least=2)
    check_int("max_points", max_points)
    bases = space.generic_points(3) if base is None else base.double()
    space._check_lift(bases, "base")
    bases = bases.reshape(-1, space.cover_dim)
    group, safe = space.deck_group, SAFE_STEP * space.shortest_loop
    values = _encoded(space, encode, bases)
    longest, clear = 0.0, True

    def follow(start: int, end: int, target: Tensor) -> Tensor:
        """The deck transformation that takes values[end] to where the encoded path to ``target`` ends."""
        nonlocal longest, clear
        count, ends = num, values[[start, end]]
        while True:
            readings = []
            for grid in (count, round(_SECOND_GRID * count)):
                points = _path(space, encode, bases[start], target, ends, grid, max_points, safe)
                readings.append(_along(space, points)[-1])
                longest = max(longest, _steps(space, points).max().item())
            agree = bool((readings[0] - readings[1]).abs().max() < _TOL)
            count *= 2
            if longest > safe or agree or _SECOND_GRID * count > max_points:
                clear = clear and agree and longest <= safe
                return readings[0]

    identity = torch.eye(space.cover_dim + 1, dtype=torch.float64)
    seen = []
    for at, point in enumerate(bases):
        loops = [follow(at, at, apply(element, point)) for element in group.generators]
        seen.append(torch.stack([identity, *loops])[1:])
    broken = group.broken_relations(seen[0])
    for at in range(1, len(bases)):
        way = follow(0, at, bases[at])
        broken += int(((way @ seen[at] @ inverse(way) - seen[0]).abs().amax((-2, -1)) > _TOL).sum())
    kept = not broken and group.generated_by(seen[0]) if clear else None
    return LoopReport(group.generators, seen[0], kept, broken, longest, space.shortest_loop)


def _encoded(space: Covering, encode: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    points = encode(x).detach().double().cpu()
    if points.shape != x.shape:
        raise ValueError(f"encode: expected to return shape {tuple(x.shape)}, found {tuple(points.shape)}")
    return points


def _path(
    space: Covering,
    encode: Callable[[Tensor], Tensor],
    start: Tensor,
    target: Tensor,
    ends: Tensor,
    num: int,
    max_points: int,
    safe: float,
) -> Tensor:
    """The path from ``start`` to ``target`` after ``encode``, ``ends`` at its ends, halved where steps exceed ``safe``."""
    s = torch.linspace(0, 1, num + 1, dtype=torch.float64)

    def at(s: Tensor) -> Tensor:
        return _encoded(space, encode, space.cover_path(start, target, s))

    points = torch.cat([ends[:1], at(s[1:-1]), ends[1:]])
    while True:
        gaps = s.diff()
        wide = (_steps(space, points) > safe) & (gaps > _FINEST)
        if not wide.any() or len(s) + int(wide.sum()) > max_points:
            return points
        between = s[:-1][wide] + gaps[wide] / 2
        s, order = torch.cat([s, between]).sort()
        points = torch.cat([points, at(between)])[order]


def _steps(space: Covering, points: Tensor) -> Tensor:
    """Distances between neighbours on a path (M, cover_dim), (M - 1,)."""
    return space.distance(points[:-1], points[1:])
