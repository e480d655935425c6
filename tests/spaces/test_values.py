"""Every space, with integers, infinities and things that are no tensors."""

import math

import numpy as np
import pytest
import torch

from tests.spaces.cases import ALL, space_named
from topoprior import Euclidean, KleinBottle, Sphere

every_space = pytest.mark.parametrize("name", ALL)


def test_infinitely_far_in_euclidean_space() -> None:
    x = torch.tensor([math.inf, 0.0])
    assert Euclidean(2).distance(x, torch.zeros(2)).item() == math.inf


@every_space
def test_integers_count_as_the_default_dtype(name: str) -> None:
    """The matrices of a group were rounded to integers with them."""
    space = space_named(name)
    x = torch.zeros(2, space.cover_dim, dtype=torch.long)
    x[0, 0] = x[1, -1] = 1
    if "-x-" in name:  # a product of a sphere needs a point of each factor
        x[:, 0] = x[:, -1] = 1
    real = x.float()
    for call in (
        space.embed,
        space.project,
        lambda p: space.lifts(p, 0.5),
        lambda p: space.distance(p, p.flip(0)),
    ):
        found = call(x)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, call(real))


@every_space
def test_no_tensors_are_named(name: str) -> None:
    space = space_named(name)
    zeros = [0.0] * space.cover_dim
    for wrong, kind in ((zeros, "list"), (np.array(zeros), "ndarray"), (0.5, "float"), (None, "NoneType")):
        with pytest.raises(TypeError, match=f"x: expected a torch.Tensor of real numbers, found {kind}"):
            space.embed(wrong)
        with pytest.raises(TypeError, match=f"y: expected a torch.Tensor of real numbers, found {kind}"):
            space.retract(wrong)
    with pytest.raises(TypeError, match=r"x: .* found a tensor of torch.complex64"):
        space.distance(torch.zeros(space.cover_dim, dtype=torch.complex64), torch.zeros(space.cover_dim))


def test_gradients_of_distances_at_a_point_are_zero() -> None:
    for space, point in ((KleinBottle(), [0.3, 0.2]), (Sphere(2), [0.6, 0.0, 0.8])):
        x = torch.tensor(point, requires_grad=True)
        space.distance(x, x.detach()).backward()
        assert x.grad is not None
        assert x.grad.tolist() == [0.0] * len(point)


@every_space
def test_no_point_has_infinite_features(name: str) -> None:
    space = space_named(name)
    features = space.embed(space.generic_points(2))
    features[0, 0] = math.inf
    found = space.retract(features)
    assert not found[0].isfinite().all()
    assert found[1].isfinite().all()


@every_space
def test_the_deck_transformation_to_an_unknown_point_is_not_known(name: str) -> None:
    space = space_named(name)
    x, y = space.generic_points(2)
    for bad in (math.nan, math.inf):
        unknown = y.clone()
        unknown[0] = bad
        assert not space.nearest_deck(x, unknown).isfinite().all()
    assert space.nearest_deck(x, y).isfinite().all()


@every_space
def test_deck_transformations_and_tangents_want_lifts(name: str) -> None:
    space = space_named(name)
    x = space.generic_points(1)
    assert space.generic_points(0).shape == (0, space.cover_dim)
    for ask in (space.nearest_deck, space.tangent):
        with pytest.raises(TypeError, match="x: expected a torch.Tensor of real numbers"):
            ask(x.tolist(), x)
        with pytest.raises(ValueError, match="x: expected shape"):
            ask(torch.tensor(1.0), x)
    whole = torch.ones(2, space.cover_dim, dtype=torch.long)
    torch.testing.assert_close(space.tangent(whole, whole), space.tangent(whole.float(), whole.float()))
