"""Images of known topology: every image belongs to a point of a space, and the set of images is a copy of it.

"published" is Klein-Circles exactly as in the paper's repository (100,000 images, seed 28): a disk of
radius 0.3 on a Klein bottle, 30 x 30 pixels. It has two flaws. The pixel grid keeps both ends of each
period, so images jump where the bottle is glued; and a disk whose center is in the last 15 % of the
horizontal range [1, 3) is cut off at its end, so those images lie on a flap beside the bottle.

"klein" is the same without flaws, and "torus", "moebius", "projective" are its sisters: a pixel is a point
of the space, lit if it is within the radius of the center. "rotations" shows an asymmetric cloud of balls
in any position: a copy of SO(3).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

import topoprior as tp

SIZE, RADIUS = 30, 0.3
NUM_PUBLISHED, PUBLISHED_SEED = 100_000, 28
MOEBIUS_HALF_WIDTH = 0.5
_CHUNK = 2048


class Split(NamedTuple):
    """Images (N, H, W) in [0, 1] and their generating points, lifts (N, cover_dim), in three parts."""

    train: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


class Colour(NamedTuple):
    """A function on a space to colour points by: ``of`` gives all lifts of a point one value in [0, 1]."""

    name: str
    of: Callable[[Tensor], Tensor]
    cyclic: bool = False  # 0 and 1 are the same colour


@dataclass(frozen=True)
class ImageSet:
    """A copy of a space among images.

    Attributes:
        title: of a report.
        space: where the generating points live.
        render: lifts (N, cover_dim) -> images (N, H, W).
        sample_points: (num, generator) -> lifts (num, cover_dim), uniform.
        colours: two functions on the space that tell its points apart in a picture.
        seamless: whether the images are continuous functions of the point.
    """

    title: str
    space: tp.Covering
    render: Callable[[Tensor], Tensor]
    sample_points: Callable[[int, torch.Generator], Tensor]
    colours: tuple[Colour, Colour]
    seamless: bool = True

    def split(self, num: int, seed: int) -> Split:
        """``num`` images, 80 / 10 / 10, by the generators of ``seed`` (points) and ``seed + 1`` (parts)."""
        points = self.sample_points(num, torch.Generator().manual_seed(seed))
        order = torch.randperm(num, generator=torch.Generator().manual_seed(seed + 1))
        images = torch.cat([self.render(part) for part in points.split(_CHUNK)])
        train, held_out = max(1, round(0.8 * num)), max(1, round(0.1 * num))
        parts = order.split([train, held_out, num - train - held_out])
        first, second, third = ((images[part], points[part]) for part in parts)
        return Split(first, second, third)


# --- the published set -----------------------------------------------------------------------------


def published_points(num: int, generator: torch.Generator) -> Tensor:
    """Lifts (u, v) with u in [0, 1), v in [0, 2): the horizontal coordinate goes twice round."""
    draws = torch.rand(num, 2, generator=generator)
    return torch.stack([draws[:, 1], 2 * draws[:, 0]], 1)


def render_published(points: Tensor) -> Tensor:
    """Klein-Circles, bit for bit: 30 x 60 pixels of the torus, its upper half mirrored onto the lower.

    A pixel (x, y), x in [0, 1] and y in [0, 2], both ends included, is lit if one of its copies at
    x + {0, 1, 2}, y + {0, 2, 4} is within the radius of (1 + v, 2 + u). The least squared distance is
    the sum of the least squares of either coordinate, in float32 too: rounding is monotone.
    """
    u, v = points.unbind(-1)
    across = torch.linspace(0, 1, SIZE) + torch.tensor([[0.0], [1.0], [2.0]])
    along = torch.linspace(0, 2, 2 * SIZE) + torch.tensor([[0.0], [2.0], [4.0]])
    across = (across - (1 + v)[:, None, None]).square().amin(1)
    along = (along - (2 + u)[:, None, None]).square().amin(1)
    lit = across.unsqueeze(2) + along.unsqueeze(1) < RADIUS**2
    return (lit[..., :SIZE] | lit[..., SIZE:].flip(1)).float()


# --- disks on any space ----------------------------------------------------------------------------


def disks(space: tp.Covering, pixels: Tensor, radius: float) -> Callable[[Tensor], Tensor]:
    """Renders points as the disks around them: ``pixels`` (H, W, cover_dim) are lifts."""

    def render(points: Tensor) -> Tensor:
        return (space.distance(points[:, None, None], pixels) < radius).float()

    return render


def _square_pixels(low: float = 0.0, high: float = 1.0) -> Tensor:
    """Centers of the pixels of [0, 1] x [low, high], no end kept twice, (SIZE, SIZE, 2)."""
    line = (torch.arange(SIZE) + 0.5) / SIZE
    return torch.cartesian_prod(line, low + (high - low) * line).unflatten(0, (SIZE, SIZE))


def _hemisphere_pixels() -> Tensor:
    """A square of pixels over the disk that shows half a sphere, equal areas for equal areas.

    Lambert's projection: a point at distance r <= 1 from the middle has height 1 - r^2. Pixels outside
    the disk repeat points of its rim.
    """
    plane = _square_pixels() * 2 - 1
    r = plane.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    inside = r.clamp(max=1)
    return torch.cat([plane / r * inside * (2 - inside.square()).sqrt(), 1 - inside.square()], -1)


def _uniform(space: tp.Covering) -> Callable[[int, torch.Generator], Tensor]:
    def sample(num: int, generator: torch.Generator) -> Tensor:
        if isinstance(space, tp.FlatManifold):
            return torch.rand(num, space.dim, generator=generator) @ space.lattice.float().T
        normal = torch.randn(num, space.cover_dim, generator=generator)
        return normal / normal.norm(dim=1, keepdim=True)

    return sample


def _moebius_points(num: int, generator: torch.Generator) -> Tensor:
    u, w = torch.rand(num, 2, generator=generator).unbind(1)
    return torch.stack([2 * u, MOEBIUS_HALF_WIDTH * (2 * w - 1)], 1)


# --- rotations -------------------------------------------------------------------------------------

# Balls of an asymmetric body: center (x, y, z), brightness. No rotation but the identity maps it to itself.
_BODY = (
    (0.9, 0.0, 0.0, 1.0),
    (0.45, 0.0, 0.1, 1.0),
    (0.0, 0.75, 0.0, 0.7),
    (-0.1, 0.35, 0.05, 0.7),
    (0.0, 0.1, 0.6, 0.45),
    (-0.6, -0.4, -0.3, 0.85),
)
_ROTATED_SIZE, _BALL = 20, 0.22


def render_rotations(points: Tensor) -> Tensor:
    """The body turned by the unit quaternions (N, 4), seen along z: nearer balls are brighter."""
    body = torch.tensor(_BODY, dtype=points.dtype)
    turned = torch.einsum("nij,bj->nbi", tp.RotationGroup().matrix(points), body[:, :3])
    line = ((torch.arange(_ROTATED_SIZE) + 0.5) / _ROTATED_SIZE * 2 - 1) * 1.1
    x = (-0.5 * ((line - turned[..., :1]) / _BALL).square()).exp()
    y = (-0.5 * ((line - turned[..., 1:2]) / _BALL).square()).exp()
    light = body[:, 3] * torch.sigmoid(2 * turned[..., 2])
    dark = (1 - light[..., None, None] * x.unsqueeze(-1) * y.unsqueeze(-2)).prod(1)
    return 1 - dark


# --- all sets --------------------------------------------------------------------------------------


def image_set(name: str) -> ImageSet:
    """One of :data:`SETS`.

    Raises:
        ValueError: no such set.
    """
    if name not in SETS:
        raise ValueError(f"data: expected one of {', '.join(SETS)}, found {name!r}")
    return SETS[name]()


def _disk_set(
    title: str, space: tp.Covering, pixels: Tensor, colours: tuple[Colour, Colour], radius: float = RADIUS
) -> ImageSet:
    return ImageSet(title, space, disks(space, pixels, radius), _uniform(space), colours)


def _moebius() -> ImageSet:
    reach = MOEBIUS_HALF_WIDTH + RADIUS  # no disk is cut off
    space = tp.MoebiusBand()
    render = disks(space, _square_pixels(-reach, reach), RADIUS)
    return ImageSet("Disks on the Moebius band", space, render, _moebius_points, (_U, _ABS_W))


def _rotations() -> ImageSet:
    group = tp.RotationGroup()

    def height(axis: str, column: int) -> Colour:
        return Colour(
            f"height of the turned {axis} axis", lambda q: 0.5 + 0.5 * group.matrix(q)[..., 2, column]
        )

    colours = height("z", 2), height("x", 0)
    return ImageSet("A body in all positions", group, render_rotations, _uniform(group), colours)


# The glide takes (u, v) to (u + 1, -v): u modulo 1 and even functions of v are functions on the space.
_U = Colour("u", lambda x: x[..., 0] % 1, cyclic=True)
_V = Colour("v", lambda x: x[..., 1] % 1, cyclic=True)
_COS_V = Colour("(1 + cos 2πv) / 2", lambda x: 0.5 + 0.5 * (2 * math.pi * x[..., 1]).cos())
_ABS_W = Colour("|w|", lambda x: x[..., 1].abs())
_Z_SQUARED = Colour("z²", lambda x: x[..., 2].square())
_ANGLE = Colour(
    "direction of (x, y), mod π",
    lambda x: torch.atan2(x[..., 1], x[..., 0]) / math.pi % 1,
    cyclic=True,
)

SETS: dict[str, Callable[[], ImageSet]] = {
    "published": lambda: ImageSet(
        "Klein-Circles, as published",
        tp.KleinBottle(),
        render_published,
        published_points,
        (_U, _COS_V),
        seamless=False,
    ),
    "klein": lambda: _disk_set(
        "Disks on the Klein bottle", tp.KleinBottle(), _square_pixels(), (_U, _COS_V)
    ),
    "torus": lambda: _disk_set("Disks on the torus", tp.Torus(2), _square_pixels(), (_U, _V)),
    "moebius": _moebius,
    # The radius whose disk covers the same share of the space as on the Klein bottle.
    "projective": lambda: _disk_set(
        "Disks on the projective plane",
        tp.RealProjectiveSpace(2),
        _hemisphere_pixels(),
        (_Z_SQUARED, _ANGLE),
        math.acos(1 - math.pi * RADIUS**2),
    ),
    "rotations": _rotations,
}
