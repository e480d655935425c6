"""Scores of encoders against brute force, other implementations, and maps whose answer is known."""

import pytest
import torch

import topoprior as tp
from topoprior.topology.isometries import flat_isometries, isometry_distance
from topoprior.topology.scores import continuity, pairwise_distances, seam_jump, trustworthiness

K = tp.KleinBottle()
PROJECTIVE, ROTATIONS = tp.RealProjectiveSpace(2), tp.RotationGroup()


def uniform(space, num, dtype=torch.float64):
    return space.sample_uniform(torch.Size([num]), dtype, torch.device("cpu"))


def brute_force_trustworthiness(truth, found, k):
    n, total = len(truth), 0
    for i in range(n):
        others = [j for j in range(n) if j != i]
        by_truth = sorted(others, key=lambda j: truth[i, j].item())
        by_found = sorted(others, key=lambda j: found[i, j].item())
        total += sum(by_truth.index(j) + 1 - k for j in by_found[:k] if j not in by_truth[:k])
    return 1 - 2 * total / (n * k * (2 * n - 3 * k - 1))


def test_trustworthiness_is_its_definition():
    truth = pairwise_distances(K, uniform(K, 40))
    found = pairwise_distances(tp.Torus(2), uniform(tp.Torus(2), 40))
    for k in (1, 5, 10):
        assert trustworthiness(truth, found, k) == pytest.approx(
            brute_force_trustworthiness(truth, found, k)
        )
        assert continuity(truth, found, k) == pytest.approx(brute_force_trustworthiness(found, truth, k))
    assert trustworthiness(truth, truth) == 1


def test_trustworthiness_is_scikit_learns():
    manifold = pytest.importorskip("sklearn.manifold")
    truth, plane = pairwise_distances(K, uniform(K, 100)), torch.randn(100, 2, dtype=torch.float64)
    expected = manifold.trustworthiness(truth.numpy(), plane.numpy(), n_neighbors=10, metric="precomputed")
    assert trustworthiness(truth, torch.cdist(plane, plane), 10) == pytest.approx(expected)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="two"):
        trustworthiness(torch.zeros(3, 3), torch.zeros(4, 4))
    with pytest.raises(ValueError, match="k: expected"):
        trustworthiness(torch.zeros(10, 10), torch.zeros(10, 10), k=5)


# --- isometries ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("space", "count", "free"),
    [(K, 8, 1), (tp.Torus(2), 8, 2), (tp.Circle(), 2, 1), (tp.MoebiusBand(), 4, 1)],
    ids=["klein", "torus", "circle", "moebius"],
)
def test_flat_isometries_keep_distances(space, count, free):
    """As many as the group modulo translations has components, each keeping all distances."""
    found, directions = flat_isometries(space)
    assert (len(found), directions.shape[1]) == (count, free)
    x = torch.randn(30, space.dim, dtype=torch.float64)
    before = pairwise_distances(space, x)
    for a, t in found:
        t = t + directions @ torch.randn(free, dtype=torch.float64)
        torch.testing.assert_close(pairwise_distances(space, x @ a.T + t), before)


@pytest.mark.parametrize("space", [K, tp.Torus(2), tp.Circle(), tp.MoebiusBand()], ids=repr)
def test_isometry_distance_on_flat_manifolds(space):
    found, directions = flat_isometries(space)
    x = torch.rand(100, space.dim, dtype=torch.float64)
    a, t = found[-1]
    moved = x @ a.T + t + directions @ torch.rand(directions.shape[1], dtype=torch.float64)
    assert isometry_distance(space, x, space.project(moved)) < 1e-6
    noisy = moved + 0.02 * torch.randn_like(moved)
    expected = (noisy - moved).norm(dim=1).mean().item()
    assert isometry_distance(space, x, noisy) == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("space", [tp.Sphere(2), PROJECTIVE, ROTATIONS], ids=repr)
def test_isometry_distance_on_spheres_and_projective_spaces(space):
    x = uniform(space, 100)
    q = torch.linalg.qr(torch.randn(space.cover_dim, space.cover_dim, dtype=torch.float64)).Q
    assert isometry_distance(space, x, space.project(x @ q.T)) < 1e-6
    assert isometry_distance(space, x, uniform(space, 100)) > 0.3


def test_isometry_distance_of_a_random_map_is_large():
    """Two independent uniform points of K are .38 apart on average; the best isometry gains little."""
    assert 0.25 < isometry_distance(K, uniform(K, 200), uniform(K, 200)) < 0.4
    with pytest.raises(NotImplementedError, match="LensSpace"):
        isometry_distance(tp.LensSpace(5, 2), uniform(ROTATIONS, 20), uniform(ROTATIONS, 20))


# --- seams -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", [K, tp.Torus(2), tp.MoebiusBand(), PROJECTIVE, tp.Circle()], ids=repr)
def test_seam_jump(space):
    """None for functions of the embedding, all of it for functions of the coordinates."""
    assert seam_jump(space, lambda x: space.embed(x).sin()) < 1e-6
    assert seam_jump(space, lambda x: x[..., :1]) > 0.3
