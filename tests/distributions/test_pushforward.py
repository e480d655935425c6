"""Pushforward and PowerSpherical: the contract of a distribution, densities, divergences."""

import math

import pytest
import torch
from scipy import special
from torch import Tensor
from torch.distributions import (
    Categorical,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    StudentT,
    Uniform,
    kl_divergence,
)

import topoprior as tp

F64 = torch.float64
SCALES = [1e-3, 0.1, 1.0, 7.0, 60.0, 1e3, 1e4]


def unit(*shape: int, seed: int = 0) -> Tensor:
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)
    return x / x.norm(dim=-1, keepdim=True)


def on_sphere(density: object, loc: Tensor, scale: float) -> Tensor:
    """Integral over S^(d-1) of a function of mu . x, by a fine rule in the angle."""
    d = loc.shape[-1]
    width = min(math.pi, 40 / math.sqrt(scale))
    nodes, weights = special.roots_legendre(800)
    angle = torch.from_numpy((nodes + 1) / 2 * width)
    other = torch.linalg.qr(torch.stack([loc, unit(d, seed=9)], 1)).Q[:, 1]
    x = angle.cos().unsqueeze(1) * loc + angle.sin().unsqueeze(1) * other
    area = tp.Sphere(d - 2).volume if d > 2 else 2.0
    measure = torch.from_numpy(weights) * width / 2 * angle.sin().pow(d - 2) * area
    return (density(x) * measure).sum()  # type: ignore[operator]


# --- pushed down from spheres ----------------------------------------------------------------------

FORMS = {
    "RP1": tp.RealProjectiveSpace(1),
    "RP2": tp.RealProjectiveSpace(2),
    "RP4": tp.RealProjectiveSpace(4),
    "SO(3)": tp.RotationGroup(),
    "L(5,2)": tp.LensSpace(5, 2),
}


@pytest.mark.parametrize("name", FORMS)
def test_pushed_density(name: str) -> None:
    """Deck-invariant, a sum over lifts, of integral 1 (Monte-Carlo; five standard errors)."""
    space = FORMS[name]
    q = tp.Pushforward(space, tp.PowerSpherical(unit(space.cover_dim), torch.tensor(4.0, dtype=F64)))
    x = unit(20_000, space.cover_dim, seed=1)
    log_prob = q.log_prob(x)
    for lift in space.lifts(x[:50]).unbind(-2):
        torch.testing.assert_close(q.log_prob(lift), log_prob[:50])
    torch.testing.assert_close(q.log_prob(space.project(x[:50])), log_prob[:50])
    density = log_prob.exp() * space.volume
    assert abs(density.mean() - 1) < 5 * density.std() / math.sqrt(len(x))


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("scale", SCALES)
def test_exact_kl_and_its_bound(name: str, scale: float) -> None:
    space = FORMS[name]
    q = tp.Pushforward(space, tp.PowerSpherical(unit(space.cover_dim), torch.tensor(scale, dtype=F64)))
    p = tp.UniformOn(space, dtype=F64)
    bound = tp.cover_kl(q, p)
    x = q.sample((20_000,))
    ratio = q.log_prob(x) - p.log_prob(x)
    error = 5 * ratio.std() / math.sqrt(len(x)) + 1e-12
    assert ratio.mean() <= bound + error
    assert bound <= ratio.mean() + math.log(space.num_sheets) + error
    if space.num_sheets > 2:
        with pytest.raises(NotImplementedError, match="cover_kl"):
            kl_divergence(q, p)
        return
    exact = kl_divergence(q, p)
    assert abs(ratio.mean() - exact) < error
    assert -1e-12 <= exact <= bound
    assert bound <= exact + math.log(2) + 1e-12
    torch.testing.assert_close(q.entropy(), math.log(space.volume) - exact)

    def integrand(x: Tensor) -> Tensor:
        log_prob = q.log_prob(x)
        return q.base.log_prob(x).exp() * (log_prob + math.log(space.volume))

    oracle = on_sphere(integrand, q.base.loc, scale)
    torch.testing.assert_close(exact, oracle, rtol=0, atol=1e-5)
    single = tp.Pushforward(space, tp.PowerSpherical(q.base.loc.float(), q.base.scale.float()))
    assert abs(kl_divergence(single, tp.UniformOn(space)).double() - exact) < 2e-5


def test_exact_kl_gradient() -> None:
    def kl(scale: Tensor) -> Tensor:
        q = tp.Pushforward(tp.RotationGroup(), tp.PowerSpherical(unit(4), scale))
        return kl_divergence(q, tp.UniformOn(tp.RotationGroup(), dtype=F64))

    scale = torch.tensor([0.01, 1.0, 30.0, 2000.0], dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(kl, (scale,))
    assert (torch.autograd.grad(kl(scale).sum(), scale)[0] > 0).all()


def test_divergences_name_what_they_miss() -> None:
    sphere, plane = tp.Sphere(2), tp.RealProjectiveSpace(2)
    q = tp.PowerSpherical(unit(3), torch.ones((), dtype=F64))
    with pytest.raises(ValueError, match="push q forward"):
        kl_divergence(q, tp.UniformOn(plane))
    with pytest.raises(ValueError, match="R\\^3"):
        kl_divergence(q, tp.UniformOn(tp.Sphere(3)))
    with pytest.raises(ValueError, match="same space"):
        tp.cover_kl(tp.Pushforward(plane, q), tp.UniformOn(sphere))
    with pytest.raises(ValueError, match="same space"):
        kl_divergence(tp.Pushforward(plane, q), tp.UniformOn(sphere))
    with pytest.raises(TypeError, match="PowerSpherical against PowerSpherical"):
        tp.cover_kl(tp.Pushforward(plane, q), tp.Pushforward(plane, q))


# --- pushed down from R^n --------------------------------------------------------------------------


def test_normal_pushed_to_the_klein_bottle_is_the_wrapped_normal() -> None:
    K = tp.KleinBottle()
    loc, scale = torch.tensor([[40.3, 7.2], [0.4, 0.1]], dtype=F64), torch.tensor([0.3, 0.2], dtype=F64)
    q = tp.Pushforward(K, Independent(Normal(loc, scale), 1), radius=3.0)
    exact = tp.WrappedNormal(K, loc, scale)
    x = 5 * torch.randn(30, 1, 2, dtype=F64)
    torch.testing.assert_close(q.log_prob(x), exact.log_prob(x))
    assert q.expand([3, 2]).rsample((4,)).shape == (4, 3, 2, 2)


@pytest.mark.parametrize("name", ["box", "mixture", "student"])
def test_any_base_integrates_to_one_on_the_klein_bottle(name: str) -> None:
    side = torch.linspace(0, 1, 101, dtype=F64)[:-1] + 0.005
    grid = torch.cartesian_prod(side, side)
    zero, one = torch.zeros(2, dtype=F64), torch.ones(2, dtype=F64)
    if name == "box":  # 0.6 x 0.5: its edges fall between the nodes
        base = Independent(Uniform(zero, torch.tensor([0.6, 0.5], dtype=F64), validate_args=False), 1)
        radius, tolerance = 1.0, 1e-9
    elif name == "mixture":
        centers = torch.tensor([[0.0, 0.0], [0.7, 0.4]], dtype=F64)
        parts = MultivariateNormal(centers, 0.02 * torch.eye(2, dtype=F64))
        base = MixtureSameFamily(Categorical(torch.tensor([0.3, 0.7], dtype=F64)), parts)
        radius, tolerance = 2.0, 1e-7
    else:  # a tail: P(|x| > 6 s) of what is left out shows
        base = Independent(StudentT(8 * one, zero, 0.2 * one), 1)
        radius, tolerance = 3.0, 1e-4
    q = tp.Pushforward(tp.KleinBottle(), base, radius=radius, validate_args=False)
    assert abs(q.log_prob(grid).exp().mean() - 1) < tolerance
    moved = grid * torch.tensor([1.0, -1.0]) + torch.tensor([3.0, 2.0])
    torch.testing.assert_close(q.log_prob(moved).exp(), q.log_prob(grid).exp())


def test_pushed_gradients_do_not_depend_on_the_lift() -> None:
    loc = torch.tensor([0.3, 0.2], dtype=F64, requires_grad=True)
    base = Independent(Normal(loc, 0.3 * torch.ones(2, dtype=F64)), 1)
    q = tp.Pushforward(tp.KleinBottle(), base, radius=3.0)
    exact = tp.WrappedNormal(tp.KleinBottle(), loc, 0.3 * torch.ones(2, dtype=F64))
    x = torch.randn(10, 2, dtype=F64)
    for_q = torch.autograd.grad(q.log_prob(x).sum(), loc)[0]
    torch.testing.assert_close(for_q, torch.autograd.grad(exact.log_prob(x).sum(), loc)[0])


def test_products_of_spheres() -> None:
    space = tp.Product(tp.RealProjectiveSpace(2), tp.Sphere(1))

    class Both(torch.distributions.Distribution):
        arg_constraints: dict = {}

        def __init__(self) -> None:
            one = torch.ones((), dtype=F64)
            self.laws = [tp.PowerSpherical(unit(3), 3 * one), tp.PowerSpherical(unit(2), one)]
            super().__init__(torch.Size(), torch.Size([5]), validate_args=False)

        def log_prob(self, value: Tensor) -> Tensor:
            return self.laws[0].log_prob(value[..., :3]) + self.laws[1].log_prob(value[..., 3:])

    both = Both()
    x = torch.cat([unit(9, 3), unit(9, 2)], 1)
    first = tp.Pushforward(tp.RealProjectiveSpace(2), both.laws[0]).log_prob(x[:, :3])
    expected = first + both.laws[1].log_prob(x[:, 3:])
    torch.testing.assert_close(tp.Pushforward(space, both).log_prob(x), expected)


def test_bad_arguments_are_named() -> None:
    K, normal = tp.KleinBottle(), Independent(Normal(torch.zeros(2), torch.ones(2)), 1)
    with pytest.raises(ValueError, match="WrappedNormal"):
        tp.Pushforward(K, normal)
    with pytest.raises(ValueError, match="positive"):
        tp.Pushforward(K, normal, radius=-1.0)
    with pytest.raises(ValueError, match="event_shape"):
        tp.Pushforward(K, Normal(torch.zeros(2), torch.ones(2)), radius=1.0)
    with pytest.raises(ValueError, match="all lifts"):
        tp.Pushforward(tp.Sphere(1), tp.PowerSpherical(torch.eye(2)[0], torch.ones(())), radius=1.0)
    with pytest.raises(TypeError, match="finite deck group"):
        tp.Pushforward(tp.Product(tp.Circle(), tp.Sphere(1)), normal)
    with pytest.raises(TypeError, match="Distribution"):
        tp.Pushforward(K, 3, radius=1.0)  # type: ignore[arg-type]


# --- the exponential map of so(3) ------------------------------------------------------------------


def test_normal_pushed_by_the_exponential_of_so3() -> None:
    r"""A normal on so(3) = R^3, pushed by exp: no covering, so its density has a Jacobian.

    The preimages of the rotation by theta about n are (theta + 2 pi k) n, and exp stretches volumes by
    (sin(r / 2) / (r / 2))^2 / 8 there, in the metric of S^3:

        q(R) = sum_k N(r_k n; 0, Sigma) 8 (r_k / (2 sin(r_k / 2)))^2,    r_k = theta + 2 pi k.

    Checked by the mass of a ball, and by the mean of a function, against samples: five standard errors.
    """
    space = tp.RotationGroup()
    tril = torch.tensor([[0.5, 0.0, 0.0], [0.2, 0.4, 0.0], [-0.1, 0.1, 0.6]], dtype=F64)
    base = MultivariateNormal(torch.zeros(3, dtype=F64), scale_tril=tril)
    torch.manual_seed(0)
    v = base.sample((40_000,))
    r = v.norm(dim=-1, keepdim=True)
    samples = torch.cat([(r / 2).cos(), (r / 2).sin() * v / r], 1)
    generators = torch.linalg.cross(
        v[:5, None, :].expand(5, 3, 3), torch.eye(3, dtype=F64).expand(5, 3, 3)
    ).mT
    torch.testing.assert_close(space.matrix(samples[:5]), torch.linalg.matrix_exp(generators))

    def density(q: Tensor) -> Tensor:
        half = torch.atan2(q[:, 1:].norm(dim=-1), q[:, 0])
        axis = torch.nn.functional.normalize(q[:, 1:], dim=-1)
        total = torch.zeros_like(half)
        for k in range(-3, 4):
            angle = 2 * half + 2 * math.pi * k
            jacobian = 8 * (angle / (2 * half.sin())).square()
            total = total + base.log_prob(angle.unsqueeze(1) * axis).exp() * jacobian
        return total

    uniform = space.sample_uniform(torch.Size([200_000]), F64, torch.device("cpu"))
    weights = density(uniform) * space.volume
    center = torch.nn.functional.normalize(torch.tensor([1.0, 0.2, 0.1, -0.1], dtype=F64), dim=0)
    probe = torch.linspace(-1, 1, 9, dtype=F64)
    for f in (
        lambda q: torch.ones(len(q), dtype=F64),
        lambda q: (space.distance(q, center) < 0.3).double(),
        lambda q: (space.embed(q) @ probe).cos(),
    ):
        one, other = f(samples), f(uniform) * weights
        error = math.hypot(one.std() / math.sqrt(len(one)), other.std() / math.sqrt(len(other)))
        assert abs(one.mean() - other.mean()) < 5 * error


def test_compile_and_vmap() -> None:
    space = tp.RealProjectiveSpace(2)
    loc, scale, x = unit(3), torch.tensor(3.0, dtype=F64), unit(8, 3, seed=1)

    def log_prob(loc: Tensor, scale: Tensor, x: Tensor) -> Tensor:
        q = tp.Pushforward(space, tp.PowerSpherical(loc, scale, validate_args=False), validate_args=False)
        return q.log_prob(x)

    expected = log_prob(loc, scale, x)
    torch.testing.assert_close(
        torch.compile(log_prob, backend="eager", fullgraph=True)(loc, scale, x), expected
    )
    torch.testing.assert_close(torch.vmap(log_prob, (None, None, 0))(loc, scale, x), expected)


def test_cover_kl_compiles() -> None:
    space = tp.KleinBottle()
    p = tp.UniformOn(space)

    def bound(scale: Tensor) -> Tensor:
        q = tp.WrappedNormal(space, torch.zeros(2), scale, validate_args=False)
        return tp.cover_kl(q, p)

    scale = torch.tensor([0.2, 0.3])
    compiled = torch.compile(bound, backend="eager", fullgraph=True)(scale)  # the first use of this space
    torch.testing.assert_close(compiled, bound(scale))
