"""WrappedNormal and UniformOn: the torch.distributions contract, densities against brute force, sampling."""

import math
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

from tests.spaces.cases import (
    COMPACT,
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
from topoprior import Circle, FlatManifold, KleinBottle, Torus, UniformOn, WrappedNormal, cover_kl
from topoprior.distributions.lattice_sums import log_lattice_normal
from topoprior.distributions.quadrature import wrapped_normal_nodes
from topoprior.distributions.theta import log_wrapped_normal

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


# --- one dimension -----------------------------------------------------------------------------


def brute_wrapped(x: Tensor, scale: float) -> Tensor:
    reach = math.ceil(10 * scale) + 2
    k = torch.arange(-reach, reach + 1, dtype=torch.float64)
    return (
        Normal(torch.zeros((), dtype=torch.float64), scale)
        .log_prob(x.double()[..., None] + k)
        .logsumexp(-1)
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [1e-3, 0.05, 0.2, 0.3, 0.36999, 0.37, 0.39894, 0.5, 1.0, 3.0, 30.0, 1e3])
def test_log_wrapped_normal(scale: float, dtype: torch.dtype) -> None:
    x = torch.linspace(-2.5, 2.5, 203).to(dtype)
    x = torch.cat([x, x.new_tensor([0.0, 0.5, -0.5, 1.0]), (x * scale).fmod(1)])
    s = torch.tensor(scale, dtype=dtype)
    got, expected = log_wrapped_normal(x, s), brute_wrapped(x, s.item())
    assert got.dtype == dtype
    peak = max(1.0, expected.exp().max().item())
    rounding = 8 * torch.finfo(dtype).eps / min(1.0, scale)  # x is known to so many stds
    assert (got.double().exp() - expected.exp()).abs().max() < (TOLERANCE[dtype] + rounding) * peak
    # Far in the tail as well: the relative error of the density.
    inside = (got.double() - expected).abs() / (1 + expected.abs())
    assert inside.max() < 1e3 * torch.finfo(dtype).eps / min(1.0, scale)


@pytest.mark.parametrize("dtype", DTYPES)
def test_log_wrapped_normal_is_finite_with_its_gradient(dtype: torch.dtype) -> None:
    x = torch.linspace(-1, 1, 41, dtype=dtype).requires_grad_()
    scale = torch.logspace(-6, 6, 25, dtype=dtype)[:, None].requires_grad_()
    value = log_wrapped_normal(x, scale)
    assert value.isfinite().all()
    for gradient in torch.autograd.grad(value.sum(), (x, scale)):
        assert gradient.isfinite().all()


def test_log_wrapped_normal_is_smooth_where_the_sums_meet() -> None:
    x = torch.linspace(0, 0.5, 26, dtype=torch.float64)
    below, above = (
        torch.tensor(0.37 + e, dtype=torch.float64, requires_grad=True) for e in (-1e-13, 1e-13)
    )
    a, b = log_wrapped_normal(x, below), log_wrapped_normal(x, above)
    close(a, b, 1e-11)
    for i in range(26):
        slopes = [torch.autograd.grad(v[i], s, retain_graph=True)[0] for v, s in ((a, below), (b, above))]
        close(slopes[0], slopes[1], 1e-9)


# --- any lattice -------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_log_lattice_normal_on_random_lattices(rank: int) -> None:
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        lattice = torch.randn(2, rank, generator=generator, dtype=torch.float64)
        factor = torch.linalg.cholesky(
            (lambda m: m @ m.T + 0.05 * torch.eye(2))(
                torch.randn(2, 2, generator=generator, dtype=torch.float64)
            )
        )
        if rank and brute_terms(FlatManifold(lattice), factor) > 5e3:
            continue
        x = torch.randn(5, 2, generator=generator, dtype=torch.float64)
        expected = brute_log_prob(FlatManifold(lattice), x, torch.zeros(2), factor)
        close(log_lattice_normal(x, factor, lattice), expected, 1e-10)


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


# --- gradients ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FLAT)
def test_gradients_are_finite_everywhere(name: str, kind: str, dtype: torch.dtype) -> None:
    space = space_named(name)
    n = space.dim
    x = points(space, 8, dtype=dtype, seed=1)
    if space.rank:  # seams, corners, the center and its antipodes
        lattice = space.lattice.to(dtype).sum(1)
        x[0], x[1], x[2], x[3] = 0, lattice / 2, lattice, -lattice / 2
    loc = torch.zeros(n, dtype=dtype, requires_grad=True)
    make = diagonal if kind == "diagonal" else tilted
    scale = torch.stack([make(space, scales, dtype) for scales in SCALES]).requires_grad_()
    value = x.unsqueeze(1).requires_grad_()
    argument = {"scale" if kind == "diagonal" else "scale_tril": scale}
    log_prob = WrappedNormal(space, loc, **argument, validate_args=False).log_prob(value)
    assert log_prob.shape == (8, len(SCALES))
    assert log_prob.isfinite().all()
    for gradient in torch.autograd.grad(log_prob.sum(), (loc, scale, value)):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scales", ["small", "mixed-medium"])
@pytest.mark.parametrize("name", ["line", "circle", "klein", "moebius", "hexagonal"])
def test_log_prob_gradcheck(name: str, scales: str, kind: str) -> None:
    space = space_named(name)
    q = wrapped(space, points(space, seed=1), scales, kind)
    x = q.sample((2,)).requires_grad_()
    loc = q.loc.clone().requires_grad_()
    scale = (q.scale if kind == "diagonal" else q.scale_tril).clone().requires_grad_()

    def log_prob(x: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
        if kind == "diagonal":
            return WrappedNormal(space, loc, scale, validate_args=False).log_prob(x)
        return WrappedNormal(space, loc, scale_tril=scale.tril(), validate_args=False).log_prob(x)

    assert torch.autograd.gradcheck(log_prob, (x, loc, scale), atol=1e-4, rtol=1e-4, fast_mode=True)


@pytest.mark.parametrize("kind", KINDS)
def test_rsample_is_reparameterized(kind: str) -> None:
    space = space_named("klein")
    q = wrapped(space, torch.zeros(2, dtype=torch.float64, requires_grad=True), "medium", kind)
    loc, scale = q.loc, q.scale if kind == "diagonal" else q.scale_tril
    scale.requires_grad_()
    q = WrappedNormal(space, loc, **{"scale" if kind == "diagonal" else "scale_tril": scale})
    noise = torch.autograd.grad(q.rsample((50000,)).square().mean(0).sum(), (loc, scale))
    close(noise[0], torch.zeros(2, dtype=torch.float64), 0.02)  # d E[x^2] / d loc = 2 loc; 5 std errors
    close(noise[1], 2 * scale.detach(), 0.03)
    assert not q.sample().requires_grad
    assert q.has_rsample


# --- the contract ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["line", "torus", "klein", "moebius", "hexagonal"])
def test_shapes(name: str, dtype: torch.dtype) -> None:
    space = space_named(name)
    n = space.dim
    loc = torch.linspace(0, 1, 4, dtype=dtype)[:, None, None].expand(4, 1, n)
    scale = torch.tensor([0.2, 0.3, 0.4], dtype=dtype)[:, None].expand(3, n)
    full = torch.diag_embed(scale)
    for q in (WrappedNormal(space, loc, scale), WrappedNormal(space, loc, scale_tril=full)):
        assert q.batch_shape == (4, 3)
        assert q.event_shape == (n,)
        assert q.loc.shape == (4, 3, n)
        assert q.scale_tril.shape == (4, 3, n, n)
        assert q.rsample().shape == (4, 3, n)
        x = q.sample((2, 1))
        assert x.shape == (2, 1, 4, 3, n)
        assert x.dtype == dtype
        assert q.log_prob(x).shape == (2, 1, 4, 3)
        assert q.log_prob(x).dtype == dtype
        assert q.log_prob(torch.zeros(n, dtype=dtype)).shape == (4, 3)
        assert q.log_prob(torch.zeros(2, 1, 1, n, dtype=dtype)).shape == (2, 4, 3)
        assert q.sample((0,)).shape == (0, 4, 3, n)
        one = WrappedNormal(space, loc[2, 0], scale_tril=full[1]).log_prob(x[..., 2, 1, :])
        close(q.log_prob(x)[..., 2, 1], one, 1e-3 if dtype == torch.float32 else 1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_expand(kind: str) -> None:
    q = wrapped(KleinBottle(), torch.tensor([[0.1, 0.2]] * 3), "medium", kind)
    wide = q.expand((5, 3))
    assert type(wide) is WrappedNormal
    assert wide.batch_shape == (5, 3)
    assert wide.event_shape == (2,)
    assert wide.is_diagonal == q.is_diagonal
    x = q.sample()
    close(wide.log_prob(x), q.log_prob(x).expand(5, 3), 1e-6)
    assert wide.rsample((2,)).shape == (2, 5, 3, 2)
    assert wide.rsample()[0].sub(wide.rsample()[1]).abs().min() > 0  # draws are independent
    assert WrappedNormal(Circle(), torch.zeros(1), torch.ones(1)).expand((2, 3)).entropy().shape == (2, 3)
    with pytest.raises(ValueError, match="support"):
        WrappedNormal(KleinBottle(), q.loc, torch.ones(2), validate_args=True).expand((5, 3)).log_prob(
            x * math.nan
        )


def test_validate_args() -> None:
    K, loc, scale = KleinBottle(), torch.zeros(2), torch.ones(2)
    upper = torch.tensor([[1.0, 1.0], [0.0, 1.0]])
    for kwargs, name in (
        ({"loc": loc * math.nan, "scale": scale}, "loc"),
        ({"loc": loc, "scale": torch.tensor([1.0, 0.0])}, "scale"),
        ({"loc": loc, "scale": -scale}, "scale"),
        ({"loc": loc, "scale": scale * math.nan}, "scale"),
        ({"loc": loc, "scale_tril": upper}, "scale_tril"),
        ({"loc": loc, "scale_tril": -torch.eye(2)}, "scale_tril"),
    ):
        with pytest.raises(ValueError, match=f"parameter {name} "):
            WrappedNormal(K, **kwargs, validate_args=True)
        WrappedNormal(K, **kwargs, validate_args=False)
    q = WrappedNormal(K, loc, scale, validate_args=True)
    for value in (torch.zeros(3), torch.full((2,), math.nan)):
        with pytest.raises(ValueError, match="expand|size|support"):
            q.log_prob(value)
    with pytest.raises(ValueError, match="support|size|single dim"):
        q.log_prob(torch.zeros(()))


def test_arguments_are_checked() -> None:
    K, loc, scale = KleinBottle(), torch.zeros(2), torch.ones(2)
    with pytest.raises(TypeError, match="covering: expected a FlatManifold, found str"):
        WrappedNormal("klein", loc, scale)
    for kwargs in ({}, {"scale": scale, "scale_tril": torch.eye(2)}):
        with pytest.raises(ValueError, match="expected exactly one of the two"):
            WrappedNormal(K, loc, **kwargs)
    with pytest.raises(ValueError, match=r"loc: expected shape \(..., 2\), found \(3,\)"):
        WrappedNormal(K, torch.zeros(3), scale)
    with pytest.raises(ValueError, match=r"scale: expected shape \(..., 2\), found \(3,\)"):
        WrappedNormal(K, loc, torch.ones(3))
    with pytest.raises(ValueError, match=r"scale_tril: expected shape \(..., 2, 2\), found \(2,\)"):
        WrappedNormal(K, loc, scale_tril=scale)
    with pytest.raises(TypeError, match="covering: expected a Covering, found int"):
        UniformOn(2)


@pytest.mark.parametrize("kind", KINDS)
def test_arg_constraints_describe_the_arguments(kind: str) -> None:
    q = wrapped(KleinBottle(), torch.zeros(3, 2), "medium", kind)
    assert set(q.arg_constraints) == {"loc", "scale" if kind == "diagonal" else "scale_tril"}
    for name, constraint in q.arg_constraints.items():
        assert constraint.check(getattr(q, name)).shape == (3,)
        assert constraint.check(getattr(q, name)).all()
    assert q.support.check(q.sample((4,))).all()
    assert "WrappedNormal" in repr(q)


@pytest.mark.parametrize("name", ["line", "plane"])
def test_without_a_lattice_it_is_the_normal(name: str) -> None:
    space = space_named(name)
    loc, factor = points(space, seed=1), tilted(space, "medium")
    q, normal = WrappedNormal(space, loc, scale_tril=factor), MultivariateNormal(loc, scale_tril=factor)
    x = points(space, 20)
    close(q.log_prob(x), normal.log_prob(x), 1e-10)
    close(q.entropy(), normal.entropy(), 1e-9)


@pytest.mark.parametrize("scales", ["small", "medium"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["circle", "klein", "hexagonal"])
def test_entropy(name: str, kind: str, scales: str) -> None:
    """-integral of q log q over the base; below the entropy of the normal upstairs and below log volume."""
    space = space_named(name)
    q = wrapped(space, points(space, seed=1), scales, kind)
    grid, weight = cell_grid(space, 120)
    log_q = q.log_prob(grid)
    entropy = q.entropy().item()
    assert entropy == pytest.approx(-weight * (log_q.exp() * log_q).sum().item(), abs=1e-9)
    assert entropy <= MultivariateNormal(q.loc, scale_tril=q.scale_tril).entropy() + 1e-9
    assert entropy <= math.log(space.volume) + 1e-9


def test_entropy_is_batched_and_differentiable() -> None:
    loc = torch.tensor([[0.1, 0.2], [0.3, 0.0]], dtype=torch.float64)
    scale = torch.tensor([0.3, 0.2], dtype=torch.float64, requires_grad=True)
    entropy = WrappedNormal(KleinBottle(), loc, scale).entropy()
    assert entropy.shape == (2,)
    close(entropy[0], WrappedNormal(KleinBottle(), loc[0], scale).entropy(), 1e-12)
    (slope,) = torch.autograd.grad(entropy[0], scale)
    step = 1e-5 * torch.eye(2, dtype=torch.float64)
    for i in range(2):
        up, down = (
            WrappedNormal(KleinBottle(), loc[0], scale.detach() + s * step[i]).entropy() for s in (1, -1)
        )
        assert slope[i].item() == pytest.approx(((up - down) / 2e-5).item(), abs=1e-6)


# --- the uniform law ---------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", COMPACT)
def test_uniform_contract(name: str, dtype: torch.dtype) -> None:
    space = space_named(name)
    p = UniformOn(space, dtype=dtype)
    assert p.batch_shape == ()
    assert p.event_shape == (space.cover_dim,)
    x = p.sample((7, 2))
    assert x.shape == (7, 2, space.cover_dim)
    assert x.dtype == dtype
    close(p.log_prob(x), torch.full((7, 2), -math.log(space.volume), dtype=dtype), 1e-6)
    assert p.entropy().item() == pytest.approx(math.log(space.volume), abs=1e-6)
    wide = p.expand((3, 2))
    assert wide.batch_shape == (3, 2)
    assert wide.rsample((4,)).shape == (4, 3, 2, space.cover_dim)
    assert wide.rsample().dtype == dtype
    assert wide.entropy().shape == (3, 2)
    assert wide.log_prob(x[:1]).shape == (3, 2)
    assert wide.log_prob(torch.zeros(5, 1, 1, space.cover_dim, dtype=dtype)).shape == (5, 3, 2)
    with pytest.raises(ValueError, match="support|size"):
        UniformOn(space, validate_args=True).log_prob(torch.zeros(space.cover_dim + 1))


@pytest.mark.parametrize("name", [n for n in FLAT if n not in COMPACT])
def test_no_uniform_law_where_not_compact(name: str) -> None:
    with pytest.raises(ValueError, match="not compact"):
        UniformOn(space_named(name))


def test_uniform_follows_the_default_dtype() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        assert UniformOn(KleinBottle()).sample().dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


# --- transforms --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["circle", "klein", "hexagonal"])
def test_vmap_and_grad(name: str, kind: str) -> None:
    space = space_named(name)
    loc = points(space, 4, seed=1)
    q = wrapped(space, loc, "medium", kind)
    scale = q.scale if kind == "diagonal" else q.scale_tril
    x = q.sample()

    def log_prob(x: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
        kwargs = {"scale" if kind == "diagonal" else "scale_tril": scale}
        return WrappedNormal(space, loc, **kwargs, validate_args=False).log_prob(x)

    close(torch.func.vmap(log_prob)(x, loc, scale), q.log_prob(x), 1e-10)
    gradients = torch.func.vmap(torch.func.grad(log_prob))(x, loc, scale)
    x = x.requires_grad_()
    (expected,) = torch.autograd.grad(q.log_prob(x).sum(), x)
    close(gradients, expected, 1e-8)


def loss(p: UniformOn, x: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    q = WrappedNormal(p.covering, loc, scale, validate_args=False)
    return q.log_prob(x) + cover_kl(q, p)


@pytest.mark.parametrize("space", [Circle(), Torus(2), KleinBottle()], ids=repr)
def test_traces_as_one_graph(space: FlatManifold) -> None:
    """torch.compile(fullgraph=True), without code generation: no graph breaks, same values and gradients."""
    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    loc, scale = points(space, 3), torch.full((3, space.dim), 0.3, dtype=torch.float64)
    x = points(space, 3, seed=2)
    results = []
    for f in (loss, compiled):
        leaves = [t.clone().requires_grad_() for t in (x, loc, scale)]
        value = f(UniformOn(space), *leaves)
        results.append([value, *torch.autograd.grad(value.sum(), leaves)])
    for a, b in zip(*results, strict=True):
        close(a, b, 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["circle", "klein", "hexagonal"])
def test_everything_inside_compiled_code(name: str, kind: str) -> None:
    """Distributions are made, sampled and compared inside the graph, for both kinds of scale."""
    torch._dynamo.reset()
    space = space_named(name)
    key = "scale" if kind == "diagonal" else "scale_tril"

    def inside(x: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
        p = UniformOn(space)
        q = WrappedNormal(space, loc, **{key: scale}, validate_args=False)
        drawn = q.rsample() + p.sample().to(x) * 0
        return q.log_prob(x) + cover_kl(q, p) + p.log_prob(x) + p.entropy() + 0 * drawn.sum()

    q = wrapped(space, points(space, 3), "medium", kind)
    arguments = (points(space, 3, seed=2), q.loc, getattr(q, key))
    compiled = torch.compile(inside, fullgraph=True, backend="aot_eager")
    results = []
    for f in (inside, compiled):
        leaves = [t.clone().requires_grad_() for t in arguments]
        value = f(*leaves)
        results.append([value, *torch.autograd.grad(value.sum(), leaves)])
    for a, b in zip(*results, strict=True):
        close(a, b, 1e-9)


@pytest.mark.slow
def test_compiles() -> None:
    torch._dynamo.reset()
    K = KleinBottle()
    loc, scale = points(K, 3), torch.full((3, 2), 0.3, dtype=torch.float64)
    x = points(K, 3, seed=2)
    close(
        torch.compile(loss, fullgraph=True)(UniformOn(K), x, loc, scale),
        loss(UniformOn(K), x, loc, scale),
        1e-9,
    )
