"""Scores of encoders against brute force, other implementations, and maps whose answer is known."""

import math

import pytest
import torch

import topoprior as tp
from topoprior.topology.isometries import flat_isometries, isometry_distance
from topoprior.topology.loops import follow_loops, generate_all, generators, shortest_loop
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


# --- loops -----------------------------------------------------------------------------------------


def squashed(x):
    """Everything to a point: all loops die."""
    return 0 * x + 0.3


MAPS = {
    "klein identity": (K, lambda x: x, True),
    "klein isometry": (K, lambda x: torch.stack([0.2 - x[:, 0], 0.5 + x[:, 1]], 1), True),
    # Dehn-like: (u, v) -> (u, v + sin(2 pi u) / 3 ...) is no map of K; a map homotopic to the identity is:
    "klein wavy": (
        K,
        lambda x: torch.stack([x[:, 0] + 0.2 * (2 * math.pi * x[:, 1]).cos(), x[:, 1]], 1),
        True,
    ),
    "klein glide thrice": (K, lambda x: torch.stack([3 * x[:, 0], x[:, 1]], 1), False),
    "klein v twice": (K, lambda x: torch.stack([x[:, 0], 2 * x[:, 1]], 1), False),
    "klein point": (K, squashed, False),
    "torus shear": (tp.Torus(2), lambda x: torch.stack([x[:, 0] + x[:, 1], x[:, 1]], 1), True),
    "torus doubled": (tp.Torus(2), lambda x: torch.stack([x[:, 0] + x[:, 1], x[:, 0] - x[:, 1]], 1), False),
    "moebius": (tp.MoebiusBand(), lambda x: torch.stack([-x[:, 0], x[:, 1]], 1), True),
    "moebius to a point": (tp.MoebiusBand(), squashed, False),
    "projective plane": (PROJECTIVE, lambda x: x.flip(-1), True),
    "projective plane to a point": (PROJECTIVE, lambda x: x * 0 + x[:1], False),
    "rotations": (ROTATIONS, lambda x: x, True),
    "lens space": (tp.LensSpace(5, 2), lambda x: x, True),
    "sphere": (tp.Sphere(2), lambda x: x * 0 + x[:1], True),  # no loops to keep
}


@pytest.mark.parametrize("name", MAPS)
def test_loops_of_known_maps(name):
    space, encode, preserved = MAPS[name]
    # Any lift must do: move points by random deck transformations.
    report = follow_loops(space, lambda x: space.project(encode(x)))
    assert report.preserved is preserved
    assert report.largest_step < 0.1


def test_classes_on_the_klein_bottle():
    """The reflection (u, v) -> (-u, v) inverts the glide and keeps v."""
    report = follow_loops(K, lambda x: K.project(torch.stack([-x[:, 0], x[:, 1]], 1)))
    steps = [t.abs().tolist() for _, t in report.images]
    assert steps[0][0] == pytest.approx(1)
    assert steps[1] == pytest.approx([0, 1])
    assert [a.diagonal().tolist() for a, _ in report.images] == [[1, -1], [1, 1]]


def test_steps_that_are_too_long_are_halved():
    """With so few points the nearest lifts go the wrong way round: +2 would be read as -1, which generates."""
    twice, wavy = (lambda x: 2 * x), (lambda x: x + 0.4 * (2 * math.pi * x).sin())
    for encode, num, kept in ((twice, 3, False), (wavy, 5, True)):
        report = follow_loops(tp.Circle(), encode, num=num)
        assert report.preserved is kept
        assert report.largest_step <= 0.25 * report.shortest_loop


@pytest.mark.parametrize(("jump", "preserved"), [(0.2, True), (0.3, None), (0.45, None)])
def test_a_map_that_jumps_is_unclear(jump, preserved):
    """The identity of the bottle but for a jump across a line that every lift of it crosses."""

    def torn(x):
        x = K.project(x)
        return torch.stack([x[:, 0], x[:, 1] + jump * (x[:, 0] > 0.5)], 1)

    report = follow_loops(K, torn)
    assert report.preserved is preserved
    # It jumps back, mirrored, at the seam: by the jump, or by what remains of a period.
    assert report.largest_step >= jump - 1e-2


def test_points_are_bounded():
    """Noise never gets finer: the search ends at the limit, and says so."""
    calls = []

    def noise(x):
        calls.append(len(x))
        return torch.rand(len(x), 1, dtype=x.dtype)

    assert follow_loops(tp.Circle(), noise, num=10, max_points=300).preserved is None
    assert sum(calls) <= 300


def brute_force_shortest(space):
    """The least move of any point of a sample by any element that is not the identity."""
    x = torch.randn(3000, space.cover_dim, dtype=torch.float64)
    lifts = space.lifts(x, 2.5)
    moves = (lifts - x.unsqueeze(1)).norm(dim=-1)
    return moves[moves > 1e-9].min().item()


SKEW = tp.FlatManifold([[1.0, 2.2], [0.0, 0.5]])


@pytest.mark.parametrize(
    "space",
    [K, tp.Circle(), tp.Torus(2), tp.MoebiusBand(), tp.Cylinder(), tp.HalfTurnManifold(), SKEW],
    ids=["klein", "circle", "torus", "moebius", "cylinder", "half turn", "skew torus"],
)
def test_shortest_loops_of_flat_manifolds(space):
    """Against a brute-force search, whose points lie near the axes of glides and screws, not on them."""
    found = brute_force_shortest(space)
    assert found * 0.9 <= shortest_loop(space) <= found + 1e-9


def test_shortest_loops_of_spheres():
    assert shortest_loop(ROTATIONS) == pytest.approx(math.pi)
    assert shortest_loop(tp.LensSpace(5, 2)) == pytest.approx(2 * math.pi / 5)
    assert shortest_loop(tp.Sphere(2)) == shortest_loop(tp.Euclidean(2)) == math.inf


def test_bad_loop_arguments_are_named():
    with pytest.raises(ValueError, match="num: expected"):
        follow_loops(K, lambda x: x, num=1)
    with pytest.raises(ValueError, match="base"):
        follow_loops(K, lambda x: x, base=torch.zeros(3))
    with pytest.raises(ValueError, match="encode"):
        follow_loops(K, lambda x: x[:, :1])


@pytest.mark.parametrize(
    ("space", "count"),
    [(K, 2), (tp.Torus(3), 3), (tp.HantzscheWendt(), 2), (ROTATIONS, 1), (tp.Sphere(2), 0)],
    ids=repr,
)
def test_generators_generate(space, count):
    found = generators(space)
    assert len(found) == count
    assert generate_all(space, found)
    assert count == 0 or not generate_all(space, found[1:])


# --- seams -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", [K, tp.Torus(2), tp.MoebiusBand(), PROJECTIVE, tp.Circle()], ids=repr)
def test_seam_jump(space):
    """None for functions of the embedding, all of it for functions of the coordinates."""
    assert seam_jump(space, lambda x: space.embed(x).sin()) < 1e-6
    assert seam_jump(space, lambda x: x[..., :1]) > 0.3
