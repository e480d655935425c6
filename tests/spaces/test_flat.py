"""The further flat spaces, groups from generators, and products."""

import copy
import math
import pickle

import pytest
import torch
from torch import Tensor

import topoprior as tp

TORCH = torch.float64


SPACES = {
    "Cylinder": tp.Cylinder(),
    "MoebiusBand": tp.MoebiusBand(),
    "KleinBottle(3)": tp.KleinBottle(3),
    "KleinBottle(4)": tp.KleinBottle(4),
    "HalfTurnManifold": tp.HalfTurnManifold(),
    "HantzscheWendt": tp.HantzscheWendt(),
    "K x S1 x R": tp.Product(tp.KleinBottle(), tp.Circle(), tp.Euclidean(1)),
    "SO(3) x K": tp.Product(tp.RotationGroup(), tp.KleinBottle()),
    "RP2 x S2": tp.Product(tp.RealProjectiveSpace(2), tp.Sphere(2)),
}
CLOSED_FORM = [name for name in SPACES if name != "HantzscheWendt"]
every_space = pytest.mark.parametrize("name", SPACES)


def points(space: tp.Covering, count: int, seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    if math.isfinite(space.volume):
        x = space.sample_uniform(torch.Size([count]), TORCH, torch.device("cpu"))
        if isinstance(space, tp.FlatManifold):  # anywhere on the cover
            x = x + torch.randint(-2, 3, (count, space.rank)).to(x) @ space.lattice.T
        return x
    return 2 * torch.randn(count, space.cover_dim, dtype=TORCH)


@every_space
def test_every_lift_is_the_same_point(name: str) -> None:
    space = SPACES[name]
    x, y = points(space, 20), points(space, 20, 1)
    lifts = space.lifts(x, 0.6)
    features = space.embed(lifts)
    torch.testing.assert_close(
        features, space.embed(x).unsqueeze(-2).expand_as(features), rtol=0, atol=1e-9
    )
    assert space.distance(lifts, x.unsqueeze(-2)).max() < 1e-7
    far = space.distance(lifts, y.unsqueeze(-2))
    torch.testing.assert_close(far, space.distance(x, y).unsqueeze(-1).expand_as(far), rtol=0, atol=1e-9)
    canonical = space.project(x)
    assert space.same_point(canonical, x).all()
    torch.testing.assert_close(space.project(canonical), canonical, rtol=0, atol=1e-9)


@every_space
def test_retract_inverts_embed(name: str) -> None:
    space = SPACES[name]
    x = points(space, 200)
    y = space.embed(x)
    assert y.shape == (200, space.num_features)
    assert space.distance(space.retract(y), x).max() < 1e-6
    single = space.retract(y.float())
    assert single.dtype == torch.float32
    assert space.distance(single.double(), x).max() < 2e-5


@every_space
def test_embed_is_an_injective_immersion(name: str) -> None:
    space = SPACES[name]
    x, y = points(space, 300), points(space, 300, 1)
    distance = space.distance(x, y)
    apart = (space.embed(x) - space.embed(y)).norm(dim=-1)
    assert (apart > 0.2 * distance.clamp(max=1)).all()
    v = torch.randn_like(x)
    step = 1e-5
    moved = space._move(x, step * v)
    slope = (space.embed(moved) - space.embed(x)).norm(dim=-1) / space.distance(moved, x)
    assert slope.min() > 0.2


@pytest.mark.parametrize("name", CLOSED_FORM)
def test_retract_is_continuous_and_differentiable(name: str) -> None:
    space = SPACES[name]
    x = points(space, 100)
    y = (space.embed(x) + 0.05 * torch.randn(100, space.num_features, dtype=TORCH)).requires_grad_()
    here = space.retract(y)
    there = space.retract(y + 1e-7 * torch.randn_like(y))
    assert space.distance(here, there).max() < 1e-5  # whichever sheet: the point moves little
    (gradient,) = torch.autograd.grad(here.square().sum(), y)
    assert gradient.isfinite().all()


@every_space
def test_vmap(name: str) -> None:
    space = SPACES[name]
    x, y = points(space, 7), points(space, 7, 1)
    for function in (space.embed, space.project):
        torch.testing.assert_close(torch.vmap(function)(x), function(x))
    torch.testing.assert_close(torch.vmap(space.distance)(x, y), space.distance(x, y))


@every_space
def test_copies_are_equal(name: str) -> None:
    space = SPACES[name]
    for twin in (copy.deepcopy(space), pickle.loads(pickle.dumps(space))):
        assert twin == space
        assert hash(twin) == hash(space)
        assert repr(twin) == repr(space)
    assert space != tp.Circle()


def test_moebius_retract_is_the_nearest_point() -> None:
    space = tp.MoebiusBand()
    torch.manual_seed(0)
    y = torch.randn(20, 4, dtype=TORCH)
    u, w = torch.linspace(0, 1, 401, dtype=TORCH), torch.linspace(-4, 4, 801, dtype=TORCH)
    image = space.embed(torch.cartesian_prod(u, w))
    grid = torch.cdist(y, image).amin(1)
    exact = (space.embed(space.retract(y)) - y).norm(dim=-1)
    assert (exact <= grid + 1e-12).all()
    assert (grid - exact).max() < 1e-3


def test_the_klein_bottle_is_what_it_was() -> None:
    x = torch.tensor([0.3, 0.2], dtype=TORCH)
    b, a = math.pi * 0.3, 2 * math.pi * 0.2
    cos, sin = math.cos, math.sin
    expected = [
        math.sqrt(3) * cos(a),
        2 * sin(a) * cos(b),
        2 * sin(a) * sin(b),
        cos(a) * cos(2 * b),
        cos(a) * sin(2 * b),
    ]
    torch.testing.assert_close(tp.KleinBottle().embed(x), torch.tensor(expected, dtype=TORCH))
    assert repr(tp.KleinBottle()) == "KleinBottle()"
    assert repr(tp.KleinBottle(3)) == "KleinBottle(3)"
    with pytest.raises(ValueError, match="at least 2"):
        tp.KleinBottle(1)


@pytest.mark.parametrize("dim", [2, 3, 4])
def test_klein_metric_is_flat(dim: int) -> None:
    space = tp.KleinBottle(dim)
    jacobian = torch.vmap(torch.func.jacfwd(space.embed))(points(space, 30))
    gram = jacobian.transpose(1, 2) @ jacobian
    expected = torch.diag(torch.tensor([4.0 * (dim - 1)] + [16.0] * (dim - 1), dtype=TORCH)) * math.pi**2
    torch.testing.assert_close(gram, expected.expand_as(gram))
    assert space.volume == 1


def test_known_volumes_and_sheets() -> None:
    assert tp.MoebiusBand().num_sheets == 2
    assert tp.Cylinder().volume == math.inf
    assert (tp.HantzscheWendt().num_sheets, tp.HantzscheWendt().volume) == (4, 0.25)
    assert tp.HalfTurnManifold() == tp.KleinBottle(3)
    assert SPACES["SO(3) x K"].volume == pytest.approx(math.pi**2)
    assert SPACES["RP2 x S2"].volume == pytest.approx(8 * math.pi**2)
    assert SPACES["SO(3) x K"].num_sheets == 4
