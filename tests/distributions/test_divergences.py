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
from topoprior import Circle, Euclidean, KleinBottle, Torus, UniformOn, WrappedNormal, cover_kl, kappa
from topoprior.distributions.kappa import kappa_series
from topoprior.distributions.theta import log_wrapped_normal

COMPACT_2D = [name for name in COMPACT_FLAT if space_named(name).dim <= 2]
F64 = torch.float64


def close(a: Tensor, b: Tensor, atol: float = 1e-9) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=atol)


def on_klein(u: float, v: float, scale: list[float]) -> WrappedNormal:
    return WrappedNormal(KleinBottle(), torch.tensor([u, v], dtype=F64), torch.tensor(scale, dtype=F64))


# --- kappa -------------------------------------------------------------------------------------

REFERENCE = {0.05: 1.5767937, 0.1: 0.8836483, 0.2: 0.2249086, 0.4: 0.0018077989, 0.8: 1.06423e-11}


@pytest.mark.parametrize("scale", REFERENCE)
def test_kappa_reference_values(scale: float) -> None:
    value = kappa(torch.tensor(scale, dtype=F64)).item()
    assert value == pytest.approx(
        REFERENCE[scale], rel=1e-5 if scale == 0.8 else 0, abs=6e-8 if scale < 0.8 else 0
    )
    if scale == 0.4:
        assert value == pytest.approx(REFERENCE[scale], abs=6e-11)
    single = kappa(torch.tensor(scale))
    assert single.dtype == torch.float32
    assert single.item() == pytest.approx(value, rel=1e-5)


def test_kappa_agrees_with_its_series() -> None:
    scale = torch.linspace(0.0661, 1.2, 400, dtype=F64)
    value, series = kappa(scale), kappa_series(scale)
    close(value, series, 1e-13)
    assert (value / series - 1).abs().max() < 1e-12  # relative, as kappa falls to 1e-25


def test_kappa_and_its_gradient_in_float32() -> None:
    """Relative to float64 at the same scale: 1e-6, and what the rounding of (2 pi s)^2 makes of r."""
    single = torch.logspace(-6, math.log10(1.4), 2000).requires_grad_()
    double = single.detach().double().requires_grad_()
    rounding = 2e-7 * (2 * math.pi * double.detach()).square()
    values = [kappa(s) for s in (single, double)]
    slopes = [torch.autograd.grad(v.sum(), s)[0] for v, s in zip(values, (single, double), strict=True)]
    for a, b in (values, slopes):
        assert ((a.double() / b - 1).abs() - rounding).max() < 1e-6


def test_kappa_of_any_layout() -> None:
    scale = torch.rand(4, 6, dtype=F64) + 0.05
    expected = torch.stack([torch.stack([kappa(s) for s in row]) for row in scale])  # from shape ()
    close(kappa(scale), expected, 1e-15)
    close(kappa(scale.T), expected.T, 1e-15)
    close(kappa(scale[:, ::2]), expected[:, ::2], 1e-15)
    close(kappa(scale[:1].expand(3, 6)), expected[:1].expand(3, 6), 1e-15)
    assert kappa(scale[:0]).shape == (0, 6)
    before = scale.clone()
    kappa(scale)
    assert torch.equal(scale, before)  # nothing of the caller's is written to
    assert kappa(torch.tensor(math.nan)).isnan()


@pytest.mark.parametrize("scale", [0.01, 0.05, 0.0659, 0.0661, 0.08, 0.15, 0.3, 0.5, 1.0])
def test_kappa_agrees_with_numerical_integration(scale: float) -> None:
    """The integral of f log f over the circle."""
    half = min(0.5, 9 * scale)  # the mass outside is below 1e-18
    x = half * ((torch.arange(4000, dtype=F64) + 0.5) / 2000 - 1)
    log_f = log_wrapped_normal(x, torch.tensor(scale, dtype=F64))
    integral = (log_f.exp() * log_f).sum().item() * 2 * half / 4000
    assert kappa(torch.tensor(scale, dtype=F64)).item() == pytest.approx(integral, abs=1e-10)


def test_kappa_of_a_narrow_normal_is_that_of_the_line() -> None:
    scale = torch.tensor([1e-6, 1e-3, 0.01, 0.06], dtype=F64)
    close(kappa(scale), -Normal(torch.zeros((), dtype=F64), scale).entropy(), 1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_kappa_is_finite_with_its_gradient(dtype: torch.dtype) -> None:
    scale = torch.logspace(-20, 20, 401, dtype=dtype).requires_grad_()
    value = kappa(scale)
    (gradient,) = torch.autograd.grad(value.sum(), scale)
    assert value.isfinite().all()
    assert gradient.isfinite().all()
    assert (value >= 0).all()
    assert (gradient <= 0).all()
    assert value[-1] == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_kappa_in_half_precision(dtype: torch.dtype) -> None:
    scale = torch.tensor([0.05, 0.2, 0.4], dtype=dtype)
    assert kappa(scale).dtype == dtype
    close(kappa(scale).float(), kappa(scale.float()), 0.01)


def test_kappa_derivatives() -> None:
    scale = torch.tensor([0.02, 0.05, 0.07, 0.1, 0.3, 0.5, 0.9], dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(kappa, (scale,))
    assert torch.autograd.gradgradcheck(kappa, (scale,))
    per_sample = torch.func.vmap(torch.func.grad(kappa))(scale.detach())
    close(per_sample, torch.autograd.grad(kappa(scale).sum(), scale)[0], 1e-12)
    close(torch.func.vmap(kappa)(scale.detach().reshape(7, 1)), kappa(scale.detach()).reshape(7, 1), 0)


@given(a=st.floats(1e-4, 3), b=st.floats(1e-4, 3))
def test_kappa_is_nonnegative_and_decreasing(a: float, b: float) -> None:
    for dtype in (torch.float32, F64):
        low, high = kappa(torch.tensor(sorted((a, b)), dtype=dtype)).tolist()
        assert low >= high * (1 - 1e-6)
        assert high >= 0
        if abs(a - b) > 1e-2 * max(a, b) and max(a, b) < 1:
            assert low > high


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


# --- the contract ------------------------------------------------------------------------------


def test_kl_is_registered_only_where_it_is_exact() -> None:
    K = KleinBottle()
    q = on_klein(0.1, 0.2, [0.2, 0.1])
    for pair in ((q, q), (UniformOn(K), q), (q, Normal(0.0, 1.0))):
        with pytest.raises(NotImplementedError):
            kl_divergence(*pair)
    assert kl_divergence(UniformOn(K), UniformOn(K)) == 0
    assert cover_kl(UniformOn(K), UniformOn(K)) == 0


def test_mismatches_are_errors() -> None:
    q, p = on_klein(0.1, 0.2, [0.2, 0.1]), UniformOn(Torus(2))
    for divergence in (kl_divergence, cover_kl):
        with pytest.raises(ValueError, match=r"q lives on KleinBottle\(\), p on Torus\(2\)"):
            divergence(q, p)
        with pytest.raises(ValueError, match="expected the same space"):
            divergence(UniformOn(Circle()), p)
    with pytest.raises(TypeError, match="no closed form for UniformOn against WrappedNormal"):
        cover_kl(UniformOn(KleinBottle()), q)
    with pytest.raises(
        TypeError, match="expected distributions on a covering, found WrappedNormal and Normal"
    ):
        cover_kl(q, Normal(0.0, 1.0))
    with pytest.raises(ValueError, match="not compact"):
        UniformOn(Euclidean(2))


def test_equal_spaces_need_not_be_one_object() -> None:
    q = on_klein(0.1, 0.2, [0.2, 0.1])
    close(cover_kl(q, UniformOn(space_named("klein-generic"))), cover_kl(q, UniformOn(KleinBottle())), 0)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_batches_broadcast(dtype: torch.dtype) -> None:
    for space in (Circle(), KleinBottle()):
        n = space.dim
        q = WrappedNormal(space, torch.zeros(3, n, dtype=dtype), torch.full((3, n), 0.3, dtype=dtype))
        for p in (UniformOn(space), UniformOn(space).expand((2, 1))):
            for divergence in (kl_divergence, cover_kl):
                value = divergence(q, p)
                assert value.shape == torch.broadcast_shapes((3,), p.batch_shape)
                assert value.dtype == dtype
        one = kl_divergence(q, UniformOn(space))[0]
        close(kl_divergence(q.expand((2, 3)), UniformOn(space)), one.expand(2, 3), 1e-6)
        close(
            cover_kl(q.expand((2, 3)), UniformOn(space)), cover_kl(q, UniformOn(space)).expand(2, 3), 1e-6
        )
        wide = WrappedNormal(space, torch.zeros(2, 1, n, dtype=dtype), torch.full((n,), 0.4, dtype=dtype))
        assert cover_kl(q, wide).shape == (2, 3)
    p = UniformOn(Circle())
    assert kl_divergence(p.expand((3,)), p.expand((2, 1))).shape == (2, 3)
    assert cover_kl(p.expand((3,)), p.expand((2, 1))).shape == (2, 3)


def test_exact_kl_has_gradients() -> None:
    loc = torch.tensor([0.3, 0.1], dtype=F64, requires_grad=True)
    scale = torch.tensor([0.3, 0.2], dtype=F64, requires_grad=True)
    K = KleinBottle()
    value = kl_divergence(WrappedNormal(K, loc, scale), UniformOn(K))
    gradients = torch.autograd.grad(value, (loc, scale))
    for i in range(2):
        for which in range(2):
            step = 1e-5 * torch.eye(2, dtype=F64)[i]
            ends = [
                kl_divergence(
                    WrappedNormal(K, loc + s * step * (which == 0), scale + s * step * (which == 1)),
                    UniformOn(K),
                )
                for s in (1, -1)
            ]
            slope = ((ends[0] - ends[1]) / 2e-5).item()
            assert gradients[which][i].item() == pytest.approx(slope, abs=1e-7)
