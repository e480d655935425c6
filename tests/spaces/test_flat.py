"""The further flat spaces, groups from generators, and products."""

import copy
import math
import pickle

import pytest
import torch
from torch import Tensor

import topoprior as tp
from topoprior.spaces.flat.lattices import hermite_basis, lattice_basis

TORCH = torch.float64
EYE = torch.eye(3, dtype=TORCH)


def screw(order: int) -> tuple[Tensor, Tensor]:
    """1 / order of a turn about z, and of the way up."""
    cos, sin = math.cos(2 * math.pi / order), math.sin(2 * math.pi / order)
    turn = torch.tensor([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]], dtype=TORCH)
    return turn, torch.tensor([0, 0, 1 / order], dtype=TORCH)


def tricosm() -> tp.FlatManifold:
    return tp.FlatManifold.from_generators([screw(3), (EYE, [1.0, 0.0, 0.0])])


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
