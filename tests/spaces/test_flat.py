"""The further flat spaces, groups from generators, and products."""

import math

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
    "K x S1 x R": tp.Product(tp.KleinBottle(), tp.Circle(), tp.Euclidean(1)),
    "SO(3) x K": tp.Product(tp.RotationGroup(), tp.KleinBottle()),
    "RP2 x S2": tp.Product(tp.RealProjectiveSpace(2), tp.Sphere(2)),
}


def points(space: tp.Covering, count: int, seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    if math.isfinite(space.volume):
        x = space.sample_uniform(torch.Size([count]), TORCH, torch.device("cpu"))
        if isinstance(space, tp.FlatManifold):  # anywhere on the cover
            x = x + torch.randint(-2, 3, (count, space.rank)).to(x) @ space.lattice.T
        return x
    return 2 * torch.randn(count, space.cover_dim, dtype=TORCH)


@pytest.mark.parametrize("name", SPACES)
def test_retract_is_continuous_and_differentiable(name: str) -> None:
    space = SPACES[name]
    x = points(space, 100)
    y = (space.embed(x) + 0.05 * torch.randn(100, space.num_features, dtype=TORCH)).requires_grad_()
    here = space.retract(y)
    there = space.retract(y + 1e-7 * torch.randn_like(y))
    assert space.distance(here, there).max() < 1e-5  # whichever sheet: the point moves little
    (gradient,) = torch.autograd.grad(here.square().sum(), y)
    assert gradient.isfinite().all()


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
