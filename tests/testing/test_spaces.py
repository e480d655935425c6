"""Spaces that are wrong on purpose: every law of `check_covering` is broken by one, and named.

Over 300 lines: one wrong space a law, in the order of the laws.
"""

import math

import pytest
import torch

import topoprior as tp
from topoprior.spaces import deck
from topoprior.spaces.spherical.manifold import normalized
from topoprior.testing import check_covering


class Klein(tp.KleinBottle):
    """Right; the others change one thing."""


class Project(Klein):
    def project(self, x):
        return x.remainder(1)


class ProjectDrifts(Klein):
    def project(self, x):
        return super().project(x) + 0.01


class FewLifts(Klein):
    def lifts(self, x, radius):
        return super().lifts(x, radius)[..., :1, :]


class TwiceTheSameLift(Klein):
    def lifts(self, x, radius):
        found = super().lifts(x, radius)
        return torch.cat([found, found[..., :1, :]], -2)


class TorusFeatures(Klein):
    """Of the torus that covers the bottle: they tell the lifts apart."""

    num_features = 4

    def embed(self, x):
        angle = 2 * math.pi * torch.stack([x[..., 0] / 2, x[..., 1]], -1)
        return torch.cat([angle.cos(), angle.sin()], -1)

    def retract(self, y):
        return torch.atan2(y[..., 2:], y[..., :2]) / (2 * math.pi) * torch.tensor([2.0, 1.0]).to(y)


class FewFeatures(Klein):
    """cos a and cos 2b, sin 2b: not injective."""

    num_features = 3

    def embed(self, x):
        return super().embed(x)[..., [0, 3, 4]]

    def retract(self, y):
        return tp.FlatManifold.retract(self, y)


class Folded(Klein):
    """Even powers of one feature: its sign is lost, and retract cannot know it."""

    def embed(self, x):
        y = super().embed(x)
        return torch.cat([y[..., :1].square(), y[..., 1:]], -1)


class RetractElsewhere(Klein):
    def retract(self, y):
        return super().retract(y) + torch.tensor([0.0, 1e-3]).to(y)


class RetractDetached(Klein):
    def retract(self, y):
        return super().retract(y.detach()) + 0 * y.sum(-1, keepdim=True)


class RetractJumps(Klein):
    """Right on the image; off it the point jumps where a feature changes its sign."""

    def retract(self, y):
        x = super().retract(y)
        off = (super().embed(x) - y).norm(dim=-1, keepdim=True)
        return x + torch.where((off > 1e-6) & (y[..., :1] > 0), 0.2, 0.0)


class DistanceUpstairs(Klein):
    def distance(self, x, y):
        return (x - y).norm(dim=-1)


class DistanceOfTheTorus(Klein):
    def distance(self, x, y):
        return tp.FlatManifold(self.lattice).distance(x, y)


class DistanceOneWay(Klein):
    def distance(self, x, y):
        return super().distance(x, y) * (1 + 0.1 * (super().embed(x)[..., 0] > super().embed(y)[..., 0]))


class DistanceSquared(Klein):
    def distance(self, x, y):
        return super().distance(x, y).square()


class DistanceDoubled(Klein):
    def distance(self, x, y):
        return 2 * super().distance(x, y)


class DistanceWithoutSlope(Klein):
    def distance(self, x, y):
        return self.difference(x, y).square().sum(-1).sqrt()


class NumbersForNaN(Klein):
    def distance(self, x, y):
        return super().distance(x, y).nan_to_num(0.0)


class SpoiltByOneRow(Klein):
    def embed(self, x):
        return super().embed(x) + 0 * x.sum()


class Single(Klein):
    def embed(self, x):
        return super().embed(x.float())


class NoBatches(Klein):
    def project(self, x):
        return super().project(x.reshape(-1, 2))


class NearestNot(Klein):
    def nearest_deck(self, x, y):
        return self.deck_group.generators[0] @ super().nearest_deck(x, y)


class NearestNoLift(Klein):
    def nearest_deck(self, x, y):
        found = super().nearest_deck(x, y)
        found[..., 0, -1] += 0.1
        return found


class LoopsTooLong(Klein):
    shortest_loop = 1.5


class NoGroup(Klein):
    """Generators of another bottle, glided by 1/2."""

    @property
    def deck_group(self):
        group = super().deck_group
        return deck.DeckGroup(group.lattice, group.linear, 0.5 * group.shift)


class Geodesics(Klein):
    def geodesic(self, x, v, t):
        return x + t * v + 0.1 * t**2 * v.square(), v


class GeodesicsTooFast(Klein):
    def geodesic(self, x, v, t):
        return x + 2 * t * v, v


class PathsBend(Klein):
    def cover_path(self, x, y, s):
        return super().cover_path(x, y, s.square())


class AxesMixed(tp.Torus):
    """A quarter turn mixes two axes, which are said to be apart."""

    def __init__(self):
        turn = [[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
        powers = [torch.linalg.matrix_power(torch.tensor(turn, dtype=torch.float64), k) for k in range(4)]
        tp.FlatManifold.__init__(self, torch.eye(3), [(a, [0, 0, k / 4]) for k, a in enumerate(powers)])

    num_features = property(lambda self: self._harmonics.num_features)

    def embed(self, x):
        return self._harmonics(x)

    def retract(self, y):
        return tp.FlatManifold.retract(self, y)

    def metric_axes(self):
        return [[0], [1], [2]]


class AxesForgotten(Klein):
    def metric_axes(self):
        return [[0]]


class HalfTheSpace(Klein):
    def sample_uniform(self, shape, dtype, device, generator=None):
        return super().sample_uniform(shape, dtype, device, generator) * torch.tensor(
            [0.25, 1.0], dtype=dtype
        )


class Uneven(tp.Sphere):
    """Uniform points of a cube, thrown onto the sphere."""

    def __init__(self):
        super().__init__(2)

    def sample_uniform(self, shape, dtype, device, generator=None):
        return normalized(2 * torch.rand(*shape, 3, dtype=dtype, device=device, generator=generator) - 1)


class GlobalNumbers(Klein):
    def sample_uniform(self, shape, dtype, device, generator=None):
        return super().sample_uniform(shape, dtype, device)


class Volume(Klein):
    def __init__(self):
        super().__init__()
        self.volume = 2.0


class UniformOnTheLine(tp.Euclidean):
    def __init__(self):
        super().__init__(1)

    def sample_uniform(self, shape, dtype, device, generator=None):
        return torch.rand(*shape, 1, dtype=dtype, device=device, generator=generator)


class TangentAll(tp.Sphere):
    """Vectors across the sphere count as tangent."""

    def __init__(self):
        super().__init__(2)

    def tangent(self, x, v):
        return v


class NoSheets(Klein):
    def __init__(self):
        super().__init__()
        self.num_sheets = 0


WRONG = {
    Project: "project is the same for all lifts",
    ProjectDrifts: "embed is constant|lifts of one point have distance 0",
    FewLifts: "lifts finds every lift within the radius",
    TwiceTheSameLift: "lifts lists every lift once",
    TorusFeatures: "embed is constant on fibres",
    FewFeatures: "embed is an immersion|retract|features",
    Folded: "embed is an immersion|embed is injective|retract inverts embed",
    RetractElsewhere: "retract inverts embed",
    RetractDetached: "derivative of embed after retract",
    RetractJumps: "retract is near the point|retract is continuous",
    DistanceUpstairs: "lifts of one point have distance 0|distance is",
    DistanceOfTheTorus: "lifts of one point have distance 0|distance is",
    DistanceOneWay: "distance is symmetric|short geodesics are shortest",
    DistanceSquared: "short geodesics are shortest|distance",
    DistanceDoubled: "short geodesics are shortest",
    DistanceWithoutSlope: "distance has a finite gradient at 0",
    NumbersForNaN: "what is no point has no distance",
    SpoiltByOneRow: "a broken row leaves other features alone",
    Single: "embed is constant|embed keeps float64",
    NoBatches: "project of",
    NearestNot: "nearest_deck leads to the nearest lift",
    NearestNoLift: "nearest_deck is a deck transformation",
    LoopsTooLong: "deck transformations move points by shortest_loop",
    NoGroup: "generators keep the relations|embed is constant on fibres|lifts",
    Geodesics: "geodesics",
    GeodesicsTooFast: "geodesics are shortest|keep their speed|tangent",
    PathsBend: "cover_path is the geodesic",
    AxesMixed: "the same on all sheets",
    AxesForgotten: "metric_axes lists every coordinate once",
    HalfTheSpace: "sample_uniform is uniform",
    Uneven: "sample_uniform is uniform",
    GlobalNumbers: "sample_uniform draws from its generator",
    Volume: "volume is what balls in it say",
    UniformOnTheLine: "not compact carries no uniform law",
    TangentAll: "tangent",
    NoSheets: "num_sheets is a whole number",
}


@pytest.mark.parametrize("kind", WRONG, ids=lambda kind: kind.__name__)
def test_what_is_wrong_is_named(kind):
    with pytest.raises(AssertionError, match=WRONG[kind]):
        check_covering(kind())


@pytest.mark.parametrize("size", [1e-3, 1e4])
def test_laws_of_spaces_of_any_size(size):
    check_covering(tp.FlatManifold([[2 * size, 0], [0, size]], [([[1, 0], [0, -1]], [size, 0])]))


def test_other_things_are_named():
    with pytest.raises(TypeError, match="space: expected a Covering, found ABCMeta"):
        check_covering(tp.KleinBottle)
