"""The first spaces: Euclidean space, tori and Klein bottles, with their features in closed form."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from topoprior.spaces.flat.manifold import FlatManifold
from topoprior.utils.checks import positive_integer
from topoprior.utils.plain import plain


class Euclidean(FlatManifold):
    """R^n covering itself: features are the coordinates. Makes every formula's trivial case.

    Example:
        >>> Euclidean(3).distance(torch.zeros(3), torch.tensor([3.0, 4.0, 0.0])).item()
        5.0
    """

    @plain
    def __init__(self, dim: int) -> None:
        super().__init__(torch.zeros(positive_integer(dim, "dim"), 0, dtype=torch.float64))

    num_features = property(lambda self: self.dim)

    def embed(self, x: Tensor) -> Tensor:
        return self._check_lift(x)

    def retract(self, y: Tensor) -> Tensor:
        return self._check_features(y)

    def __repr__(self) -> str:
        return f"Euclidean({self.dim})"


class Torus(FlatManifold):
    """R^n / Z^n. Features (cos 2 pi x_i, sin 2 pi x_i), an embedding on the product of unit circles.

    Example:
        >>> Torus(2).project(torch.tensor([1.25, -0.25]))
        tensor([0.2500, 0.7500])
    """

    @plain
    def __init__(self, dim: int = 2) -> None:
        super().__init__(torch.eye(positive_integer(dim, "dim"), dtype=torch.float64))

    num_features = property(lambda self: 2 * self.dim)

    def embed(self, x: Tensor) -> Tensor:
        x = self._check_lift(x)
        angle = 2 * math.pi * x
        return torch.stack([angle.cos(), angle.sin()], -1).flatten(-2)

    def retract(self, y: Tensor) -> Tensor:
        y = self._check_features(y)
        cos, sin = y.unflatten(-1, (self.dim, 2)).unbind(-1)
        return torch.atan2(sin, cos) / (2 * math.pi)

    def __repr__(self) -> str:
        return f"Torus({self.dim})"


class Circle(Torus):
    """R / Z, features (cos 2 pi x, sin 2 pi x)."""

    @plain
    def __init__(self) -> None:
        super().__init__(1)

    def __repr__(self) -> str:
        return "Circle()"


class KleinBottle(FlatManifold):
    r"""R^n / ((u, v) ~ (u, v + e_i) ~ (u + 1, -v)), v in R^(n-1): volume 1, double cover a torus.

    With b = pi u and a_i = 2 pi v_i (for n = 2: theta1 = b, theta2 = a in the filter literature), the
    features, five for every i,

    .. math:: (\sqrt 3 \cos a_i,\ 2 \sin a_i \cos b,\ 2 \sin a_i \sin b,\ \cos a_i \cos 2b,\
              \cos a_i \sin 2b)

    are a flat embedding: the induced metric is 4 (n - 1) pi^2 du^2 + 16 pi^2 |dv|^2, and for n = 2 the
    image lies on the sphere of radius 2 in R^5. The n-dimensional bottles are Davis's (2019).

    Args:
        dim: n >= 2. The bottle is orientable where n is odd.

    Example:
        >>> K = KleinBottle()
        >>> x = torch.tensor([1.3, -0.2])
        >>> K.project(x)
        tensor([0.3000, 0.2000])
        >>> K.same_point(K.retract(K.embed(x)), x).item()
        True
    """

    @plain
    def __init__(self, dim: int = 2) -> None:
        if positive_integer(dim, "dim") < 2:
            raise ValueError(f"dim: a Klein bottle has at least 2 dimensions, found {dim}")
        flip = torch.eye(dim, dtype=torch.float64)
        glide = flip[0].clone()
        flip[1:] *= -1
        lattice = torch.eye(dim, dtype=torch.float64)
        lattice[0, 0] = 2
        super().__init__(lattice, [(flip, glide)])

    num_features = property(lambda self: 5 * (self.dim - 1))

    def embed(self, x: Tensor) -> Tensor:
        x = self._check_lift(x)
        b, a = math.pi * x[..., :1], 2 * math.pi * x[..., 1:]
        cos_a, sin_a, cos_b, sin_b = a.cos(), a.sin(), b.cos(), b.sin()
        return torch.stack(
            [
                math.sqrt(3) * cos_a,
                2 * sin_a * cos_b,
                2 * sin_a * sin_b,
                cos_a * (2 * cos_b.square() - 1),
                cos_a * (2 * sin_b * cos_b),
            ],
            -1,
        ).flatten(-2)

    def retract(self, y: Tensor) -> Tensor:
        """Closed form, defined (and continuous as a point) off a set of codimension 2."""
        y = self._check_features(y)
        y0, w_re, w_im, a_re, a_im = y.unflatten(-1, (self.dim - 1, 5)).unbind(-1)
        c0, w_re, w_im = y0 / math.sqrt(3), w_re / 2, w_im / 2
        # e^{2ib} is the phase of sum_i (w_i^2 + A_i c_i); the other square root e^{ib}, the other sheet.
        sine = (2 * w_re * w_im + a_im * c0).sum(-1, keepdim=True)
        cosine = (w_re.square() - w_im.square() + a_re * c0).sum(-1, keepdim=True)
        b = 0.5 * torch.atan2(sine, cosine)
        cos_b, sin_b = b.cos(), b.sin()
        sin_a = w_re * cos_b + w_im * sin_b
        cos_a = 0.5 * (c0 + a_re * (2 * cos_b.square() - 1) + a_im * (2 * sin_b * cos_b))
        return torch.cat([b / math.pi, torch.atan2(sin_a, cos_a) / (2 * math.pi)], -1)

    def __repr__(self) -> str:
        return "KleinBottle()" if self.dim == 2 else f"KleinBottle({self.dim})"


class Cylinder(FlatManifold):
    """R^2 / ((u, w) ~ (u + 1, w)), the circle times the line. Features (cos 2 pi u, sin 2 pi u, w).

    Example:
        >>> Cylinder().project(torch.tensor([1.25, -3.0]))
        tensor([ 0.2500, -3.0000])
    """

    num_features = 3

    @plain
    def __init__(self) -> None:
        super().__init__([[1.0], [0.0]])

    def embed(self, x: Tensor) -> Tensor:
        x = self._check_lift(x)
        angle = 2 * math.pi * x[..., 0]
        return torch.stack([angle.cos(), angle.sin(), x[..., 1]], -1)

    def retract(self, y: Tensor) -> Tensor:
        """The nearest point of the image."""
        y = self._check_features(y)
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

    @plain
    def __init__(self) -> None:
        super().__init__([[2.0], [0.0]], [([[1.0, 0.0], [0.0, -1.0]], [1.0, 0.0])])

    def embed(self, x: Tensor) -> Tensor:
        x = self._check_lift(x)
        b, w = math.pi * x[..., 0], x[..., 1]
        cos, sin = b.cos(), b.sin()
        return torch.stack([2 * cos.square() - 1, 2 * sin * cos, w * cos, w * sin], -1)

    def retract(self, y: Tensor) -> Tensor:
        """The nearest point of the image, in closed form.

        With A = y0 + i y1 and W = y2 + i y3, the squared distance to the point (b, w) is least over w at
        const - 2 Re(conj(A + W^2 / 4) e^{2ib}), so b = arg(4 A + W^2) / 2.
        """
        y = self._check_features(y)
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

    @plain
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

    @plain
    def __init__(self) -> None:
        eye = torch.eye(3, dtype=torch.float64)
        turns = [torch.diag(2 * eye[axis] - 1) for axis in range(3)]
        shifts = [[0.5, 0.5, 0.0], [0.0, 0.5, 0.5], [0.5, 0.0, 0.5]]
        super().__init__(eye, list(zip(turns, shifts, strict=True)))

    def __repr__(self) -> str:
        return "HantzscheWendt()"
