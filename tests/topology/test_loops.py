"""Loops followed through maps whose answer is known."""

import math

import pytest
import torch

import topoprior as tp
from topoprior.topology.loops import follow_loops

K = tp.KleinBottle()
PROJECTIVE, ROTATIONS = tp.RealProjectiveSpace(2), tp.RotationGroup()


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
    "projective plane to a point": (PROJECTIVE, lambda x: x * 0 + x.new_tensor([0.6, 0.0, 0.8]), False),
    "rotations": (ROTATIONS, lambda x: x, True),
    "lens space": (tp.LensSpace(5, 2), lambda x: x, True),
    "rotations and bottle": (
        tp.Product(ROTATIONS, K),
        lambda x: torch.cat([-x[:, :4], x[:, 4:5], 0.5 - x[:, 5:]], 1),
        True,
    ),
    "rotations and bottle, v twice": (
        tp.Product(ROTATIONS, K),
        lambda x: torch.cat([x[:, :5], 2 * x[:, 5:]], 1),
        False,
    ),
    "circle and torus mixed": (
        tp.Product(tp.Circle(), tp.Torus(2)),
        lambda x: torch.stack([x[:, 0] + x[:, 2], x[:, 1], x[:, 2] + x[:, 1]], 1),
        True,
    ),
    "sphere": (tp.Sphere(2), lambda x: x * 0 + x.new_tensor([0.6, 0.0, 0.8]), True),  # no loops to keep
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
    glide, once, twice = report.images
    assert glide[0, 2].abs() == 1
    assert (once[0, 2], once[1, 2].abs()) == (0, 1)
    assert (twice[0, 2].abs(), twice[1, 2]) == (2, 0)
    linear = [a.diagonal()[:2].tolist() for a in report.images]
    assert linear == [[1, -1], [1, 1], [1, 1]]


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

    assert follow_loops(tp.Circle(), noise, base=torch.rand(1), num=10, max_points=300).preserved is None
    assert sum(calls) <= 300


def test_bad_loop_arguments_are_named():
    with pytest.raises(ValueError, match="num: expected"):
        follow_loops(K, lambda x: x, num=1)
    with pytest.raises(ValueError, match="base"):
        follow_loops(K, lambda x: x, base=torch.zeros(3))
    with pytest.raises(ValueError, match="encode"):
        follow_loops(K, lambda x: x[:, :1])


def wound(x):
    """Continuous but at two points: once round v winds twice round u, in opposite directions on either half."""
    angle = 2 * math.pi * x[:, 1]
    return torch.stack(
        [
            x[:, 0] + torch.atan2(angle.sin() * (math.pi * x[:, 0]).cos(), angle.cos()) / math.pi,
            x[:, 1],
        ],
        1,
    )


def test_a_torn_map_breaks_a_relation():
    """The images generate the group, but a b a^-1 b becomes a translation by (4, 0) or (-4, 0)."""
    report = follow_loops(K, lambda x: K.project(wound(x)), base=torch.tensor([0.1, 0.1]))
    assert report.largest_step < 0.25
    assert K.deck_group.generated_by(report.images)
    a, b, _ = report.images
    found = a @ b @ torch.linalg.inv(a) @ b
    assert found[:2, 2].abs().tolist() == pytest.approx([4, 0], abs=1e-9)
    assert report.broken > 0
    assert report.preserved is False


def test_a_torn_map_is_seen_from_another_base():
    """On the torus all relations always hold: here v winds once round from one base, twice from another."""

    def torn(x):
        angle = 2 * math.pi * x
        arg = torch.atan2(angle[:, 1].sin(), angle[:, 1].cos() + 2 * angle[:, 0].cos())
        return torch.stack([x[:, 0], x[:, 1] + arg / (2 * math.pi)], 1)

    space = tp.Torus(2)
    one = follow_loops(space, torn, base=torch.tensor([0.0, 0.1]))
    assert (one.preserved, one.broken) == (True, 0), "torn, but nothing to be seen from here"
    two = follow_loops(space, torn, base=torch.tensor([[0.0, 0.1], [0.25, 0.1]]))
    assert two.preserved is False
    assert two.broken > 0


@pytest.mark.parametrize("times", [401, 648, -399, 2001])
def test_no_number_of_turns_hides_between_the_samples(times):
    """401 turns look like one on a grid of 400 points, 648 on one of 647, and 2,001 like few on both."""
    report = follow_loops(tp.Circle(), lambda x: times * x)
    assert report.preserved is False
    assert report.images[0, 0, 1].item() == times
