"""Every space that can be saved is the same space when it is read, and nothing else is read."""

import json
import math
import time

import pytest
import torch

from tests.spaces.cases import ALL, points, space_named
from topoprior import Covering, Euclidean, FlatManifold, KleinBottle, LensSpace, Product, Sphere
from topoprior.spaces import covering_from_config, covering_to_config
from topoprior.utils.files import CheckpointError


@pytest.mark.parametrize("name", ALL)
def test_round_trip(name: str) -> None:
    space = space_named(name)
    back = covering_from_config(json.loads(json.dumps(covering_to_config(space))))
    assert back == space
    assert type(back) is type(space)
    assert repr(back) == repr(space)
    assert back.num_sheets == space.num_sheets
    assert back.volume == pytest.approx(space.volume)
    x = points(space, 5)
    torch.testing.assert_close(back.project(x), space.project(x), rtol=0, atol=1e-12)


def test_round_trip_of_spaces_with_arguments() -> None:
    nested = Product(Product(LensSpace(7, 3), KleinBottle(3)), Sphere(4), Euclidean(2))
    for space in (KleinBottle(3), KleinBottle(4), LensSpace(5, 7), LensSpace(1, 1), Sphere(1), nested):
        back = covering_from_config(json.loads(json.dumps(covering_to_config(space))))
        assert back == space
        assert repr(back) == repr(space)
    assert KleinBottle(3) != KleinBottle()


def test_files_from_before() -> None:
    """They name the dimension of every space; that of the 3-dimensional bottle was written, and then ignored."""
    assert covering_from_config({"name": "Circle", "dim": 1}).dim == 1
    assert covering_from_config({"name": "KleinBottle", "dim": 3}) == KleinBottle(3)


def test_a_class_of_ones_own_is_saved_as_its_group() -> None:
    class Long(FlatManifold):
        def __init__(self) -> None:
            super().__init__([[5.0]])

    assert covering_from_config(covering_to_config(Long())) == Long()

    class Other(Covering):  # type: ignore[misc]
        def __init__(self) -> None:
            pass

    Other.__abstractmethods__ = frozenset()
    with pytest.raises(TypeError, match="covering: only flat, spherical spaces"):
        covering_to_config(Other())


EYE = [[1.0, 0.0], [0.0, 1.0]]
BAD = [
    {}, {"name": "Torus"}, {"name": "Torus", "dim": 2.0}, {"name": "Torus", "dim": True}, {"name": "Torus", "dim": "2"},
    {"name": "Torus", "dim": 30}, {"name": "Torus", "dim": 10**400}, {"name": "Torus", "dim": -1},
    {"name": "Torus", "dim": 2, "more": 1}, {"name": "Circle", "dim": 2}, {"name": "KleinBottle", "dim": 1},
    {"name": "LensSpace", "p": 10**9, "q": 1}, {"name": "LensSpace", "p": 4, "q": 2}, {"name": ["Torus"], "dim": 2},
    {"name": "Product", "parts": []}, {"name": "Product", "parts": [{"name": "Circle"}] * 9},
    {"name": "Product", "parts": [{"name": "KleinBottle", "dim": 2}] * 8}, {"name": "Product", "parts": "Circle"},
    {"name": "FlatManifold", "lattice": EYE}, {"name": "FlatManifold", "lattice": EYE, "holonomy": 3},
    {"name": "FlatManifold", "lattice": [[1.0, "0"], [0.0, 1.0]], "holonomy": []},
    {"name": "FlatManifold", "lattice": [[math.nan]], "holonomy": []},
    {"name": "FlatManifold", "lattice": [[10**400]], "holonomy": []},
    {"name": "FlatManifold", "lattice": [[1.0], [0.0, 1.0]], "holonomy": []},
    {"name": "FlatManifold", "lattice": EYE, "holonomy": [[EYE, [0.0, 0.0]]] * 1000},
    {"name": "FlatManifold", "lattice": [[0.0] * 1000] * 1000, "holonomy": []},
    {"name": "SphericalSpaceForm", "elements": []}, {"name": "SphericalSpaceForm", "elements": [[[2.0, 0], [0, 1]]]},
    {"name": "SphericalSpaceForm", "elements": EYE}, {"name": "Plane"}, {"name": None},
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(BAD)))
def test_what_is_no_space_is_refused_at_once(number: int) -> None:
    start = time.process_time()
    with pytest.raises(CheckpointError) as caught:
        covering_from_config(BAD[number])
    assert time.process_time() - start < 2
    assert len(str(caught.value)) < 700
