"""Spherical space forms: every law on every space, then what is particular to each."""

import copy
import math
import pickle

import pytest
import torch
from torch import Tensor

import topoprior as tp

F64 = torch.float64


def left(q: tuple[float, ...]) -> Tensor:
    """Left multiplication by a quaternion."""
    w, x, y, z = q
    return torch.tensor([[w, -x, -y, -z], [x, w, -z, y], [y, z, w, -x], [z, -y, x, w]], dtype=F64)


def quaternion_group() -> tp.SphericalSpaceForm:
    units = [tuple(s * float(i == j) for j in range(4)) for i in range(4) for s in (1, -1)]
    return tp.SphericalSpaceForm([left(q) for q in units])


SPACES = {
    "S1": tp.Sphere(1),
    "S2": tp.Sphere(2),
    "RP1": tp.RealProjectiveSpace(1),
    "RP2": tp.RealProjectiveSpace(2),
    "RP5": tp.RealProjectiveSpace(5),
    "SO(3)": tp.RotationGroup(),
    "L(1,1)": tp.LensSpace(1, 0),
    "L(3,1)": tp.LensSpace(3, 1),
    "L(5,2)": tp.LensSpace(5, 2),
    "L(12,5)": tp.LensSpace(12, 5),
    "RP2 generic": tp.SphericalSpaceForm([-torch.eye(3)]),
    "S3/Q8": quaternion_group(),
}
CLOSED_FORM = [name for name in SPACES if name not in ("RP2 generic", "S3/Q8")]
every_space = pytest.mark.parametrize("name", SPACES)


def points(space: tp.Covering, count: int, seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    return space.sample_uniform(torch.Size([count]), F64, torch.device("cpu"))


def near(x: Tensor, size: float) -> Tensor:
    return torch.nn.functional.normalize(x + size * torch.randn_like(x), dim=-1)


@every_space
def test_every_lift_is_the_same_point(name: str) -> None:
    space = SPACES[name]
    x, y = points(space, 30), points(space, 30, 1)
    lifts = space.lifts(x, 0.1)
    assert lifts.shape == (30, space.num_sheets, space.cover_dim)
    torch.testing.assert_close(lifts[:, 0], x)
    features = space.embed(lifts)
    torch.testing.assert_close(
        features, space.embed(x).unsqueeze(1).expand_as(features), rtol=0, atol=1e-12
    )
    assert space.distance(lifts, x.unsqueeze(1)).max() < 1e-12
    canonical = space.project(lifts)
    torch.testing.assert_close(canonical, canonical[:, :1].expand_as(canonical), rtol=0, atol=1e-12)
    assert space.same_point(canonical[:, 0], x).all()
    brute = (lifts * y.unsqueeze(1)).sum(-1).clamp(-1, 1).arccos().amin(1)
    torch.testing.assert_close(space.distance(x, y), brute)
    torch.testing.assert_close(space.distance(y, x), brute)


@every_space
def test_retract_inverts_embed(name: str) -> None:
    space = SPACES[name]
    x = points(space, 200)
    axes = torch.eye(space.cover_dim, dtype=F64)  # the symmetric points
    x = torch.cat([x, axes, near(axes, 1e-9), near(axes, 1e-3)])
    y = space.embed(x)
    assert y.shape == (len(x), space.num_features)
    lift = space.retract(y)
    torch.testing.assert_close(lift.norm(dim=-1), torch.ones(len(x), dtype=F64))
    assert space.distance(lift, x).max() < 1e-6
    single = space.retract(y.float())
    assert single.dtype == torch.float32
    assert space.distance(single.double(), x).max() < 2e-4


@every_space
def test_embed_is_an_injective_immersion(name: str) -> None:
    space = SPACES[name]
    x, y = points(space, 500), points(space, 500, 1)
    # the features of L(p, q) are of degree p: flat where neither coordinate is large
    least = 0.002 if name == "L(12,5)" else 0.05
    assert ((space.embed(x) - space.embed(y)).norm(dim=-1) > least * space.distance(x, y)).all()
    for at in (x, torch.eye(space.cover_dim, dtype=F64).repeat(20, 1)):
        moved = near(at, 1e-6)
        slope = (space.embed(moved) - space.embed(at)).norm(dim=-1) / space.distance(moved, at)
        assert slope.min() > least


@pytest.mark.parametrize("name", CLOSED_FORM)
def test_retract_is_continuous_and_differentiated_right(name: str) -> None:
    space = SPACES[name]
    x = points(space, 60)
    y = (space.embed(x) + 0.02 * torch.randn(60, space.num_features, dtype=F64)).requires_grad_()
    direction = torch.randn_like(y)
    here, moved = space.retract(y), space.retract(y + 1e-6 * direction)
    speed = space.distance(here, moved) / 1e-6
    assert speed.max() < 1e3
    features = space.embed(here)
    loss = (features * torch.linspace(0.5, 1.5, features.shape[-1], dtype=F64)).sum(-1)
    (gradient,) = torch.autograd.grad(loss.sum(), y)
    other = (space.embed(moved) * torch.linspace(0.5, 1.5, features.shape[-1], dtype=F64)).sum(-1)
    slope = ((other - loss) / 1e-6).detach()
    torch.testing.assert_close((gradient * direction).sum(-1), slope, rtol=1e-3, atol=1e-3)


@every_space
def test_distance_near_0_and_pi_has_all_its_digits_and_gradients(name: str) -> None:
    space = SPACES[name]
    x = points(space, 20)
    tangent = torch.randn_like(x)
    tangent = tangent - (tangent * x).sum(-1, keepdim=True) * x
    tangent = tangent / tangent.norm(dim=-1, keepdim=True)
    for angle in (1e-12, 1e-8, 1e-4, 0.1):
        y = math.cos(angle) * x + math.sin(angle) * tangent
        expected = torch.full((20,), angle, dtype=F64)
        torch.testing.assert_close(space.distance(x, y), expected, rtol=1e-2, atol=1e-15)
    if space.num_sheets == 1:
        far = -(math.cos(1e-8) * x + math.sin(1e-8) * tangent)
        torch.testing.assert_close(math.pi - space.distance(x, far), torch.full((20,), 1e-8, dtype=F64))
    for other in (x, -x, near(x, 1e-9)):
        z = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(space.distance(z, other).sum(), z)
        assert gradient.isfinite().all()


@every_space
def test_vmap_copies_and_shapes(name: str) -> None:
    space = SPACES[name]
    x, y = points(space, 6), points(space, 6, 1)
    for function in (space.embed, space.project):
        torch.testing.assert_close(torch.vmap(function)(x), function(x))
    torch.testing.assert_close(torch.vmap(space.distance)(x, y), space.distance(x, y))
    assert space.distance(x[:, None], y).shape == (6, 6)
    twin = pickle.loads(pickle.dumps(copy.deepcopy(space)))
    assert (twin == space, hash(twin) == hash(space), repr(twin)) == (True, True, repr(space))
    with pytest.raises(ValueError, match="expected shape"):
        space.embed(torch.zeros(2, space.cover_dim + 1))
    with pytest.raises(ValueError, match="expected shape"):
        space.retract(torch.zeros(2, space.num_features + 1))
    assert space.embed(x[:0]).shape == (0, space.num_features)


def test_volumes() -> None:
    assert tp.Sphere(1).volume == pytest.approx(2 * math.pi)
    assert tp.Sphere(2).volume == pytest.approx(4 * math.pi)
    assert tp.RealProjectiveSpace(2).volume == pytest.approx(2 * math.pi)
    assert tp.RotationGroup().volume == pytest.approx(math.pi**2)
    assert tp.LensSpace(5, 2).volume == pytest.approx(2 * math.pi**2 / 5)
    assert tp.RotationGroup() == tp.RealProjectiveSpace(3)
    assert tp.LensSpace(5, 2) != tp.LensSpace(5, 1)


@every_space
def test_uniform_samples_have_the_volume_of_small_balls(name: str) -> None:
    """A ball of radius r has probability vol(ball) / volume; five standard errors, false alarm 6e-7."""
    space = SPACES[name]
    r, count = min(0.5, space.shortest / 2), 20_000
    center = points(space, 1, 3)
    inside = (space.distance(points(space, count), center) < r).double().mean().item()
    t = (torch.arange(2000, dtype=F64) + 0.5) / 2000 * r
    area = tp.Sphere(space.dim - 1).volume if space.dim > 1 else 2.0
    expected = area * t.sin().pow(space.dim - 1).mean().item() * r / space.volume
    assert abs(inside - expected) < 5 * math.sqrt(expected / count)


def test_bad_groups_are_named() -> None:
    turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    with pytest.raises(ValueError, match="element 0 and element 0 is missing"):
        tp.SphericalSpaceForm([turn])
    with pytest.raises(ValueError, match="element 1: has the eigenvalue 1"):
        tp.SphericalSpaceForm([-torch.eye(3), torch.diag(torch.tensor([1.0, -1.0, -1.0]))])
    with pytest.raises(ValueError, match="element 0: not orthogonal"):
        tp.SphericalSpaceForm([2 * torch.eye(3)])
    with pytest.raises(ValueError, match="element 1: expected shape"):
        tp.SphericalSpaceForm([-torch.eye(3), -torch.eye(4)])
    with pytest.raises(ValueError, match="prime to p"):
        tp.LensSpace(6, 2)
    for bad in (0, -1, 1.5):
        with pytest.raises(ValueError, match="positive integer"):
            tp.RealProjectiveSpace(bad)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at n >= 1|n >= 1"):
        tp.SphericalSpaceForm([])
