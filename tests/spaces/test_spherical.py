"""Spherical space forms at their symmetric points, and what is particular to each."""

import math

import pytest
import torch
from torch import Tensor

import topoprior as tp
from tests.spaces.cases import quaternion_group

F64 = torch.float64


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
def test_retract_inverts_embed_at_symmetric_points(name: str) -> None:
    space = SPACES[name]
    axes = torch.eye(space.cover_dim, dtype=F64)
    x = torch.cat([axes, near(axes, 1e-9), near(axes, 1e-3)])
    y = space.embed(x)
    lift = space.retract(y)
    torch.testing.assert_close(lift.norm(dim=-1), torch.ones(len(x), dtype=F64))
    assert space.distance(lift, x).max() < 1e-6
    single = space.retract(y.float())
    assert single.dtype == torch.float32
    assert space.distance(single.double(), x).max() < 2e-4


@every_space
def test_embed_is_an_immersion_at_symmetric_points(name: str) -> None:
    space = SPACES[name]
    # the features of L(p, q) are of degree p: flat where neither coordinate is large
    least = 0.002 if name == "L(12,5)" else 0.05
    at = torch.eye(space.cover_dim, dtype=F64).repeat(20, 1)
    moved = near(at, 1e-6)
    assert ((space.embed(moved) - space.embed(at)).norm(dim=-1) / space.distance(moved, at)).min() > least


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


def test_volumes() -> None:
    assert tp.Sphere(1).volume == pytest.approx(2 * math.pi)
    assert tp.Sphere(2).volume == pytest.approx(4 * math.pi)
    assert tp.RealProjectiveSpace(2).volume == pytest.approx(2 * math.pi)
    assert tp.RotationGroup().volume == pytest.approx(math.pi**2)
    assert tp.LensSpace(5, 2).volume == pytest.approx(2 * math.pi**2 / 5)
    assert tp.RotationGroup() == tp.RealProjectiveSpace(3)
    assert tp.LensSpace(5, 2) != tp.LensSpace(5, 1)


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
