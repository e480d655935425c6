"""Persistent homology of point clouds: which surface do these kernels lie on? Needs the `topology` extra."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from topoprior.utils.checks import check_data, check_int, real_data
from topoprior.utils.extras import needed
from topoprior.utils.plain import on_cpu


@on_cpu
def farthest_points(x: Tensor, num: int) -> Tensor:
    """Indices of ``num`` points of ``x`` (N, d), each the farthest from those before: an even cover.

    Example:
        >>> farthest_points(torch.tensor([[0.0], [0.1], [1.0]]), 2)
        tensor([0, 2])
    """
    if num < 1:
        raise ValueError(f"num: expected at least 1 point, found {num}")
    x = real_data("x", x)
    num = min(num, len(x))
    chosen = [0]
    gap = (x - x[0]).norm(dim=-1)
    while len(chosen) < num:
        chosen.append(int(gap.argmax()))
        gap = torch.minimum(gap, (x - x[chosen[-1]]).norm(dim=-1))
    return torch.tensor(chosen)


@on_cpu
def persistence(x: Tensor, *, field: int = 2, max_dim: int = 2, num_points: int = 300) -> list[np.ndarray]:
    """Persistence diagrams (births, deaths) of the Rips filtration over Z/field, one array a dimension.

    Args:
        x: points, (N, ...); flattened, and thinned to ``num_points`` that cover them evenly.
        field: a prime; the Klein bottle's homology differs over Z/2 and Z/3.
        max_dim: 2 takes minutes beyond 500 points.

    Raises:
        TypeError, ValueError: no finite points, ``field`` no prime, ``max_dim`` negative, ``num_points`` below 1.
        ImportError: ripser is missing; the message says how to install it.
    """
    check_data("x", x)
    check_int("num_points", num_points)
    check_int("max_dim", max_dim, least=0)
    check_int("field", field, least=2)
    if any(field % p == 0 for p in range(2, math.isqrt(field) + 1)):
        raise ValueError(f"field: expected a prime, found {field}")
    ripser = needed("ripser", "persistent homology", "'topoprior[topology]'").ripser
    points = x.detach().flatten(1).double().cpu()
    points = points[farthest_points(points, num_points)]
    with warnings.catch_warnings():  # images have more pixels than there are points
        warnings.filterwarnings("ignore", message="The input point cloud has more columns than rows")
        return ripser(points.numpy(), maxdim=max_dim, coeff=field)["dgms"]


def betti_numbers(diagrams: list[np.ndarray]) -> tuple[int, ...]:
    """Betti numbers read from the diagrams: the most classes of each degree alive at one scale that
    lies where dimension 0 has become connected and that lasts longest.

    The reading takes, over all scales above the one that connects the points, the vector of numbers
    of living classes that holds for the longest range of scales (in log scale).
    """
    connected = max((float(death) for _, death in diagrams[0] if math.isfinite(death)), default=0.0)
    bars = [d[d[:, 1] > connected] if len(d) else np.zeros((0, 2)) for d in diagrams]
    last = max((float(d[np.isfinite(d[:, 1]), 1].max(initial=0.0)) for d in diagrams), default=0.0)
    ends = {max(float(t), connected) for d in bars for t in d.flatten() if math.isfinite(t)} | {connected}
    cuts = sorted(t for t in ends if connected <= t <= last and t > 0)
    lengths: dict[tuple[int, ...], float] = {}
    for low, high in zip(cuts, cuts[1:], strict=False):
        middle = (low + high) / 2
        numbers = tuple(int(((d[:, 0] <= middle) & (d[:, 1] > middle)).sum()) for d in bars)
        lengths[numbers] = lengths.get(numbers, 0.0) + math.log(high / low)
    if not lengths:
        return (1,) + (0,) * (len(diagrams) - 1)
    return max(lengths, key=lambda numbers: lengths[numbers])


# Betti numbers over Z/2 and over Z/3.
_SURFACES = {
    ((1, 0, 0), (1, 0, 0)): "a point, or anything contractible",
    ((1, 1, 0), (1, 1, 0)): "a circle (or an annulus)",
    ((1, 2, 1), (1, 1, 0)): "a Klein bottle",
    ((1, 2, 1), (1, 2, 1)): "a torus",
    ((1, 0, 1), (1, 0, 1)): "a sphere",
    ((1, 1, 1), (1, 0, 0)): "a projective plane",
    (
        (1, 5, 0),
        (1, 5, 0),
    ): "three circles, two of which meet the first in two points each (or a graph like it)",
}


def betti_reading(over_2: Sequence[int], over_3: Sequence[int]) -> str:
    """The spaces of the kernel literature that have these Betti numbers over Z/2 and Z/3.

    Fewer numbers than three leave more spaces. Numbers do not prove a space: they rule others out.

    Example:
        >>> betti_reading((1, 2, 1), (1, 1, 0))
        'as of a Klein bottle'
        >>> betti_reading((1, 5), (1, 4))
        'as of none of the spaces known here'
    """
    if len(over_2) != len(over_3):
        raise ValueError(f"over_3: expected {len(over_2)} numbers as over_2, found {len(over_3)}")
    degrees = len(over_2)
    names = [
        name
        for (two, three), name in _SURFACES.items()
        if two[:degrees] == tuple(over_2)[:3] and three[:degrees] == tuple(over_3)[:3]
    ]
    return "as of " + (" or of ".join(names) if names else "none of the spaces known here")
