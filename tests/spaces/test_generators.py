"""Flat groups from generators, and products of flat spaces."""

import math

import pytest
import torch
from torch import Tensor

import topoprior as tp
from tests.spaces.test_flat import TORCH, points
from topoprior.spaces.flat.lattices import hermite_basis, lattice_basis

EYE = torch.eye(3, dtype=TORCH)


def screw(order: int) -> tuple[Tensor, Tensor]:
    """1 / order of a turn about z, and of the way up."""
    cos, sin = math.cos(2 * math.pi / order), math.sin(2 * math.pi / order)
    turn = torch.tensor([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]], dtype=TORCH)
    return turn, torch.tensor([0, 0, 1 / order], dtype=TORCH)


def tricosm() -> tp.FlatManifold:
    return tp.FlatManifold.from_generators([screw(3), (EYE, [1.0, 0.0, 0.0])])


# --- groups from generators ----------------------------------------------------------------------


def test_z3_holonomy_from_two_generators() -> None:
    space = tricosm()
    assert space.num_sheets == 3
    assert space.volume == pytest.approx(math.sqrt(3) / 2 / 3)
    for a, t in (screw(3), (EYE, torch.tensor([1.0, 0.0, 0.0], dtype=TORCH))):
        x = points(space, 10)
        assert space.distance(x @ a.T + t, x).max() < 1e-9


@pytest.mark.parametrize("order", [1, 2, 4, 6])
def test_screws(order: int) -> None:
    x, y = torch.eye(3, dtype=TORCH)[:2]
    if order == 6:
        y = torch.tensor([0.5, math.sqrt(3) / 2, 0.0], dtype=TORCH)
    # the fourth generator is superfluous, the lattice basis must not be
    extra = (EYE, 3 * x - 2 * y + 2 * torch.tensor([0.0, 0.0, 1.0], dtype=TORCH))
    space = tp.FlatManifold.from_generators([screw(order), (EYE, x), (EYE, y), extra])
    assert space.num_sheets == order
    cell = math.sqrt(3) / 2 if order == 6 else 1
    assert space.volume == pytest.approx(cell / order)


def test_named_spaces_from_their_generators() -> None:
    glide = ([[1.0, 0.0], [0.0, -1.0]], [1.0, 0.0])
    shift = (torch.eye(2), [0.0, 1.0])
    moebius = tp.FlatManifold.from_generators([glide])
    x, y = torch.randn(2, 50, 2, dtype=TORCH)
    torch.testing.assert_close(moebius.distance(x, y), tp.MoebiusBand().distance(x, y))
    klein = tp.FlatManifold.from_generators([glide, shift])
    torch.testing.assert_close(klein.distance(x, y), tp.KleinBottle().distance(x, y))
    turns = [torch.diag(2 * EYE[axis] - 1) for axis in range(2)]
    screws = list(zip(turns, [[0.5, 0.5, 0.0], [0.0, 0.5, 0.5]], strict=True))
    wendt = tp.FlatManifold.from_generators(screws)  # no translation among them
    x, y = torch.randn(2, 50, 3, dtype=TORCH)
    torch.testing.assert_close(wendt.distance(x, y), tp.HantzscheWendt().distance(x, y))


def test_bad_generators_are_named() -> None:
    turn = screw(7)[0].clone()
    cos, sin = math.cos(1), math.sin(1)
    turn[:2, :2] = torch.tensor([[cos, -sin], [sin, cos]])
    with pytest.raises(ValueError, match="infinite order"):
        tp.FlatManifold.from_generators([(turn, [0.0, 0.0, 1.0])])
    with pytest.raises(ValueError, match="not discrete"):
        tp.FlatManifold.from_generators([([[1.0]], [1.0]), ([[1.0]], [math.sqrt(2)])])
    with pytest.raises(ValueError, match="not discrete"):  # five-fold symmetry allows no lattice
        tp.FlatManifold.from_generators([screw(5), (EYE, [1.0, 0.0, 0.0])])
    with pytest.raises(ValueError, match="generator 1: A is not orthogonal"):
        tp.FlatManifold.from_generators([([[1.0]], [1.0]), ([[2.0]], [1.0])])
    with pytest.raises(ValueError, match="fixes a point"):
        tp.FlatManifold.from_generators([([[1.0]], [1.0]), ([[-1.0]], [0.0])])
    with pytest.raises(ValueError, match="at least one"):
        tp.FlatManifold.from_generators([])


def test_integer_lattices() -> None:
    torch.manual_seed(0)
    for _ in range(4):
        rows = torch.randint(-2, 3, (6, 3))
        span = hermite_basis(rows.tolist())
        if len(span) < 3:
            continue
        covolume = abs(torch.tensor(span, dtype=TORCH).det().item())
        # the covolume is the gcd of all 3 x 3 minors
        minors = [
            round(rows[list(c)].double().det().item())
            for c in torch.combinations(torch.arange(6), 3).tolist()
        ]
        assert covolume == pytest.approx(math.gcd(*minors))
        basis = lattice_basis([r.double() / 7 for r in rows])
        assert abs(basis.det().item()) * 343 == pytest.approx(covolume)


# --- products --------------------------------------------------------------------------------------


def test_flat_products_are_flat_manifolds() -> None:
    space = tp.Product(tp.KleinBottle(), tp.KleinBottle())
    assert isinstance(space, tp.FlatManifold)
    assert space.num_sheets == 4
    torch.manual_seed(0)
    x = torch.rand(9, 4, dtype=TORCH)
    q = tp.WrappedNormal(space, torch.rand(4, dtype=TORCH), torch.tensor([0.2, 0.1, 0.3, 0.2], dtype=TORCH))
    parts = [
        tp.WrappedNormal(tp.KleinBottle(), q.loc[i : i + 2], q.scale[i : i + 2]).log_prob(x[:, i : i + 2])
        for i in (0, 2)
    ]
    torch.testing.assert_close(q.log_prob(x), parts[0] + parts[1])


def test_product_distance() -> None:
    space = tp.Product(tp.Sphere(1), tp.RotationGroup())
    x, y = points(space, 30), points(space, 30, 1)
    first = tp.Sphere(1).distance(x[:, :2], y[:, :2])
    second = tp.RotationGroup().distance(x[:, 2:], y[:, 2:])
    torch.testing.assert_close(space.distance(x, y), torch.hypot(first, second))
    z = x.clone().requires_grad_()
    space.distance(z, x).sum().backward()
    assert z.grad is not None
    assert z.grad.isfinite().all()
    with pytest.raises(TypeError, match="expected Coverings"):
        tp.Product(tp.Circle(), 3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least one"):
        tp.Product()


@pytest.mark.parametrize("size", [0.01, 0.5, 1.0, 30.0])
@pytest.mark.parametrize("lattice", [[[1.0], [0.0]], [[1.0], [1.0]], [[0.0], [1.0]]])
def test_a_cylinder_of_any_size_and_direction_has_few_features(lattice: list, size: float) -> None:
    """Beside short waves the open coordinate was too flat to count: none were found at .5, 49 along a diagonal."""
    space = tp.FlatManifold(size * torch.tensor(lattice))
    assert space.num_features == 5  # as many as an embedding of a surface may need (Whitney), and no more
    x = size * torch.randn(50, 2, dtype=torch.float64)
    assert space.distance(space.retract(space.embed(x)), x).max() < 1e-7 * size


@pytest.mark.parametrize("size", [0.01, 30.0])
def test_a_moebius_band_of_any_size_embeds(size: float) -> None:
    space = tp.FlatManifold([[2 * size], [0.0]], [([[1.0, 0.0], [0.0, -1.0]], [size, 0.0])])
    assert (
        space.num_features
        == tp.FlatManifold([[2.0], [0.0]], [([[1.0, 0.0], [0.0, -1.0]], [1.0, 0.0])]).num_features
    )
    x = size * torch.randn(50, 2, dtype=torch.float64)
    assert space.distance(space.retract(space.embed(x)), x).max() < 1e-7 * size
