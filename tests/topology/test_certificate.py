"""Certificates: of maps whose answer is known, and against a triangle-by-triangle reading."""

import itertools
import math

import pytest
import torch

import topoprior as tp
from topoprior.topology.certificate import (
    Certificate,
    certify,
    check_latents,
    dense_rows,
    neighbour_complex,
)
from topoprior.topology.fit import Fit

K, T2, BAND = tp.KleinBottle(), tp.Torus(2), tp.MoebiusBand()
SPACES = {
    "circle": (tp.Circle(), 300),
    "torus": (T2, 800),
    "klein": (K, 800),
    "hexagonal torus": (tp.FlatManifold([[1.0, -0.5], [0.0, math.sqrt(3) / 2]]), 800),
    "projective plane": (tp.RealProjectiveSpace(2), 800),
    "rotations": (tp.RotationGroup(), 1200),
    "lens": (tp.LensSpace(5, 2), 1500),
    "3-torus": (tp.Torus(3), 1200),
    "half turn": (tp.HalfTurnManifold(), 1500),
    "projective plane and circle": (tp.Product(tp.RealProjectiveSpace(2), tp.Circle()), 1500),
}


def uniform(space, num):
    return space.sample_uniform(torch.Size([num]), torch.float64, torch.device("cpu"))


def any_lift(space, z):
    """Other lifts of the same points, at random."""
    lifts = space.lifts(z, space.shortest_loop * 1.5)
    return lifts[torch.arange(len(z)), torch.randint(lifts.shape[1], (len(z),))]


@pytest.mark.parametrize("name", SPACES)
def test_the_identity_is_certified(name):
    """Whatever lifts are given. False alarms: a gap of half a loop among the data, far below 1e-6."""
    space, num = SPACES[name]
    z = uniform(space, num)
    found = certify(space.embed(z), any_lift(space, z), space)
    assert found.certified, str(found)
    assert "none of" in str(found)


def test_the_complex_is_brute_forces():
    x = torch.randn(60, 3, dtype=torch.float64)
    found = neighbour_complex(x, 5)
    away = torch.cdist(x, x)
    pairs = {tuple(sorted((i, int(j)))) for i in range(60) for j in away[i].argsort()[1:6]}
    assert {tuple(edge) for edge in found.edges.tolist()} == pairs
    triples = {
        t
        for t in itertools.combinations(range(60), 3)
        if all(e in pairs for e in itertools.combinations(t, 2))
    }
    assert {tuple(corner) for corner in found.corners.tolist()} == triples
    for (i, j, k), edges in zip(found.corners.tolist(), found.triangles.tolist(), strict=True):
        assert found.edges[edges].tolist() == [[i, j], [j, k], [i, k]]


def torn_by_hand(space, z, corners):
    """Triangles whose lift, from one corner to the next and back, does not close."""
    found = []
    for corner in corners.tolist():
        here = z[corner[0]]
        for at in [corner[1], corner[2], corner[0]]:
            lifts = space.lifts(z[at], 4.0)
            here = lifts[(lifts - here).norm(dim=1).argmin()]
        if (here - z[corner[0]]).norm() > 1e-6:
            found.append(corner)
    return found


@pytest.mark.parametrize("name", ["klein", "projective plane", "hexagonal torus"])
def test_defects_are_where_the_lift_does_not_close(name):
    space = SPACES[name][0]
    z = space.project(uniform(space, 100))
    x = space.embed(z)
    torn = z.clone()
    torn[:30] = z[:30].flip(1)
    torn = space.project(torn)
    known = neighbour_complex(x, 6)
    found = check_latents(known, torn, space)
    assert found.defects.tolist() == torn_by_hand(space, torn, known.corners)
    assert len(found.defects) > 0
    assert not found.certified
    assert "the map is torn at" in str(found)


def wound(z):
    """u turns twice where v turns once: continuous but at (1/2, 1/4) and (1/2, 3/4), and all loops generate."""
    angle = 2 * math.pi * z[:, 1]
    turn = torch.atan2(angle.sin() * (math.pi * z[:, 0]).cos(), angle.cos())
    return torch.stack([z[:, 0] + turn / math.pi, z[:, 1]], 1)


def test_a_map_torn_at_two_points():
    """The defects lie about them, and nowhere else."""
    z = K.project(uniform(K, 3000))
    found = certify(K.embed(z), K.project(wound(z)), K)
    places = torch.tensor([[0.5, 0.25], [0.5, 0.75]], dtype=torch.float64)
    away = K.distance(z[found.defects].unsqueeze(-2), places).amin(-1)
    assert len(found.defects) > 0
    assert away.max() < 0.15


FOLDED = {
    "glide thrice": (K, lambda z: torch.stack([3 * z[:, 0], z[:, 1]], 1)),
    "v twice": (K, lambda z: torch.stack([z[:, 0], 2 * z[:, 1]], 1)),
    "to a circle": (T2, lambda z: torch.stack([z[:, 0], 0 * z[:, 1]], 1)),
    "to a point": (tp.RealProjectiveSpace(2), lambda z: 0 * z + z.new_tensor([1.0, 0.0, 0.0])),
}


@pytest.mark.parametrize("name", FOLDED)
def test_continuous_maps_that_lose_loops(name):
    space, fold = FOLDED[name]
    z = uniform(space, 2000)
    found = certify(space.embed(z), fold(z), space)
    assert len(found.defects) == 0
    assert not found.onto
    assert "do not reach" in str(found)


def pinched(z):
    """A Klein bottle is the two Moebius bands |v| < 1/4 and |v| > 1/4; the second goes to the pole."""
    longitude, latitude = math.pi * z[:, 0], 2 * math.pi * (z[:, 1] - z[:, 1].round())
    latitude = latitude.clamp(-math.pi / 2, math.pi / 2)
    flat = latitude.cos().unsqueeze(1) * torch.stack([longitude.cos(), longitude.sin()], 1)
    return torch.cat([flat, latitude.sin().unsqueeze(1)], 1)


def test_a_map_that_pinches_a_band_is_refused():
    """It is continuous, and the loops of the data reach those of the projective plane."""
    space = tp.RealProjectiveSpace(2)
    z = uniform(K, 2000)
    found = certify(K.embed(z), pinched(z), space)
    assert (len(found.defects), found.onto) == (0, True)
    assert found.folded > 0.1
    assert "far apart in the data" in str(found)


@pytest.mark.parametrize("twist", [1, -3])
def test_automorphisms_are_certified(twist):
    """A Dehn twist of the torus, a homotopy equivalence far from any isometry."""
    z = uniform(T2, 3000)
    twisted = torch.stack([z[:, 0] + twist * z[:, 1], z[:, 1]], 1)
    assert certify(T2.embed(z), twisted, T2).certified


def test_a_long_thin_cylinder_is_no_torus():
    """Its ends meet on the torus, but not in the data."""
    z = torch.rand(1500, 2, dtype=torch.float64) * torch.tensor([0.98, 1.0])
    x = torch.cat([6 * z[:, :1], tp.Circle().embed(z[:, 1:])], 1)
    found = certify(x, z, T2)
    assert (len(found.defects), found.onto) == (0, False)
    assert certify(x, z.flip(1) * torch.tensor([1.0, 6.0]), tp.Cylinder()).certified


def test_what_is_not_compact_or_has_no_loops():
    """Along open directions and on a sphere no tear is seen, but points that come from far apart are."""
    z = torch.rand(800, 2, dtype=torch.float64) * torch.tensor([1.0, 1.0]) - torch.tensor([0.0, 0.5])
    assert certify(BAND.embed(z), z, BAND).certified
    assert not certify(BAND.embed(z), z * torch.tensor([2.0, 1.0]), BAND).certified
    sphere = tp.Sphere(2)
    points = uniform(sphere, 300)
    found = certify(points, points, sphere)
    assert found.certified
    assert "no loops to follow" in str(found)
    assert not certify(points, points[torch.randperm(300)], sphere).certified


@pytest.mark.parametrize("name", ["klein-natural-3x3", "klein-3x3", "circle-3x3"])
def test_shipped_decoders_embed_their_space(name):
    """Neighbours among the kernels are neighbours on the space, and no two places have the same kernel."""
    prior = tp.get_prior(name)
    z = uniform(prior.covering, 1200)
    found = certify(prior.decode(z), z, prior.covering)
    assert found.certified, str(found)


def test_too_few_data_and_pieces_are_said():
    z = uniform(K, 40)
    few = certify(K.embed(z), z, K)
    assert not few.certified
    line = torch.arange(40, dtype=torch.float64).unsqueeze(1)
    bare = certify(line, line / 40, tp.Circle(), neighbours=1)
    assert bare.triangles == 0
    assert "too sparse" in str(bare)
    z = torch.cat([uniform(K, 400), uniform(K, 400)])
    apart = torch.cat([torch.zeros(400, 1), torch.full((400, 1), 30.0)])
    two = certify(torch.cat([K.embed(z), apart], 1), z, K)
    assert two.pieces == 2
    assert "the data are 2 pieces" in str(two)


def test_outliers_are_found_and_may_be_left_out():
    """Twenty points far from the bottle, with latents of their own: the defects are theirs."""
    z = uniform(K, 1200)
    x = K.embed(z)
    x[:20] += 0.7 * torch.randn(20, 5, dtype=torch.float64)
    z[:20] = uniform(K, 20)
    noisy = certify(x, z, K)
    assert not noisy.certified
    assert (noisy.defects < 20).any(1).all(), "every defect has an outlier"
    assert certify(x, z, K, outliers=0.03).certified


def test_dense_rows_are_kept_in_order():
    x = torch.tensor([[5.0], [0.0], [0.1], [0.2], [9.0]])
    assert dense_rows(x, 0.4, 1).tolist() == [1, 2, 3]
    assert dense_rows(x, 0.0, 1).tolist() == [0, 1, 2, 3, 4]


def test_bad_arguments_are_named():
    z = uniform(K, 30)
    with pytest.raises(ValueError, match="latents: expected 20 as data, found 30"):
        certify(z[:20], z, K)
    with pytest.raises(ValueError, match="latents: expected shape"):
        certify(z, z[:, :1], K)
    with pytest.raises(ValueError, match="outliers: expected a share"):
        certify(z, z, K, outliers=1.0)
    with pytest.raises(ValueError, match="x: expected more than 40 points, found 30"):
        certify(z, z, K, neighbours=40)
    with pytest.raises(TypeError, match="neighbours"):
        certify(z, z, K, neighbours=2.5)


@pytest.mark.parametrize(
    ("uncovered", "residual", "says"),
    [
        (0.004, 1.0, "the fit costs 0.50, expected below 0.1"),
        (0.15, 0.0, "leave 15.0% of the space empty"),
        (0.6, 1.0, "leave 60.0% of the space empty; the fit costs 1.10, expected below 0.1"),
    ],
)
def test_a_fit_without_loops_says_what_refuses_it(uncovered, residual, says):
    """What is left empty, or the cost without it: once, and the one that is at fault."""
    fit = Fit(
        torch.empty(0, 2), residual=residual, unexplained=0.0, torn=0.0, uncovered=uncovered, energy=0.0
    )
    certificate = Certificate(torch.empty(0, 3, dtype=torch.long), 100, True, 0.0, 1, 0.0, False)
    text = str(fit.checked(certificate, closed=True))
    assert text.endswith(says)
    assert text.count("the fit costs") == says.count("the fit costs")
