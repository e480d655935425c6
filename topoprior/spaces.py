"""More flat manifolds: open surfaces, and two of the ten closed flat 3-manifolds."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from topoprior.coverings import FlatManifold, KleinBottle


class Cylinder(FlatManifold):
    """R^2 / ((u, w) ~ (u + 1, w)), the circle times the line. Features (cos 2 pi u, sin 2 pi u, w).

    Example:
        >>> Cylinder().project(torch.tensor([1.25, -3.0]))
        tensor([ 0.2500, -3.0000])
    """

    num_features = 3

    def __init__(self) -> None:
        super().__init__([[1.0], [0.0]])

    def embed(self, x: Tensor) -> Tensor:
        self._check_lift(x)
        angle = 2 * math.pi * x[..., 0]
        return torch.stack([angle.cos(), angle.sin(), x[..., 1]], -1)

    def retract(self, y: Tensor) -> Tensor:
        """The nearest point of the image."""
        self._check_features(y)
        cos, sin, w = y.unbind(-1)
        return torch.stack([torch.atan2(sin, cos) / (2 * math.pi), w], -1)

    def __repr__(self) -> str:
        return "Cylinder()"


class MoebiusBand(FlatManifold):
    r"""R^2 / ((u, w) ~ (u + 1, -w)), the open Moebius band; the cylinder of length 2 covers it twice.

    Features (cos 2 pi u, sin 2 pi u, w cos pi u, w sin pi u): a ruled surface, w arc length along its
    lines.

    Example:
        >>> M = MoebiusBand()
        >>> x = torch.tensor([1.3, -0.2])
        >>> M.project(x)
        tensor([0.3000, 0.2000])
        >>> M.same_point(M.retract(M.embed(x)), x).item()
        True
    """

    num_features = 4

    def __init__(self) -> None:
        super().__init__([[2.0], [0.0]], [([[1.0, 0.0], [0.0, -1.0]], [1.0, 0.0])])

    def embed(self, x: Tensor) -> Tensor:
        self._check_lift(x)
        b, w = math.pi * x[..., 0], x[..., 1]
        cos, sin = b.cos(), b.sin()
        return torch.stack([2 * cos.square() - 1, 2 * sin * cos, w * cos, w * sin], -1)

    def retract(self, y: Tensor) -> Tensor:
        """The nearest point of the image, in closed form.

        With A = y0 + i y1 and W = y2 + i y3, the squared distance to the point (b, w) is least over w at
        const - 2 Re(conj(A + W^2 / 4) e^{2ib}), so b = arg(4 A + W^2) / 2.
        """
        self._check_features(y)
        a_re, a_im, w_re, w_im = y.unbind(-1)
        b = 0.5 * torch.atan2(4 * a_im + 2 * w_re * w_im, 4 * a_re + w_re.square() - w_im.square())
        return torch.stack([b / math.pi, w_re * b.cos() + w_im * b.sin()], -1)

    def __repr__(self) -> str:
        return "MoebiusBand()"


class HalfTurnManifold(KleinBottle):
    """R^3 / ((u, v) ~ (u, v + e_i) ~ (u + 1, -v)), the dicosm: half a turn about the first axis.

    Minus the identity of the plane is a half turn, so this *is* the 3-dimensional Klein bottle: closed
    forms, and orientable.

    Example:
        >>> HalfTurnManifold() == KleinBottle(3)
        True
    """

    def __init__(self) -> None:
        super().__init__(3)

    def __repr__(self) -> str:
        return "HalfTurnManifold()"


class HantzscheWendt(FlatManifold):
    """R^3 by the group of two screws, half turns about perpendicular axes that miss each other.

    (x, y, z) ~ (x + 1/2, 1/2 - y, -z) ~ (-x, y + 1/2, 1/2 - z): the didicosm, the closed flat
    3-manifold without a rational homology class of positive degree below 3. Four sheets, volume 1/4.

    Example:
        >>> space = HantzscheWendt()
        >>> space.num_sheets, space.volume
        (4, 0.25)
        >>> space.distance(torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.6, 0.3, -0.3])).item() < 1e-6
        True
    """

    def __init__(self) -> None:
        eye = torch.eye(3, dtype=torch.float64)
        turns = [torch.diag(2 * eye[axis] - 1) for axis in range(3)]
        shifts = [[0.5, 0.5, 0.0], [0.0, 0.5, 0.5], [0.5, 0.0, 0.5]]
        super().__init__(eye, list(zip(turns, shifts, strict=True)))

    def __repr__(self) -> str:
        return "HantzscheWendt()"
