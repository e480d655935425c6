r"""Is a map of data to a space continuous, one to one, and does it keep the loops? A certificate that needs no truth.

The data are given as a complex: points, edges to near neighbours, and the triangles of edges. On every edge the
nearest lift of one end to the other gives a deck transformation. Where those of the three edges of a triangle
close up, the map extends over the triangle; where they do not, it is torn there: a *defect*. No defect at all
is the cocycle condition: the deck transformations are then a homomorphism of the complex's fundamental group to the
deck group, read off by lifting along a spanning tree, where the edges left over give the images of generators.
If these generate the deck group, the map is *onto* in degree one, and for data that are a copy of the space an
isomorphism, as the groups are Hopfian (Malcev).

Data on another space may have maps onto the group too: a Klein bottle is two Moebius bands, and pinching one of them
to a disk leaves a projective plane. Such a map folds or flattens a part, so that points far apart come together. What is
nearest on the space must therefore be near in the data: *folded* is the share of neighbours that are not. A continuous
map of closed surfaces that is one to one is a homeomorphism (invariance of domain).

A hole among the data that no triangle covers can hide a defect, so the complex must be fine beside the space.
Along open directions, and on spaces without loops, continuity is not read: the numbers of a
:class:`~topoprior.topology.fit.Fit` are all that is known of it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from topoprior.spaces.covering import Covering
from topoprior.spaces.deck import inverse
from topoprior.utils.checks import check_int, real_data
from topoprior.utils.plain import on_cpu

NEIGHBOURS = 32  # with 16 a map to a wrong space can hide its torn points in holes between triangles
_TOL = 1e-6
_NEAREST = 4  # on the space, which should be near in the data
_MOST_FOLDED = 0.01  # right fits have .000, on bands .002; a Klein bottle pinched to a projective plane .03
_MOST_BARE = 0.1  # share of edges without a triangle: beyond it the complex is more of a graph than a space


class Complex(NamedTuple):
    """Points, edges and triangles of data.

    Attributes:
        num: how many points.
        edges: pairs i < j, (E, 2), in lexicographic order.
        triangles: numbers of the edges ij, jk, ik of triples i < j < k, (T, 3).
    """

    num: int
    edges: Tensor
    triangles: Tensor

    @property
    def corners(self) -> Tensor:
        """The points of every triangle, (T, 3)."""
        return torch.cat([self.edges[self.triangles[:, 0]], self.edges[self.triangles[:, 1], 1:]], 1)


class Certificate(NamedTuple):
    """What is known of a map of data to a space.

    Attributes:
        defects: the triangles where the map is torn, as rows of the data (D, 3): none if it is continuous.
        triangles: how many were looked at.
        onto: whether the loops of the data reach the whole deck group.
        folded: share of nearest neighbours on the space that have no common neighbour in the data: 0 if the map is one to one.
        pieces: connected pieces of the data.
        bare: share of the edges that are in no triangle, so that nothing was checked there.
        loops: whether the space has any; without them all that is said is true of every map.
    """

    defects: Tensor
    triangles: int
    onto: bool
    folded: float
    pieces: int
    bare: float
    loops: bool

    @property
    def certified(self) -> bool:
        """No defect, onto, not folded, one piece, and triangles enough to say so."""
        return not self.objections

    @property
    def objections(self) -> list[str]:
        """Why it is not certified, in words."""
        found = []
        if self.pieces > 1:
            found.append(f"the data are {self.pieces} pieces")
        if not self.triangles or self.bare > _MOST_BARE:
            found.append(
                f"the neighbour graph is too sparse, {self.bare:.0%} of its edges are in no triangle"
            )
        if len(self.defects):
            rows = self.defects.unique()
            shown = ", ".join(map(str, rows[:5].tolist())) + (", ..." if len(rows) > 5 else "")
            found.append(
                f"the map is torn at {len(self.defects)} of {self.triangles:,} triangles, near rows {shown}"
            )
        elif not self.onto:
            found.append("the loops of the data do not reach those of the space")
        elif self.folded > _MOST_FOLDED:
            found.append(f"{self.folded:.1%} of the neighbours on the space are far apart in the data")
        return found

    def __str__(self) -> str:
        if self.objections:
            return "not certified: " + "; ".join(self.objections)
        if not self.loops:
            return "certified: one to one, but the space has no loops to follow"
        return f"certified: none of {self.triangles:,} triangles is torn, and all loops are reached"


@on_cpu
def neighbour_complex(x: Tensor, neighbours: int | None = None) -> Complex:
    """Edges of ``x`` (N, ...) to the nearest neighbours (default 32, or all), either way, and their triangles.

    Example:
        >>> angle = torch.arange(12) * math.pi / 6
        >>> found = neighbour_complex(torch.stack([angle.cos(), angle.sin()], 1), 4)
        >>> len(found.edges), len(found.triangles)  # i to i + 1 and i + 2; i, i + 1, i + 2
        (24, 12)
    """
    x = real_data("x", x).detach().flatten(1).double().cpu()
    neighbours = min(NEIGHBOURS, len(x) - 1) if neighbours is None else check_int("neighbours", neighbours)
    if len(x) <= neighbours:
        raise ValueError(f"x: expected more than {neighbours} points, found {len(x)}")
    nearest = torch.cdist(x, x).fill_diagonal_(math.inf).topk(neighbours, largest=False).indices
    rows = torch.arange(len(x)).repeat_interleave(neighbours)
    pairs = torch.stack([rows, nearest.flatten()], 1).sort(1).values
    keys = (pairs[:, 0] * len(x) + pairs[:, 1]).unique()
    edges = torch.stack([keys // len(x), keys % len(x)], 1)
    # Two edges ij, ik with j < k are a triangle if jk is an edge.
    later = edges[:, 0].bincount(minlength=len(x)).cumsum(0)[edges[:, 0]] - torch.arange(len(edges)) - 1
    first = torch.arange(len(edges)).repeat_interleave(later)
    second = torch.arange(len(first)) - (later.cumsum(0) - later)[first] + first + 1
    opposite = edges[first, 1] * len(x) + edges[second, 1]
    place = torch.searchsorted(keys, opposite).clamp(max=len(keys) - 1)
    closed = keys[place] == opposite
    return Complex(len(x), edges, torch.stack([first[closed], place[closed], second[closed]], 1))


@on_cpu
def dense_rows(x: Tensor, outliers: float, neighbours: int = NEIGHBOURS) -> Tensor:
    """Rows of ``x`` (N, ...) without the share ``outliers`` whose nearest neighbours are farthest, in order.

    Raises:
        ValueError: no share in [0, 1).

    Example:
        >>> dense_rows(torch.tensor([[0.0], [9.0], [0.1], [0.2]]), 0.25, 1)
        tensor([0, 2, 3])
    """
    if not 0 <= outliers < 1:
        raise ValueError(f"outliers: expected a share in [0, 1), found {outliers!r}")
    if not outliers:
        return torch.arange(len(x), device=x.device)
    x = x.flatten(1)
    near = torch.cdist(x, x).topk(min(neighbours + 1, len(x)), largest=False).values[:, -1]
    return near.argsort(stable=True)[: max(1, round((1 - outliers) * len(x)))].sort().values


@on_cpu
def certify(
    x: Tensor, latents: Tensor, space: Covering, *, neighbours: int = NEIGHBOURS, outliers: float = 0.0
) -> Certificate:
    """Whether ``latents`` (N, cover_dim) of data ``x`` (N, ...) are a continuous map that keeps the loops of ``space``.

    Args:
        neighbours: edges go to so many.
        outliers: leave out this share of the data, those that are farthest from their neighbours: noise far from
            the rest has neighbours all over the space, and a few defects.

    Raises:
        TypeError, ValueError: fewer data than neighbours, latents of another shape, no share.

    Example:
        >>> import topoprior as tp
        >>> K = tp.KleinBottle()
        >>> z = K.sample_uniform(torch.Size([500]), torch.float64, torch.device("cpu"))
        >>> print(certify(K.embed(z), K.project(z), K).certified)
        True
        >>> swapped = torch.where(z[:, :1] < 0.5, z, z.flip(1))  # u and v exchanged on a part
        >>> certify(K.embed(z), swapped, K).certified
        False
    """
    space._check_lift(latents, "latents")
    if len(latents) != len(x):
        raise ValueError(f"latents: expected {len(x)} as data, found {len(latents)}")
    kept = dense_rows(x, outliers, neighbours)
    found = check_latents(neighbour_complex(x[kept], neighbours), latents[kept], space)
    return found._replace(defects=kept.cpu()[found.defects])


@on_cpu
def check_latents(known: Complex, latents: Tensor, space: Covering) -> Certificate:
    """:func:`certify` for a complex that is known."""
    group = space.deck_group
    i, j = known.edges.unbind(1)
    with torch.no_grad():
        moves = space.nearest_deck(latents[i], latents[j])
    first, second, third = moves[known.triangles].unbind(1)
    torn = (first @ second - third).abs().amax((-2, -1)) > _TOL
    lifted, pieces = _lift_along_tree(known, moves)
    closing = lifted[i] @ moves @ inverse(lifted[j])
    distinct = (
        ((closing / _TOL).round() * _TOL + 0.0).flatten(1).unique(dim=0).unflatten(1, moves.shape[1:])
    )
    bare = 1 - len(known.triangles.unique()) / max(1, len(known.edges))
    return Certificate(
        known.corners[torn],
        len(torn),
        group.generated_by(distinct),
        _folded(known, latents, space),
        pieces,
        bare,
        len(group.generators) > 0,
    )


def _folded(known: Complex, latents: Tensor, space: Covering) -> float:
    """Share of the nearest neighbours on the space that have no edge nor a common neighbour in the data."""
    codes = space.embed(latents.detach().double().cpu())
    away = torch.cdist(codes, codes).fill_diagonal_(math.inf)
    nearest = away.topk(min(_NEAREST, known.num - 1), largest=False).indices
    linked = torch.eye(known.num, dtype=torch.bool)
    i, j = known.edges.unbind(1)
    linked[i, j] = linked[j, i] = True
    near = (linked[nearest] & linked.unsqueeze(1)).any(-1)
    return (~near).double().mean().item()


def _lift_along_tree(known: Complex, moves: Tensor) -> tuple[Tensor, int]:
    """The deck transformations that make all points near along a spanning tree (N, ...), and the number of trees.

    Breadth first, one level at a time.
    """
    ways = torch.cat([known.edges, known.edges.flip(1)])
    steps = torch.cat([moves, inverse(moves)])
    lifted = torch.eye(moves.shape[-1], dtype=moves.dtype).repeat(known.num, 1, 1)
    reached = torch.zeros(known.num, dtype=torch.bool)
    pieces = 0
    while not reached.all():
        reached[int(reached.to(torch.uint8).argmin())] = True
        pieces += 1
        while True:
            new = (reached[ways[:, 0]] & ~reached[ways[:, 1]]).nonzero().squeeze(1)
            if not len(new):
                break
            chosen = torch.full((known.num,), len(ways)).scatter_reduce(0, ways[new, 1], new, "amin")
            chosen = chosen[chosen < len(ways)]
            source, target = ways[chosen].unbind(1)
            lifted[target] = lifted[source] @ steps[chosen]
            reached[target] = True
    return lifted, pieces
