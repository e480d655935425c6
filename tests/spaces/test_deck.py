"""Deck groups of all spaces: relations, generation, shortest loops."""

import math

import pytest
import torch
from sympy import ZZ, Matrix
from sympy.matrices.normalforms import smith_normal_form

import topoprior as tp
from tests.spaces.cases import ALL, space_named
from topoprior.spaces.deck import inverse
from topoprior.spaces.flat.generate import generate_group

# First homology: rank, and the orders of its cyclic parts; the generators modulo the relations must give it.
HOMOLOGY = {
    "line": (0, []),
    "circle": (1, []),
    "torus": (2, []),
    "torus-3": (3, []),
    "hexagonal": (2, []),
    "klein": (1, [2]),
    "klein-generic": (1, [2]),
    "klein-3": (1, [2, 2]),
    "moebius": (1, []),
    "cylinder": (1, []),
    "half-turn": (1, [2, 2]),
    "third-turn": (1, [3]),
    "hantzsche-wendt": (0, [4, 4]),
    "hantzsche-wendt-named": (0, [4, 4]),
    "sphere": (0, []),
    "projective-plane": (0, [2]),
    "rotations": (0, [2]),
    "lens-5-2": (0, [5]),
    "klein-x-circle-x-line": (2, [2]),
    "rotations-x-klein": (1, [2, 2]),
}


@pytest.mark.parametrize("name", HOMOLOGY)
def test_generators_and_relations_present_the_group(name):
    """Their abelianization is the known first homology."""
    group = space_named(name).deck_group
    count = len(group.generators)
    rows = [[0] * count for _ in group.relations]
    for row, word in zip(rows, group.relations, strict=True):
        for place, power in word:
            row[place] += power
    orders = []
    if rows:
        form = smith_normal_form(Matrix(rows), domain=ZZ)
        orders = [abs(int(form[i, i])) for i in range(min(form.shape)) if form[i, i]]
    assert (count - len(orders), sorted(o for o in orders if o > 1)) == HOMOLOGY[name]


@pytest.mark.parametrize("name", ALL)
def test_relations_hold(name):
    """For the generators, and for their conjugates by any isometry."""
    space = space_named(name)
    group = space.deck_group
    assert group.broken_relations(group.generators) == 0
    turn = torch.linalg.qr(torch.randn(space.cover_dim, space.cover_dim, dtype=torch.float64)).Q
    change = torch.eye(space.cover_dim + 1, dtype=torch.float64)
    change[:-1, :-1], change[:-1, -1] = turn, torch.randn(space.cover_dim)
    assert group.broken_relations(change @ group.generators @ inverse(change)) == 0


@pytest.mark.parametrize("name", ALL)
def test_what_generates(name):
    """All generators do, in any order; what some of them generate is the whole group, if the volumes are equal."""
    group = space_named(name).deck_group
    assert group.generated_by(group.generators.flip(0))
    for left in range(len(group.generators)):
        rest = torch.cat([group.generators[:left], group.generators[left + 1 :]])
        for some in (rest, torch.cat([rest, group.generators[left : left + 1] @ group.generators[left]])):
            moving = [(e[:-1, :-1], e[:-1, -1]) for e in some]
            whole = False
            if moving:
                lattice, cosets = generate_group(moving)
                if lattice.shape == group.lattice.shape:
                    cells = [(b.T @ b).det().sqrt().item() for b in (lattice, group.lattice)]
                    whole = math.isclose(cells[0] / len(cosets), cells[1] / len(group.linear))
            assert group.generated_by(some) is whole


def test_a_path_between_antipodes():
    x = torch.tensor([0.0, 0.6, 0.8], dtype=torch.float64)
    path = tp.Sphere(2).cover_path(x, -x, torch.linspace(0, 1, 300))
    torch.testing.assert_close(path.norm(dim=1), torch.ones(300).double())
    assert path.diff(dim=0).norm(dim=1).sum().item() == pytest.approx(math.pi, rel=1e-4)


SKEW = tp.FlatManifold([[1.0, 2.2], [0.0, 0.5]])
FLAT = [tp.KleinBottle(), tp.Circle(), tp.Torus(2), tp.MoebiusBand(), tp.Cylinder(), tp.HalfTurnManifold()]


@pytest.mark.parametrize("space", [*FLAT, SKEW], ids=repr)
def test_shortest_loops_of_flat_manifolds(space):
    """Against a brute-force search, whose points lie near the axes of glides and screws, not on them."""
    x = torch.randn(3000, space.cover_dim, dtype=torch.float64)
    moves = (space.lifts(x, 2.5) - x.unsqueeze(1)).norm(dim=-1)
    found = moves[moves > 1e-9].min().item()
    assert found * 0.9 <= space.shortest_loop <= found + 1e-9


def test_shortest_loops_of_other_spaces():
    assert tp.RotationGroup().shortest_loop == pytest.approx(math.pi)
    assert tp.LensSpace(5, 2).shortest_loop == pytest.approx(2 * math.pi / 5)
    assert tp.Sphere(2).shortest_loop == tp.Euclidean(2).shortest_loop == math.inf
    assert tp.Product(tp.RotationGroup(), tp.KleinBottle()).shortest_loop == 1
