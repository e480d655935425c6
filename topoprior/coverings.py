"""The first spaces: Euclidean space, tori and Klein bottles, with their features in closed form."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from topoprior.covering import Covering, positive_integer
from topoprior.flat import FlatManifold

__all__ = ["Circle", "Covering", "Euclidean", "FlatManifold", "KleinBottle", "Torus"]


class Euclidean(FlatManifold):
    """R^n covering itself: features are the coordinates. Makes every formula's trivial case.

    Example:
        >>> Euclidean(3).distance(torch.zeros(3), torch.tensor([3.0, 4.0, 0.0])).item()
        5.0
    """

    def __init__(self, dim: int) -> None:
        super().__init__(torch.zeros(positive_integer(dim, "dim"), 0))

    num_features = property(lambda self: self.dim)

    def embed(self, x: Tensor) -> Tensor:
        self._check_lift(x)
        return x

    def retract(self, y: Tensor) -> Tensor:
        self._check_features(y)
        return y

    def __repr__(self) -> str:
        return f"Euclidean({self.dim})"


class Torus(FlatManifold):
    """R^n / Z^n. Features (cos 2 pi x_i, sin 2 pi x_i), an embedding on the product of unit circles.

    Example:
        >>> Torus(2).project(torch.tensor([1.25, -0.25]))
        tensor([0.2500, 0.7500])
    """

    def __init__(self, dim: int = 2) -> None:
        super().__init__(torch.eye(positive_integer(dim, "dim")))

    num_features = property(lambda self: 2 * self.dim)

    def embed(self, x: Tensor) -> Tensor:
        self._check_lift(x)
        angle = 2 * math.pi * x
        return torch.stack([angle.cos(), angle.sin()], -1).flatten(-2)

    def retract(self, y: Tensor) -> Tensor:
        self._check_features(y)
        cos, sin = y.unflatten(-1, (self.dim, 2)).unbind(-1)
        return torch.atan2(sin, cos) / (2 * math.pi)

    def __repr__(self) -> str:
        return f"Torus({self.dim})"


class Circle(Torus):
    """R / Z, features (cos 2 pi x, sin 2 pi x)."""

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
        self._check_lift(x)
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
        self._check_features(y)
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
