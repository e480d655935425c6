"""Every law of `Covering`, on every space of the table; then what is particular to flat spaces and to K."""

import functools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.spaces.cases import (
    ALL,
    COMPACT,
    SPACES,
    onto_cover,
    orbit,
    points,
    space_named,
    tangent_basis,
)
from topoprior import Covering, FlatManifold

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
