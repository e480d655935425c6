"""Every law of `Covering`, on every space of the tables."""

import copy
import functools
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.spaces.cases import (
    ALL,
    MORE,
    SPACES,
    onto_cover,
    orbit,
    points,
    space_named,
    tangent_basis,
)
from topoprior import Covering, Torus
from topoprior.testing import check_covering

every_space = pytest.mark.parametrize("name", ALL)
numbers = st.floats(-3, 3).map(
    lambda v: round(v, 3)
)  # rounded: two thirds of draws would be tiny otherwise


def close(a: Tensor, b: Tensor, atol: float = 1e-9) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=atol)


# --- every covering ----------------------------------------------------------------------------


# How long a step on the space is in features, at least. The features of L(p, q) are of degree p: flat where neither
# coordinate is large.
LEAST_SLOPE = {"lens-12-5": 0.002, "quaternions": 0.2}


@pytest.mark.parametrize("name", [*ALL, *MORE])
def test_laws(name: str) -> None:
    check_covering(space_named(name), least_slope=LEAST_SLOPE.get(name, 0.5))


@every_space
def test_copies_are_equal(name: str) -> None:
    space = space_named(name)
    for twin in (copy.deepcopy(space), pickle.loads(pickle.dumps(space))):
        assert twin == space
        assert hash(twin) == hash(space)
        assert repr(twin) == repr(space)
    assert space != Torus(4)


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
def test_embed_is_an_immersion_on_the_axes(name: str) -> None:
    """Where there is symmetry, derivatives vanish first."""
    space = space_named(name)
    # 1e-12: where an axis has no part in one factor of a product, it still names a point of its sphere
    axes = onto_cover(space, torch.eye(space.cover_dim, dtype=torch.float64) / 2 + 1e-12)
    jacobians = torch.func.vmap(torch.func.jacrev(space.embed))(axes)
    bases = torch.stack([tangent_basis(space, p) for p in axes])
    assert torch.linalg.svdvals(jacobians @ bases)[:, -1].min() > 0.5


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
