"""WrappedNormal and UniformOn: the torch.distributions contract, densities against brute force, sampling."""

import math
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.distributions import Normal

from tests.spaces.cases import (
    COMPACT_FLAT,
    FLAT,
    PERIODIC,
    SCALES,
    brute_log_prob,
    brute_terms,
    cell_grid,
    diagonal,
    exact_density,
    orbit,
    points,
    space_named,
    tilted,
)
from topoprior import FlatManifold, KleinBottle, WrappedNormal
from topoprior.distributions.quadrature import wrapped_normal_nodes

# The general path is the slow one: fewer scales on tilted axes, and fewer still in three dimensions.
DENSITIES = [
    (name, scales, kind)
    for name in FLAT
    for scales in SCALES
    for kind in ("diagonal", "full")
    if kind == "diagonal"
    or scales
    in (
        ("medium", "mixed-medium")
        if space_named(name).dim == 3
        else ("narrow", "medium", "crossover", "flat", "mixed")
    )
]
DTYPES = [torch.float32, torch.float64]
KINDS = ["diagonal", "full"]
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}


def close(a: Tensor, b: Tensor, atol: float = 1e-9) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=atol)


def wrapped(space: FlatManifold, loc: Tensor, scales: str, kind: str, **kwargs: Any) -> WrappedNormal:
    if kind == "diagonal":
        return WrappedNormal(space, loc, diagonal(space, scales, loc.dtype), **kwargs)
    return WrappedNormal(space, loc, scale_tril=tilted(space, scales, loc.dtype), **kwargs)


# --- densities ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "scales", "kind"), DENSITIES)
def test_log_prob_is_the_sum_over_lifts(name: str, scales: str, kind: str, dtype: torch.dtype) -> None:
    space = space_named(name)
    loc = points(space, dtype=dtype, seed=1)
    q = wrapped(space, loc, scales, kind)
    x = points(space, 4, dtype=dtype, seed=2)
    x[0], x[1] = loc, q.sample()
    got = q.log_prob(x)
    assert got.dtype == dtype
    if brute_terms(space, q.scale_tril) > 6e4:
        expected = torch.full((4,), -math.log(space.volume), dtype=torch.float64)
        if q.scale_tril.double().svd().S.min() < 3:
            pytest.skip("too many terms for brute force, and not flat")
    else:
        expected = brute_log_prob(space, x, loc, q.scale_tril)
    peak = max(1.0, expected.exp().max().item())
    # The oracle's own rounding: positions to 1e-16, which tilted axes multiply by the ratio of the stds.
    std = torch.linalg.svdvals(q.scale_tril.double())
    rounding = 3e-15 / min(1.0, std.min().item()) * max(1.0, std.max().item())
    error = (got.double().exp() - expected.exp()).abs().max() / peak
    assert error < TOLERANCE[dtype] + rounding


EXACT = [
    (name, scales, kind)
    for name in ("klein", "moebius", "hexagonal", "third-turn")
    for scales in ("narrow", "small", "medium", "mixed-medium", "mixed", "mixed-other")
    for kind in KINDS
    if name != "third-turn" or scales in ("narrow", "small", "mixed-medium")  # else too many terms
    if kind == "full" or scales not in ("mixed", "mixed-other")
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "scales", "kind"), EXACT)
def test_density_to_the_stated_accuracy(name: str, scales: str, kind: str, dtype: torch.dtype) -> None:
    """Against 50 digits, at the center, near it, on other lifts and far away: error beside the peak."""
    space = space_named(name)
    loc = points(space, dtype=dtype, seed=1)
    q = wrapped(space, loc, scales, kind)
    x = q.sample()
    lifts = space.lifts(x, 2.0)
    x = torch.stack([loc, x, lifts[len(lifts) // 3], lifts[-1] + 3 * space.lattice.sum(1).to(dtype)])
    x = x[2:] if scales.startswith("mixed-o") or scales == "mixed" else x  # thousands of terms a point
    expected = [exact_density(space, point, loc, q.scale_tril) for point in x]
    peak = max(1.0, *expected)
    for log_density, density in zip(q.log_prob(x).double().tolist(), expected, strict=True):
        assert abs(math.exp(log_density) - density) < TOLERANCE[dtype] * peak


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scales", ["small", "mixed-medium"])
@pytest.mark.parametrize("name", PERIODIC)
def test_density_is_deck_invariant(name: str, scales: str, kind: str) -> None:
    space = space_named(name)
    q = wrapped(space, points(space, seed=1), scales, kind)
    x = q.sample()
    values = q.log_prob(orbit(space, x, reach=2))
    close(values, q.log_prob(x).expand_as(values), 1e-9)


@pytest.mark.parametrize(
    ("name", "scales"), [(name, scales) for name, scales, kind in DENSITIES if kind == "full"]
)
def test_diagonal_and_full_agree(name: str, scales: str) -> None:
    space = space_named(name)
    loc, scale = points(space, 3, seed=1), diagonal(space, scales)
    a, b = WrappedNormal(space, loc, scale), WrappedNormal(space, loc, scale_tril=torch.diag(scale))
    x = points(space, 5, 3, seed=2)
    difference = (a.log_prob(x).exp() - b.log_prob(x).exp()).abs().max()
    assert difference < 1e-9 * max(1.0, a.log_prob(loc).exp().max().item())
    torch.manual_seed(0)
    first = a.rsample()
    torch.manual_seed(0)
    close(first, b.rsample())


# Every std a thousandth to a thousand periods; mass is sought where the normal is narrow, else on the whole cell.
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("u", [1e-3, 0.03, 0.3, 1.0, 30.0, 1e3])
@pytest.mark.parametrize("v", [1e-3, 0.03, 0.3, 1.0, 30.0, 1e3])
def test_integrates_to_one_on_the_klein_bottle(u: float, v: float, dtype: torch.dtype) -> None:
    K, loc = KleinBottle(), torch.tensor([0.3, 0.27], dtype=dtype)
    q = WrappedNormal(K, loc, torch.tensor([u, v], dtype=dtype))
    lines, cells, narrow = [], 1.0, False
    for scale, period, center in zip((u, v), (2.0, 1.0), loc.double().tolist(), strict=True):
        half = min(7.5 * scale, period / 2)
        narrow |= half < 0.24  # then the image under the glide reflection lies outside the window
        lines.append(center + half * ((torch.arange(240, dtype=torch.float64) + 0.5) / 120 - 1))
        cells *= half / 120
    density = q.log_prob(torch.cartesian_prod(*lines).to(dtype)).double().exp()
    total = density.sum().item() * cells / (1 if narrow else K.num_sheets)
    rounding = 1.0 if dtype == torch.float64 else 1e8
    assert total == pytest.approx(1, abs=1e-11 * rounding)


@pytest.mark.parametrize(
    ("name", "scales", "kind"),
    [
        (name, scales, kind)
        for name in COMPACT_FLAT
        for scales in (["medium"] if space_named(name).dim == 3 else ["small", "crossover", "flat"])
        for kind in KINDS
    ],
)
def test_integrates_to_one(name: str, kind: str, scales: str) -> None:
    space = space_named(name)
    q = wrapped(space, points(space, seed=1), scales, kind)
    grid, weight = cell_grid(space, {1: 400, 2: 120, 3: 16}[space.dim])
    total = sum(q.log_prob(part).exp().sum().item() for part in grid.split(5000)) * weight
    assert total == pytest.approx(1, abs=1e-10 if space.dim < 3 else 1e-4)


def test_not_the_bijective_trap() -> None:
    """A normal wrapped with a bijection and no Jacobian loses the mass outside the domain; ours has it."""
    K = KleinBottle()
    loc = torch.tensor([0.5, 0.5], dtype=torch.float64)
    q = WrappedNormal(K, loc, torch.tensor([0.6, 0.6], dtype=torch.float64))
    normal = Normal(loc, 0.6)
    line = (torch.arange(200, dtype=torch.float64) + 0.5) / 200
    square = torch.cartesian_prod(line, line)  # the fundamental domain
    assert normal.log_prob(square).sum(-1).exp().mean() < 0.5
    assert q.log_prob(square).exp().mean() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("name", "scales"),
    [
        ("klein", "small"),
        ("klein", "mixed-medium"),
        ("moebius", "medium"),
        ("hexagonal", "small"),
        ("circle", "medium"),
        ("hantzsche-wendt", "medium"),
        ("third-turn", "medium"),
    ],
)
def test_samples_follow_log_prob(name: str, kind: str, scales: str) -> None:
    """Chi-square on bins of the lattice cell.

    Seeds are fixed. Over random seeds each case would fail a correct implementation one time in 1e5.
    """
    space = space_named(name)
    q = wrapped(space, points(space, seed=3), scales, kind)
    x = q.sample((20000,))
    # On a random sheet and wrapped to the lattice cell, samples have density q / num_sheets there.
    sheet = torch.randint(space.num_sheets, (len(x),))
    x = space.sheets(x)[torch.arange(len(x)), sheet]
    bins = {1: 40, 2: 8, 3: 4}[space.dim]
    fine = bins * {1: 50, 2: 20, 3: 4}[space.dim]
    lines = [(torch.arange(fine, dtype=torch.float64) + 0.5) / fine] * space.dim
    unit = torch.cartesian_prod(*lines).reshape(-1, space.dim)
    # The open direction of the Moebius band is binned on a window that holds all the mass.
    reach = 1.2 * x[:, 1].abs().max().item() if name == "moebius" else 0.0
    frame = torch.tensor([[2.0, 0.0], [0.0, 2 * reach]]).double() if reach else space.lattice
    grid = (unit - 0.5) @ frame.T

    def cell(coordinates: Tensor) -> Tensor:
        index = (coordinates * bins).floor().long().clamp(0, bins - 1)
        return (index * bins ** torch.arange(space.dim)).sum(-1)

    where = space.wrap(x) @ torch.linalg.inv(frame).T + 0.5
    density = torch.cat([q.log_prob(part).exp() for part in grid.split(20000)])
    expected = torch.zeros(bins**space.dim, dtype=torch.float64).index_add(0, cell(unit), density)
    expected = 20000 * expected * frame.det().abs() / space.num_sheets / len(unit)
    assert expected.sum().item() == pytest.approx(20000, rel=1e-3)
    observed = torch.bincount(cell(where), minlength=len(expected)).double()
    rare = expected < 8
    pooled = [torch.cat([c[~rare], c[rare].sum()[None]]) for c in (observed, expected)]
    if pooled[1][-1] < 8:
        pooled = [torch.cat([c[:-2], c[-2:].sum()[None]]) for c in pooled]
    assert len(pooled[0]) > 4
    statistic = ((pooled[0] - pooled[1]) ** 2 / pooled[1]).sum().item()
    assert stats.chi2.sf(statistic, len(pooled[0]) - 1) > 1e-5


@pytest.mark.parametrize("scales", ["narrow", "medium", "crossover", "flat", "mixed"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["circle", "klein", "moebius", "hexagonal"])
def test_quadrature_gives_the_characteristic_function(name: str, kind: str, scales: str) -> None:
    """E[exp(2 pi i k . B^+ x)] = exp(-2 pi^2 |L^T B^+T k|^2), for any scale."""
    space = space_named(name)
    factor = wrapped(space, points(space, seed=1), scales, kind).scale_tril
    nodes, weights = wrapped_normal_nodes(factor, space.lattice)
    accuracy = 1e-9 if space.dim < 3 else 1e-5
    if kind == "full" and scales.startswith("mixed"):
        accuracy = max(accuracy, 1e-7)  # stds 1e-3 and 1e3 on tilted axes
    assert weights.sum().item() == pytest.approx(1, abs=accuracy)
    dual = torch.linalg.pinv(space.lattice)
    for k in torch.cat([torch.eye(space.rank), torch.ones(1, space.rank)]).double():
        expected = math.exp(-2 * math.pi**2 * (factor.T @ dual.T @ k).square().sum().item())
        got = (weights * (2 * math.pi * (nodes @ dual.T @ k)).cos()).sum().item()
        assert got == pytest.approx(expected, abs=accuracy)
