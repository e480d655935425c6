"""Divergences: the reference values of the design, the exact KL against grids, the laws of the bound."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from tests.spaces.cases import (
    COMPACT_FLAT,
    FLAT,
    brute_kl_to_uniform,
    cell_grid,
    diagonal,
    points,
    space_named,
    tilted,
)
from topoprior import KleinBottle, UniformOn, WrappedNormal, cover_kl, kappa

COMPACT_2D = [name for name in COMPACT_FLAT if space_named(name).dim <= 2]
F64 = torch.float64


def close(a: Tensor, b: Tensor, atol: float = 1e-9) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=atol)


def on_klein(u: float, v: float, scale: list[float]) -> WrappedNormal:
    return WrappedNormal(KleinBottle(), torch.tensor([u, v], dtype=F64), torch.tensor(scale, dtype=F64))


# --- the exact KL ------------------------------------------------------------------------------

EXACT = [
    (0.05, 0.2, 3.1535875, 6e-8), (0.2, 0.2, 0.441673, 6e-7), (0.2, 0.0, 0.449817, 6e-7),
    (0.4, 0.2, 0.0026278, 6e-8), (0.4, 0.0, 0.0036156, 6e-8),
]  # fmt: skip


@pytest.mark.parametrize(("scale", "v", "expected", "digits"), EXACT)
def test_exact_reference_values(scale: float, v: float, expected: float, digits: float) -> None:
    for u in (0.0, 0.37):  # K is homogeneous along u
        q = on_klein(u, v, [scale, scale])
        assert kl_divergence(q, UniformOn(KleinBottle())).item() == pytest.approx(expected, abs=digits)
    assert brute_kl_to_uniform(KleinBottle(), q.log_prob) == pytest.approx(expected, abs=digits)


@pytest.mark.parametrize("kind", ["diagonal", "full"])
@pytest.mark.parametrize("scales", ["small", "medium", "large"])
@pytest.mark.parametrize("name", COMPACT_2D)
def test_exact_kl_agrees_with_a_grid(name: str, scales: str, kind: str) -> None:
    space = space_named(name)
    loc = points(space, seed=1)
    q = WrappedNormal(space, loc, diagonal(space, scales))
    if kind == "full":
        q = WrappedNormal(space, loc, scale_tril=tilted(space, scales))
    exact = kl_divergence(q, UniformOn(space)).item()
    assert exact == pytest.approx(brute_kl_to_uniform(space, q.log_prob, side=120), abs=1e-9)
    assert exact >= -1e-12


def test_exact_kl_by_sampling() -> None:
    """E_q[log q] + log vol over reparameterized samples; 6 standard errors."""
    q = on_klein(0.3, 0.1, [0.3, 0.15])
    terms = q.log_prob(q.rsample((20000,)))
    error = terms.std().item() / math.sqrt(20000)
    assert kl_divergence(q, UniformOn(KleinBottle())).item() == pytest.approx(
        terms.mean().item(), abs=6 * error
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hantzsche-wendt", "third-turn"])
def test_three_dimensions(name: str) -> None:
    space = space_named(name)
    p = UniformOn(space)
    q = WrappedNormal(space, points(space, seed=2), torch.full((3,), 0.1, dtype=F64))
    exact, bound = kl_divergence(q, p).item(), cover_kl(q, p).item()
    assert exact <= bound + 1e-6
    assert bound <= exact + math.log(space.num_sheets) + 1e-6
    terms = q.log_prob(q.sample((4000,))) + math.log(space.volume)
    assert exact == pytest.approx(terms.mean().item(), abs=6 * terms.std().item() / math.sqrt(4000))


# --- the bound ---------------------------------------------------------------------------------


@settings(max_examples=20)
@given(
    u=st.floats(0, 2), v=st.floats(0, 1),
    scale=st.lists(st.floats(0.01, 1.5), min_size=2, max_size=2),
)  # fmt: skip
def test_the_bound_lies_within_log_sheets_of_the_exact_value(
    u: float, v: float, scale: list[float]
) -> None:
    q, p = on_klein(u, v, scale), UniformOn(KleinBottle())
    exact, bound = kl_divergence(q, p).item(), cover_kl(q, p).item()
    assert exact >= -1e-10
    assert exact - 1e-9 <= bound <= exact + math.log(2) + 1e-9
    # The trap: against the normal upstairs the inequality is the other way round.
    upstairs = Normal(q.loc, q.scale).entropy().sum().item()
    assert math.log(KleinBottle().volume) - upstairs <= exact + 1e-9


def test_the_trap_is_no_upper_bound() -> None:
    q = on_klein(0.3, 0.1, [0.5, 0.5])
    trap = -Normal(q.loc, q.scale).entropy().sum()
    exact = kl_divergence(q, UniformOn(KleinBottle()))
    assert trap < exact - 1  # and negative: no objective
    assert trap < 0 <= exact


def test_the_bound_is_the_formula() -> None:
    q = on_klein(0.3, 0.1, [0.3, 0.15])
    expected = kappa(torch.tensor(0.15, dtype=F64)) + kappa(torch.tensor(0.15, dtype=F64))
    close(cover_kl(q, UniformOn(KleinBottle())), expected, 1e-14)


@pytest.mark.parametrize(
    ("scale", "gap"), [(0.01, math.log(2)), (0.05, math.log(2)), (2.0, 0.0), (50.0, 0.0)]
)
def test_the_gap_is_log_2_when_sharp_and_0_when_wide(scale: float, gap: float) -> None:
    q, p = on_klein(0.3, 0.25, [scale, scale]), UniformOn(KleinBottle())
    assert (cover_kl(q, p) - kl_divergence(q, p)).item() == pytest.approx(gap, abs=1e-8)


@pytest.mark.parametrize(("v", "equal"), [(0.0, True), (0.5, True), (0.2, False)])
def test_equality_iff_the_density_is_constant_on_fibres(v: float, equal: bool) -> None:
    """Uniform along u and symmetric in v about 0 or 1/2: the normal on the torus is invariant under the
    glide (u, v) -> (u + 1, -v), so nothing is lost by pushing it down. About v = 0.2 it is not."""
    q, p = on_klein(0.3, v, [20.0, 0.1]), UniformOn(KleinBottle())
    gap = (cover_kl(q, p) - kl_divergence(q, p)).item()
    assert gap == pytest.approx(0, abs=1e-9) if equal else gap > 0.3


def test_float32_bounds_keep_their_digits_on_any_axes() -> None:
    space = space_named("hexagonal")
    loc, factor = points(space, seed=1).float(), tilted(space, "mixed").float()
    single = cover_kl(WrappedNormal(space, loc, scale_tril=factor), UniformOn(space))
    double = cover_kl(WrappedNormal(space, loc.double(), scale_tril=factor.double()), UniformOn(space))
    assert single.dtype == torch.float32
    close(single.double(), double, 1e-6 * max(1.0, double.item()))


def test_a_forgotten_point_costs_nothing() -> None:
    for scales in (torch.full((2,), 100.0), torch.full((2,), 1e6)):
        q, p = WrappedNormal(KleinBottle(), torch.tensor([0.3, 0.2]), scales), UniformOn(KleinBottle())
        assert cover_kl(q, p) == 0
        assert kl_divergence(q, p).abs() < 1e-5


@pytest.mark.parametrize("scales", ["small", "medium", "large", "mixed-medium"])
@pytest.mark.parametrize("name", COMPACT_2D)
def test_the_bound_holds_with_a_full_covariance(name: str, scales: str) -> None:
    space = space_named(name)
    for factor in (tilted(space, scales), torch.diag(diagonal(space, scales))):
        q, p = WrappedNormal(space, points(space, seed=1), scale_tril=factor), UniformOn(space)
        assert cover_kl(q, p) >= kl_divergence(q, p) - 1e-9


@given(
    a=st.floats(0.02, 1), b=st.floats(0.02, 1), c=st.floats(-1, 1), v=st.floats(0, 1),
)  # fmt: skip
def test_the_bound_holds_with_any_covariance_on_the_klein_bottle(
    a: float, b: float, c: float, v: float
) -> None:
    factor = torch.tensor([[a, 0.0], [c, b]], dtype=F64)
    q = WrappedNormal(KleinBottle(), torch.tensor([0.3, v], dtype=F64), scale_tril=factor)
    nodes = q.sample((300,))
    p = UniformOn(KleinBottle())
    # exact = E_q[log q]; 300 samples suffice to catch a bound that is low by 6 standard errors.
    terms = q.log_prob(nodes)
    assert cover_kl(q, p) >= terms.mean() - 6 * terms.std() / math.sqrt(300) - 1e-9


@pytest.mark.parametrize("scales", ["small", "medium", "large", "mixed"])
@pytest.mark.parametrize("name", ["circle", "torus", "torus-3"])
def test_equality_on_one_sheet(name: str, scales: str) -> None:
    space = space_named(name)
    q, p = WrappedNormal(space, points(space, seed=1), diagonal(space, scales)), UniformOn(space)
    close(kl_divergence(q, p), cover_kl(q, p), 1e-12)
    if space.dim < 3:  # and both are the integral
        close(math.log(space.volume) - q.entropy(), cover_kl(q, p), 1e-9)


def test_full_and_diagonal_bounds_agree_on_axes() -> None:
    for name in COMPACT_FLAT:
        space = space_named(name)
        if space.periods is None:
            continue
        scale, loc = diagonal(space, "medium"), points(space, seed=1)
        full = WrappedNormal(space, loc, scale_tril=torch.diag(scale))
        close(
            cover_kl(full, UniformOn(space)),
            cover_kl(WrappedNormal(space, loc, scale), UniformOn(space)),
            1e-12,
        )


def test_bounds_have_gradients() -> None:
    scale = torch.tensor([0.3, 0.1], dtype=F64, requires_grad=True)
    factor = torch.tensor([[0.3, 0.0], [0.1, 0.2]], dtype=F64, requires_grad=True)
    loc, K = torch.zeros(2, dtype=F64), KleinBottle()
    assert torch.autograd.gradcheck(lambda s: cover_kl(WrappedNormal(K, loc, s), UniformOn(K)), (scale,))
    assert torch.autograd.gradcheck(
        lambda f: cover_kl(WrappedNormal(K, loc, scale_tril=f.tril()), UniformOn(K)), (factor,)
    )


# --- two wrapped normals -----------------------------------------------------------------------


def numerical_kl(q: WrappedNormal, p: WrappedNormal) -> float:
    grid, weight = cell_grid(q.covering, 120)
    log_q, log_p = q.log_prob(grid), p.log_prob(grid)
    return weight * (log_q.exp() * (log_q - log_p)).sum().item()


@pytest.mark.parametrize("kind", ["diagonal", "full"])
@pytest.mark.parametrize("name", COMPACT_2D)
def test_bound_between_wrapped_normals(name: str, kind: str) -> None:
    space = space_named(name)
    for seed in range(3):
        loc_q, loc_p = points(space, seed=seed), points(space, seed=seed + 10)
        if kind == "diagonal":
            q = WrappedNormal(space, loc_q, diagonal(space, "medium") * 0.7)
            p = WrappedNormal(space, loc_p, diagonal(space, "crossover"))
        else:
            q = WrappedNormal(space, loc_q, scale_tril=tilted(space, "medium") * 0.7)
            p = WrappedNormal(space, loc_p, scale_tril=tilted(space, "crossover"))
        exact = numerical_kl(q, p)
        assert exact > 1e-3
        assert cover_kl(q, p).item() >= exact - 1e-9
        assert cover_kl(q, q).item() == pytest.approx(0, abs=1e-12)


def test_bound_between_sharp_wrapped_normals_is_tight() -> None:
    """Far narrower than the space: nothing folds over, and the bound is the KL of the normals."""
    q, p = (
        on_klein(0.1, 0.2, [0.03, 0.05]),
        on_klein(1.13, -0.18, [0.05, 0.04]),
    )  # p's other lift: (.13, .18)
    here = kl_divergence(
        Normal(q.loc, q.scale), Normal(torch.tensor([0.13, 0.18], dtype=F64), p.scale)
    ).sum()
    close(cover_kl(q, p), here, 1e-12)
    assert numerical_kl(q, p) == pytest.approx(here.item(), abs=1e-4)


def test_bound_does_not_depend_on_the_lifts() -> None:
    K = KleinBottle()
    q, p = on_klein(0.1, 0.2, [0.2, 0.1]), on_klein(0.4, 0.7, [0.3, 0.2])
    expected = cover_kl(q, p)
    moved_q = WrappedNormal(K, K.lifts(q.loc, 1.0), q.scale)
    moved_p = WrappedNormal(K, K.lifts(p.loc, 1.0), p.scale)
    close(cover_kl(moved_q, p), expected.expand(moved_q.batch_shape), 1e-12)
    close(cover_kl(q, moved_p), expected.expand(moved_p.batch_shape), 1e-12)


@pytest.mark.parametrize("name", FLAT)
def test_bound_does_not_depend_on_the_lifts_with_full_scales(name: str) -> None:
    """A deck transformation moves a wrapped normal's center and turns its covariance."""
    space = space_named(name)
    loc, factor = points(space, seed=1), tilted(space, "medium")
    p = WrappedNormal(space, loc, scale_tril=factor)
    turned = torch.linalg.cholesky(space.linear @ (factor @ factor.T) @ space.linear.transpose(-1, -2))
    images = WrappedNormal(space, space.sheets(loc), scale_tril=turned)
    q = WrappedNormal(space, points(space, seed=2), scale_tril=0.8 * factor)
    close(cover_kl(q, images), cover_kl(q, p).expand(space.num_sheets), 1e-10)
    x = points(space, 4, 1, seed=3)
    close(images.log_prob(x), p.log_prob(x).expand(4, space.num_sheets), 1e-9)  # they are one law


@pytest.mark.parametrize("name", ["line", "plane"])
def test_without_a_lattice_the_bound_is_the_kl_of_normals(name: str) -> None:
    space = space_named(name)
    q = WrappedNormal(space, points(space, seed=1), scale_tril=tilted(space, "medium"))
    p = WrappedNormal(space, points(space, seed=2), scale_tril=tilted(space, "large"))
    normals = [MultivariateNormal(d.loc, scale_tril=d.scale_tril) for d in (q, p)]
    close(cover_kl(q, p), kl_divergence(*normals), 1e-10)
