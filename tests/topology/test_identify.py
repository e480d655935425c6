"""identify_covering: right on samples of every candidate, and agreeing with persistent homology."""

import math

import pytest
import torch

import topoprior as tp
from experiments.klein_circles.images import image_set
from topoprior.topology.homology import betti_numbers, persistence
from topoprior.topology.identify import default_candidates, identify_covering

CANDIDATES = default_candidates()


def flat_sample(name, num):
    """Uniform points of a candidate in its standard embedding."""
    space = CANDIDATES[name]
    if name == "plane":
        return torch.rand(num, 2)
    return space.embed(space.sample_uniform(torch.Size([num]), torch.float32, torch.device("cpu")))


def bent(points, generator, noise=0.05):
    """A random smooth map to R^20: a random isometry plus waves of random directions, and noise.

    ``noise`` is the standard deviation of the noise beside that of the data, per coordinate.
    """
    points = points / points.std(0).square().sum().sqrt()
    frame = torch.linalg.qr(torch.randn(20, 20, generator=generator)).Q[: points.shape[1]]
    directions = 0.8 * torch.randn(points.shape[1], 20, generator=generator)
    phases = 2 * math.pi * torch.rand(20, generator=generator)
    x = points @ frame + 0.15 * (points @ directions + phases).sin()
    return x + noise * x.std(0).square().mean().sqrt() * torch.randn(x.shape, generator=generator)


def noisy(name):
    """A sample of a candidate in R^20, the same in every test."""
    return bent(flat_sample(name, 3000), torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", CANDIDATES)
def test_every_candidate_is_recognized_in_r20(name):
    found = identify_covering(noisy(name), landmarks=800)
    assert found.name == name, str(found)
    assert found.conclusive, str(found)
    assert str(found).endswith(f"The data fit the {name}.")
    assert found.start.latents.shape == (800, CANDIDATES[name].cover_dim)
    second = list(found.fits.values())[1]
    assert second.mismatch > 1.3 * found.fits[name].mismatch, str(found)


# Betti numbers of degree 1 and 2, over Z/2 and over Z/3.
BETTI = {
    "circle": [(1, 0), (1, 0)],
    "torus": [(2, 1), (2, 1)],
    "sphere": [(0, 1), (0, 1)],
    "Klein bottle": [(2, 1), (1, 0)],
    "projective plane": [(1, 1), (0, 0)],
    "plane": [(0, 0), (0, 0)],
}


def lasting_bars(x, field, **options):
    """How many classes of every degree live for a factor of two in scale: those of noise do not."""
    diagrams = persistence(x, field=field, **options)
    return tuple(int((d[:, 1] > 2 * d[:, 0]).sum()) for d in diagrams[1:])


@pytest.mark.parametrize("name", CANDIDATES)
def test_persistent_homology_agrees(name):
    """The independent witness: on the samples that are recognized above, homology says the same."""
    pytest.importorskip("ripser")
    x = noisy(name)
    assert [lasting_bars(x, field, num_points=180) for field in (2, 3)] == BETTI[name]


NEITHER = {
    "blob": lambda: torch.randn(1500, 5),
    "3-torus": lambda: tp.Torus(3).embed(torch.rand(1500, 3)),
    "cylinder": lambda: tp.Cylinder().embed(torch.rand(1500, 2) * torch.tensor([1.0, 2.0]) - 1),
    "ball": lambda: torch.randn(1500, 3),
}


@pytest.mark.parametrize(
    "name", ["blob", "3-torus", *(pytest.param(n, marks=pytest.mark.slow) for n in ("cylinder", "ball"))]
)
def test_what_is_none_of_the_candidates_is_said_to_be_none(name):
    x = NEITHER[name]()
    x = x if name in ("blob", "ball") else bent(x, torch.Generator().manual_seed(2))
    found = identify_covering(x, landmarks=600, rounds=1)
    assert not found.conclusive, str(found)
    assert "None of these fits the data" in str(found)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", CANDIDATES)
def test_with_other_maps_and_seeds(name, seed):
    torch.manual_seed(100 + seed)
    x = bent(flat_sample(name, 1500), torch.Generator().manual_seed(10 + seed))
    assert identify_covering(x).name == name


@pytest.mark.parametrize("name", ["klein", pytest.param("published", marks=pytest.mark.slow)])
def test_klein_circles_live_on_the_klein_bottle(name):
    """And homology, of degree 1 as 900 pixels are slow to compare, agrees."""
    pytest.importorskip("ripser")
    images = image_set(name).split(2500, 28).train[0]
    betti = [betti_numbers(persistence(images, field=p, max_dim=1, num_points=200)) for p in (2, 3)]
    assert betti == [(1, 2), (1, 1)]
    found = identify_covering(images, landmarks=800)
    assert found.name == "Klein bottle", str(found)
    assert found.conclusive, str(found)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"candidates": {}}, ValueError, "candidates: expected at least one space"),
        ({"candidates": [tp.Circle()]}, TypeError, "candidates: expected names and spaces, found list"),
        (
            {"candidates": {"a": "circle"}},
            TypeError,
            "candidates: expected flat manifolds .* found 'circle'",
        ),
        ({"rounds": 0}, ValueError, "rounds: expected at least 1, found 0"),
        ({"neighbours": 0}, ValueError, "neighbours: expected at least 1, found 0"),
        ({"landmarks": 2.0}, TypeError, "landmarks: expected an int, found 2.0"),
    ],
)
def test_bad_arguments_are_named(options, error, message):
    with pytest.raises(error, match=message):
        identify_covering(torch.rand(100, 3), **options)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (torch.rand(10, 3), ValueError, "x: expected at least 50 data, found 10"),
        (torch.rand(0, 3), ValueError, "x: expected at least one example"),
        (torch.rand(100, 3).numpy(), TypeError, "x: expected a torch.Tensor, found ndarray"),
        (torch.ones(100, 3).long(), TypeError, "x: expected floating-point numbers, found torch.int64"),
        (torch.rand(100, 3).log().log(), ValueError, "x: expected finite values"),
    ],
)
def test_bad_data_are_named(x, error, message):
    with pytest.raises(error, match=message):
        identify_covering(x)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"field": 4}, "field: expected a prime, found 4"),
        ({"field": 1}, "field: expected at least 2, found 1"),
        ({"max_dim": -1}, "max_dim: expected at least 0"),
        ({"num_points": 0}, "num_points: expected at least 1"),
    ],
)
def test_bad_arguments_of_homology_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        persistence(torch.rand(20, 2), **options)


def test_candidates_of_ones_own():
    """The Moebius band, which is not among the default candidates."""
    points = torch.rand(800, 2) * torch.tensor([1.0, 2.0]) - torch.tensor([0.0, 1.0])
    x = tp.MoebiusBand().embed(points)
    found = identify_covering(
        x, {"band": tp.MoebiusBand(), "cylinder": tp.Cylinder(), "circle": tp.Circle()}
    )
    assert found.name == "band", str(found)
