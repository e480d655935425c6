"""Every law of `Covering`, on every space of the table; then what is particular to flat spaces and to K."""

import functools
import math
import os

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.spaces.cases import (
    ALL,
    COMPACT,
    FLAT,
    PERIODIC,
    REFLECTION,
    SPACES,
    onto_cover,
    orbit,
    points,
    space_named,
    tangent_basis,
)
from topoprior import Covering, Euclidean, FlatManifold, KleinBottle, Torus

every_space = pytest.mark.parametrize("name", ALL)
numbers = st.floats(-3, 3).map(
    lambda v: round(v, 3)
)  # rounded: two thirds of draws would be tiny otherwise


def close(a: Tensor, b: Tensor, atol: float = 1e-9) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=atol)


def seam_mask(space: Covering, x: Tensor, margin: float = 1e-6) -> Tensor:
    """Points whose canonical lift does not move when the point is shaken: not on a seam."""
    shaken = onto_cover(space, x + margin)
    return (space.project(shaken) - space.project(x)).norm(dim=-1) < 100 * margin


# --- every covering ----------------------------------------------------------------------------


@every_space
def test_any_lift_is_accepted(name: str) -> None:
    space = space_named(name)
    x, y = points(space, 6), points(space, 6, seed=1)
    lifts = space.lifts(x, 0.5)
    assert lifts.shape[:-2] == (6,)
    assert lifts.shape[-1] == space.cover_dim
    close(space.embed(lifts), space.embed(x).unsqueeze(-2).expand(*lifts.shape[:-1], -1))
    close(
        space.distance(lifts, y.unsqueeze(-2)), space.distance(x, y).unsqueeze(-1).expand(lifts.shape[:-1])
    )
    close(
        space.distance(y.unsqueeze(-2), lifts), space.distance(x, y).unsqueeze(-1).expand(lifts.shape[:-1])
    )
    assert space.same_point(lifts, x.unsqueeze(-2), atol=1e-6).all()
    assert not space.same_point(x, y, atol=1e-6).any()
    project = space.project(lifts)
    same = seam_mask(space, x)
    assert same.sum() >= 5
    close(project[same], space.project(x).unsqueeze(-2).expand_as(project)[same])


@every_space
@pytest.mark.parametrize("radius", [0.0, 0.4, 1.3])
def test_lifts_within_the_radius_are_complete(name: str, radius: float) -> None:
    space = space_named(name)
    for x in points(space, 3):
        brute = orbit(space, x)
        near = brute[(brute - x).norm(dim=-1) <= radius]
        assert len(near) >= 1  # x itself
        lifts = space.lifts(x, radius)
        assert torch.cdist(near, lifts).amin(-1).max() < 1e-6
        assert torch.cdist(lifts, orbit(space, x, reach=9)).amin(-1).max() < 1e-6  # and nothing else
        gaps = torch.cdist(lifts, lifts) + torch.eye(len(lifts))
        assert gaps.min() > 1e-6, "a lift is listed twice"


@every_space
def test_project_is_idempotent_and_stays_on_the_point(name: str) -> None:
    space = space_named(name)
    x = onto_cover(space, 3 * torch.randn(200, space.cover_dim, dtype=torch.float64))
    p = space.project(x)
    close(space.project(p), p)
    close(space.embed(p), space.embed(x), 1e-8)
    assert space.same_point(p, x, atol=1e-7).all()


@every_space
def test_retract_inverts_embed(name: str) -> None:
    space = space_named(name)
    x = points(space, 200)
    y = space.embed(x)
    assert y.shape == (200, space.num_features)
    back = space.retract(y)
    assert space.distance(back, x).max() < 1e-6
    assert space.embed(back).sub(y).abs().max() < 1e-6
    assert space.retract(y.reshape(10, 20, -1)).shape == (10, 20, space.cover_dim)


@every_space
def test_retract_is_differentiated_right(name: str) -> None:
    """embed . retract is the identity on the embedded space, so its derivative is, along that space."""
    space = space_named(name)
    for x in points(space, 5):
        tangent = torch.func.jacrev(space.embed)(x) @ tangent_basis(space, x)
        round_trip = torch.func.jacrev(lambda y: space.embed(space.retract(y)))(space.embed(x))  # noqa: B023
        close(round_trip @ tangent, tangent, 1e-5)


@every_space
def test_embed_is_an_immersion(name: str) -> None:
    space = space_named(name)
    # 1e-12: where an axis has no part in one factor of a product, it still names a point of its sphere
    axes = onto_cover(space, torch.eye(space.cover_dim, dtype=torch.float64) / 2 + 1e-12)
    x = torch.cat([points(space, 200), axes])
    jacobians = torch.func.vmap(torch.func.jacrev(space.embed))(x)
    bases = torch.stack([tangent_basis(space, p) for p in x])
    assert torch.linalg.svdvals(jacobians @ bases)[:, -1].min() > 0.5


@every_space
def test_embed_is_injective(name: str) -> None:
    """Chords are no shorter than half the distance: on 11,000 pairs, and on pairs that are near each other."""
    space = space_named(name)
    x = points(space, 150)
    i, j = torch.triu_indices(150, 150, 1)
    y = torch.cat([x[j], onto_cover(space, x + 1e-3 * torch.randn_like(x))])
    x = torch.cat([x[i], x])
    chord = (space.embed(x) - space.embed(y)).norm(dim=-1)
    distance = torch.cat([space.distance(a, b) for a, b in zip(x.split(2000), y.split(2000), strict=True)])
    assert (chord / distance).min() > 0.5


@every_space
def test_retract_is_continuous_across_seams(name: str) -> None:
    """Along paths through many cells, a little off the image: the point moves in steps, the lift may jump."""
    space = space_named(name)
    start, direction = points(space, 2, 1), torch.randn(2, 1, space.cover_dim, dtype=torch.float64)
    time = torch.linspace(0, 2, 81, dtype=torch.float64)[:, None]
    path = onto_cover(space, start + time * direction / direction.norm(dim=-1, keepdim=True))
    y = space.embed(path)
    point = space.retract(y + 0.02 * (3 * time + torch.arange(y.shape[-1])).sin())
    assert space.distance(point, path).max() < 0.1
    steps = space.distance(path[:, 1:], path[:, :-1])  # of length 0.025, in the flat case
    assert (space.distance(point[:, 1:], point[:, :-1]) - steps).abs().max() < 0.02


@every_space
@settings(max_examples=25)
@given(data=st.data())
def test_distance_is_a_metric(name: str, data: st.DataObject) -> None:
    space = space_named(name)
    raw = [
        data.draw(st.lists(numbers, min_size=space.cover_dim, max_size=space.cover_dim)) for _ in range(3)
    ]
    raw = torch.tensor(raw, dtype=torch.float64)
    if space.cover_dim != space.dim:
        raw = raw + 0.1234  # off the origin
    x, y, z = onto_cover(space, raw)
    xy, yz, xz = space.distance(x, y), space.distance(y, z), space.distance(x, z)
    assert xy >= 0
    close(xy, space.distance(y, x))
    close(space.distance(x, x), torch.zeros((), dtype=torch.float64), 2e-8)
    assert xz <= xy + yz + 1e-9
    assert (xy < 1e-6) == ((space.embed(x) - space.embed(y)).norm() < 1e-5)


@every_space
def test_distance_has_finite_gradients(name: str) -> None:
    space = space_named(name)
    x = points(space, 10).requires_grad_()
    y = space.lifts(x.detach(), 0.0)[:, -1]
    space.distance(x, y).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    x.grad = None
    space.distance(x, points(space, 10, seed=3)).sum().backward()
    tangents = torch.stack([tangent_basis(space, p) for p in x.detach()])
    slopes = (x.grad.unsqueeze(-2) @ tangents).norm(dim=(-1, -2))
    close(slopes, torch.ones(10, dtype=torch.float64), 1e-6)  # unit speed off the cut locus


@every_space
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_preserved(name: str, dtype: torch.dtype) -> None:
    space = space_named(name)
    x, y = points(space, 4, dtype=dtype), points(space, 4, dtype=dtype, seed=1)
    features = space.embed(x)
    for value in (
        x, space.project(x), space.lifts(x, 0.5), features, space.retract(features), space.distance(x, y),
    ):  # fmt: skip
        assert value.dtype == dtype
        assert value.isfinite().all()
    assert space.distance(space.retract(features), x).max() < (1e-3 if dtype == torch.float32 else 1e-6)


@every_space
def test_empty_batches(name: str) -> None:
    space = space_named(name)
    x = torch.zeros(0, space.cover_dim)
    assert space.embed(x).shape == (0, space.num_features)
    assert space.project(x).shape == (0, space.cover_dim)
    assert space.distance(x, x).shape == (0,)
    assert space.retract(space.embed(x)).shape == (0, space.cover_dim)


@every_space
def test_vmap_agrees_with_batches(name: str) -> None:
    space = space_named(name)
    x, y = points(space, 6), points(space, 6, seed=1)
    close(torch.func.vmap(space.embed)(x), space.embed(x))
    close(torch.func.vmap(space.distance)(x, y), space.distance(x, y))
    close(torch.func.vmap(space.project)(x), space.project(x))
    close(torch.func.vmap(lambda p: space.lifts(p, 0.5))(x), space.lifts(x, 0.5))


@pytest.mark.parametrize("name", ["torus", "klein", "moebius", "hexagonal", "third-turn"])
def test_first_use_in_compiled_code(name: str) -> None:
    """Nothing is computed late that cannot be traced: a fresh space, first used inside the graph."""
    torch._dynamo.reset()
    fresh, known = SPACES[name](), space_named(name)

    def f(space: Covering, x: Tensor, y: Tensor) -> Tensor:
        return space.distance(x, y) + space.project(x).sum(-1) + space.lifts(y, 0.5).sum((-1, -2))

    x, y = points(known, 5), points(known, 5, seed=1)
    compiled = torch.compile(functools.partial(f, fresh), backend="eager", fullgraph=True)
    close(compiled(x, y), f(known, x, y))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["klein", "hexagonal", "hantzsche-wendt"])
def test_features_in_compiled_code(name: str) -> None:
    """Those found by search are found at first use, which cannot be traced; after it they can."""
    torch._dynamo.reset()
    space = space_named(name)
    x = points(space, 4)
    y = space.embed(x)
    close(torch.compile(space.embed, backend="eager", fullgraph=True)(x), y)
    close(torch.compile(space.retract, backend="eager", fullgraph=True)(y), space.retract(y))


@every_space
def test_wrong_shapes_are_named(name: str) -> None:
    space = space_named(name)
    wrong = torch.zeros(2, space.cover_dim + 1)
    for call in (space.project, space.embed, lambda x: space.lifts(x, 1.0), lambda x: space.distance(x, x)):
        with pytest.raises(ValueError, match=r"x: expected shape"):
            call(wrong)
    with pytest.raises(ValueError, match=r"y: expected shape"):
        space.distance(wrong[:, :-1], wrong)
    with pytest.raises(ValueError, match=r"y: expected shape"):
        space.retract(torch.zeros(2, space.num_features + 1))


@every_space
def test_uniform_samples(name: str) -> None:
    space = space_named(name)
    cpu = torch.device("cpu")
    if name not in COMPACT:
        assert space.volume == math.inf
        with pytest.raises(ValueError, match="not compact"):
            space.sample_uniform(torch.Size([3]), torch.float32, cpu)
        return
    x = space.sample_uniform(torch.Size([4, 5000]), torch.float64, cpu)
    assert x.shape == (4, 5000, space.cover_dim)
    close(onto_cover(space, x), x)
    # The mean of the features: 0 where they are waves, else that over normalized Gaussians on the sphere.
    # 5.5 standard errors on at most 20 features: false alarm below 1e-6.
    features = space.embed(x).flatten(0, 1)
    error = (features.var(0) / len(features)).sqrt()
    expected = torch.zeros_like(error)
    if not isinstance(space, FlatManifold):
        other = space.embed(onto_cover(space, torch.randn(20000, space.cover_dim, dtype=torch.float64)))
        expected, error = other.mean(0), (2 * features.var(0) / len(features)).sqrt()
    assert ((features.mean(0) - expected).abs() < 5.5 * error + 1e-12).all()


# --- flat spaces -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in FLAT if n in COMPACT])
def test_volume(name: str) -> None:
    """|det B| / m, and the share of the lattice cell that is canonical is 1 / m."""
    space = space_named(name)
    expected = space.lattice.det().abs().item() / space.num_sheets
    assert space.volume == pytest.approx(expected, rel=1e-12)
    side = {1: 1000, 2: 60, 3: 18}[space.dim]
    line = (torch.arange(side, dtype=torch.float64) + 0.31) / side
    grid = torch.cartesian_prod(*[line] * space.dim).reshape(-1, space.dim) @ space.lattice.T
    canonical = ((space.project(grid) - grid).norm(dim=-1) < 1e-9).double().mean().item()
    assert canonical == pytest.approx(1 / space.num_sheets, abs=2 / side)


def test_known_volumes_and_sheets() -> None:
    known = {"klein": (1, 2), "klein-generic": (1, 2), "torus-3": (1, 1), "hexagonal": (math.sqrt(0.75), 1)}
    known |= {
        "hantzsche-wendt": (0.25, 4),
        "third-turn": (math.sqrt(0.75) / 3, 3),
        "moebius": (math.inf, 2),
    }
    for name, (volume, sheets) in known.items():
        assert space_named(name).volume == pytest.approx(volume)
        assert space_named(name).num_sheets == sheets


@pytest.mark.parametrize("name", FLAT)
def test_distance_is_that_of_the_nearest_lift(name: str) -> None:
    space = space_named(name)
    x, y = points(space, 30), points(space, 30, seed=1)
    brute = torch.stack([(orbit(space, b) - a).norm(dim=-1).min() for a, b in zip(x, y, strict=True)])
    close(space.distance(x, y), brute)
    close(space.difference(x, y).norm(dim=-1), brute)
    close(space.distance(x + space.difference(x, y), y), torch.zeros(30, dtype=torch.float64), 1e-7)


@pytest.mark.parametrize("name", PERIODIC)
def test_canonical_lifts_lie_in_the_cell(name: str) -> None:
    space = space_named(name)
    x = torch.cat([10 * torch.randn(500, space.dim), torch.full((1, space.dim), -1e-9)])
    coordinates = space.lattice_coordinates(space.project(x))
    assert coordinates.min() >= -1e-6
    assert coordinates.max() < 1 + 1e-6
    if space.periods is not None:  # -1e-9 + 1 is 1 in float32: that is 0
        assert coordinates.max() < 1
    assert space.project(torch.zeros(space.dim)).isfinite().all()


@pytest.mark.parametrize("size", [1e-4, 1.0, 1e5])
def test_groups_of_any_size(size: float) -> None:
    space = FlatManifold([[2 * size, 0], [0, size]], [(REFLECTION, [size, 0])])
    assert space.num_sheets == 2
    assert space.volume == pytest.approx(size**2)
    x = torch.tensor([0.3 * size, 0.2 * size], dtype=torch.float64)
    y = torch.tensor([1.4 * size, -0.2 * size], dtype=torch.float64)
    assert space.distance(x, y).item() == pytest.approx(0.1 * size)


def test_equality() -> None:
    assert KleinBottle() == space_named("klein-generic")
    assert hash(KleinBottle()) == hash(space_named("klein-generic"))
    assert KleinBottle() != Torus(2)
    assert Torus(2) != Torus(3)
    assert Euclidean(2) != "plane"


def test_repeated_and_explicit_identity_cosets_are_dropped() -> None:
    eye = torch.eye(2)
    holonomy = [(eye, [0.0, 0.0]), (REFLECTION, [1.0, 0.0]), (REFLECTION, [3.0, 5.0])]
    assert FlatManifold([[2.0, 0.0], [0.0, 1.0]], holonomy) == KleinBottle()


EYE = [[1.0, 0.0], [0.0, 1.0]]
CELL = [[2.0, 0.0], [0.0, 1.0]]
BAD_GROUPS = {
    "not orthogonal": (CELL, [([[1.0, 1.0], [0.0, 1.0]], [1.0, 0.0])], "holonomy element 0: A is not orthogonal"),
    "second not orthogonal": (
        CELL, [(REFLECTION, [1.0, 0.0]), ([[2.0, 0.0], [0.0, 1.0]], [0.0, 0.0])], "holonomy element 1: A is not",
    ),
    "moves the lattice": (
        CELL, [([[0.0, -1.0], [1.0, 0.0]], [0.5, 0.5])], "holonomy element 0: A does not map the lattice to itself",
    ),
    "missing product": (CELL, [(REFLECTION, [0.3, 0.0])], "product of cosets 1 and 1 .* is missing"),
    "missing third": (
        torch.eye(3),
        [(torch.diag(torch.tensor([1.0, -1, -1])), [0.5, 0.5, 0]), (torch.diag(torch.tensor([-1.0, 1, -1])), [0, 0.5, 0.5])],
        "product of cosets 1 and 2 .* is missing",
    ),
    "irrational rotation": (
        [[0.0], [0.0], [1.0]],
        [([[math.cos(1), -math.sin(1), 0], [math.sin(1), math.cos(1), 0], [0, 0, 1]], [0, 0, 0.5])],
        "product of cosets 1 and 1 .* is missing",
    ),
    "fixed line": (CELL, [(REFLECTION, [0.0, 0.0])], "coset 1 .* fixes a point"),
    "fixed line elsewhere": (CELL, [(REFLECTION, [0.0, 0.5])], "coset 1 .* fixes a point"),
    "half turn": (EYE, [([[-1.0, 0.0], [0.0, -1.0]], [0.5, 0.5])], "coset 1 .* fixes a point"),
    # t = (1/2, 0) alone is no fixed point, but t + (1, -1) e_k is: needs lattice vectors, not t alone.
    "fixed through the lattice": (
        [[0.5, 0.5], [0.5, -0.5]], [(REFLECTION, [0.5, 0.0])], "coset 1 .* fixes a point",
    ),
    "dependent columns": ([[1.0, 2.0], [1.0, 2.0]], [], "lattice: the columns are linearly dependent"),
    "zero column": ([[0.0], [0.0]], [], "lattice: the columns are linearly dependent"),
    "too many columns": ([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5]], [], r"lattice: expected shape \(n, r\) with r <= n"),
    "lattice not a matrix": ([1.0, 2.0], [], r"lattice: expected shape"),
    "wrong A": (CELL, [([[1.0]], [1.0, 0.0])], "holonomy element 0: expected shapes"),
    "wrong t": (CELL, [(REFLECTION, [1.0])], "holonomy element 0: expected shapes"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_GROUPS)
def test_bad_groups_are_rejected(name: str) -> None:
    lattice, holonomy, message = BAD_GROUPS[name]
    with pytest.raises(ValueError, match=message):
        FlatManifold(lattice, holonomy)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_lattices_that_are_not_finite_are_rejected(value: float) -> None:
    with pytest.raises(ValueError, match="lattice: expected finite entries"):
        FlatManifold([[value]])


@pytest.mark.parametrize("dim", [0, -1, 1.5])
def test_bad_dimensions(dim: object) -> None:
    for kind in (Torus, Euclidean):
        with pytest.raises(ValueError, match="dim: expected a positive integer"):
            kind(dim)


@pytest.mark.parametrize("name", ALL)
def test_repr_is_short(name: str) -> None:
    text = repr(SPACES[name]())
    assert "\n" not in text
    assert text.endswith(")")


# --- the Klein bottle --------------------------------------------------------------------------


def test_klein_features_are_flat_and_lie_on_a_sphere() -> None:
    K = KleinBottle()
    x = 4 * torch.randn(100, 2, dtype=torch.float64)
    jacobian = torch.func.vmap(torch.func.jacrev(K.embed))(x)
    gram = jacobian.transpose(-1, -2) @ jacobian
    expected = torch.diag(torch.tensor([4.0, 16.0], dtype=torch.float64)) * math.pi**2
    close(gram, expected.expand(100, 2, 2), 1e-10)
    close(K.embed(x).norm(dim=-1), torch.full((100,), 2.0, dtype=torch.float64), 1e-12)


def test_klein_features_follow_the_formula() -> None:
    u, v = torch.randn(2, 50, dtype=torch.float64)
    b, a = math.pi * u, 2 * math.pi * v
    expected = [
        math.sqrt(3) * a.cos(), 2 * a.sin() * b.cos(), 2 * a.sin() * b.sin(),
        a.cos() * (2 * b).cos(), a.cos() * (2 * b).sin(),
    ]  # fmt: skip
    close(KleinBottle().embed(torch.stack([u, v], -1)), torch.stack(expected, -1), 1e-12)


def test_klein_gluing() -> None:
    K = KleinBottle()
    x = points(K, 50)
    glide = x * torch.tensor([1, -1]) + torch.tensor([1, 0])
    assert K.same_point(x, glide, 1e-9).all()
    assert K.same_point(x, x + torch.tensor([0, 1]), 1e-9).all()
    assert not K.same_point(x, x + torch.tensor([1, 0]), 1e-3).all()  # no torus
    assert K.project(x).amax() < 1


def test_klein_closed_form_agrees_with_the_generic_space() -> None:
    K, generic = KleinBottle(), space_named("klein-generic")
    x, y = points(K, 100), points(K, 100, seed=1)
    close(K.distance(x, y), generic.distance(x, y), 1e-12)
    close(K.project(x), generic.project(x), 1e-12)
    assert K.distance(K.retract(K.embed(x)), generic.retract(generic.embed(x))).max() < 1e-9


def test_klein_agrees_with_geomstats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "GEOMSTATS_BACKEND", "numpy")
    if not hasattr(np, "trapz"):  # geomstats 2.8 asks for a name that numpy 2.4 dropped
        monkeypatch.setattr(np, "trapz", np.trapezoid, raising=False)
    module = pytest.importorskip("geomstats.geometry.klein_bottle", exc_type=ImportError)
    theirs, ours = module.KleinBottle(equip=True), KleinBottle()
    x, y = 3 * torch.randn(2, 1000, 2, dtype=torch.float64)
    close(ours.distance(x, y), torch.from_numpy(theirs.metric.dist(x.numpy(), y.numpy())), 1e-12)
    close(ours.project(x), torch.from_numpy(theirs.regularize(x.numpy())), 1e-12)
    # Equivalence: half of the pairs are two lifts of one point.
    moved = ours.lifts(x, 1.5)[torch.arange(1000), torch.arange(1000) % 13]
    y = torch.where((torch.arange(1000) % 2 == 0)[:, None], moved, y)
    equivalent = torch.from_numpy(theirs.equivalent(x.numpy(), y.numpy(), atol=1e-9))
    assert equivalent.sum() == 500
    assert torch.equal(ours.same_point(x, y, 1e-7), equivalent)
