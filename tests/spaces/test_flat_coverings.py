"""Flat spaces: volumes, distances, cells, groups that are none; the Klein bottle by its formulas."""

import math
import os

import numpy as np
import pytest
import torch

from tests.spaces.cases import (
    ALL,
    COMPACT,
    FLAT,
    PERIODIC,
    REFLECTION,
    SPACES,
    orbit,
    points,
    space_named,
)
from tests.spaces.test_coverings import close
from topoprior import Euclidean, FlatManifold, KleinBottle, Torus

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
    coordinates = space.group.lattice_coordinates(space.project(x))
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
