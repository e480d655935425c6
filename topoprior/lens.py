"""Lens spaces: the 3-sphere modulo a cyclic group."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from topoprior.covering import positive_integer
from topoprior.spherical import SphericalSpaceForm, normalized, pick


class LensSpace(SphericalSpaceForm):
    r"""L(p, q): S^3 in C^2 modulo (z1, z2) ~ (w z1, w^q z2), w = e^{2 pi i / p}.

    Features, real and imaginary parts of :math:`z_1^p,\ z_2^p,\ z_1^q \bar z_2,\ z_1 \bar z_2^r` with
    q r = 1 mod p. ``retract`` reads z1 off the first and z2 off the third where z1 is the larger, the
    other way round where z2 is, and blends the two in between.

    Args:
        p: order of the group, at least 1.
        q: prime to p; read modulo p.

    Example:
        >>> L = LensSpace(5, 2)
        >>> x = torch.tensor([0.6, 0.0, 0.0, 0.8])
        >>> L.num_sheets, L.same_point(L.retract(L.embed(x)), x).item()
        (5, True)
    """

    num_features = 8

    def __init__(self, p: int, q: int) -> None:
        if not isinstance(q, int) or math.gcd(positive_integer(p, "p"), q) != 1:
            raise ValueError(f"q: expected an integer prime to p = {p}, found {q!r}")
        self.p, self.q = p, q % p or 1  # p = 1 is the sphere; q = 1 keeps its features smooth
        self.r = pow(self.q, -1, p) or 1
        turn = 2 * math.pi / p
        super().__init__([torch.block_diag(_turn(k * turn), _turn(k * self.q * turn)) for k in range(p)])

    def embed(self, x: Tensor) -> Tensor:
        self._check_lift(x)
        z1, z2 = torch.complex(x[..., 0], x[..., 1]), torch.complex(x[..., 2], x[..., 3])
        features = [
            _power(z1, self.p),
            _power(z2, self.p),
            _power(z1, self.q) * z2.conj(),
            z1 * _power(z2, self.r).conj(),
        ]
        return torch.view_as_real(torch.stack(features, -1)).flatten(-2)

    def retract(self, y: Tensor) -> Tensor:
        self._check_features(y)
        f1, f2, f3, f4 = y.unflatten(-1, (4, 2)).unbind(-2)
        size1, size2 = _root(f1, self.p), _root(f2, self.p)
        share = size1.square() / (size1.square() + size2.square())
        t = (2 * share - 0.5).clamp(0, 1)
        t = t * t * (3 - 2 * t)  # weight of the first reading: 0 and 1 with zero slope
        first = self._reading(f1, f3, self.q, t > 0)
        second = self._reading(f2, f4 * f4.new_tensor([1.0, -1.0]), self.r, t < 1)
        second = torch.cat([second[..., 2:], second[..., :2]], -1)
        images = self._images(second)
        second = pick(images, (images * first.unsqueeze(-2)).sum(-1).argmax(-1))
        t = t.unsqueeze(-1)
        return normalized(t * first + (1 - t) * second)

    def _reading(self, f: Tensor, g: Tensor, power: int, used: Tensor) -> Tensor:
        """(z, z') with z^p = f and z^power conj(z') = g, where ``used``; a stand-in elsewhere."""
        stand_in = f.new_tensor([1.0, 0.0])
        f = torch.where(used.unsqueeze(-1), f, stand_in)
        size = _root(f, self.p)
        angle = torch.atan2(f[..., 1], f[..., 0]) / self.p
        z = torch.polar(size, angle)
        other = torch.complex(g[..., 0], g[..., 1]) / _power(z, power)
        pair = torch.view_as_real(torch.stack([z, other.conj()], -1)).flatten(-2)
        return normalized(torch.where(used.unsqueeze(-1), pair, stand_in.repeat(2)))

    def __repr__(self) -> str:
        return f"LensSpace({self.p}, {self.q})"


def _turn(angle: float) -> Tensor:
    cos, sin = math.cos(angle), math.sin(angle)
    return torch.tensor([[cos, -sin], [sin, cos]], dtype=torch.float64)


def _power(z: Tensor, exponent: int) -> Tensor:
    """z^exponent by squaring: its derivative at 0 is finite, unlike that of complex pow."""
    result: Tensor | None = None
    while exponent:
        if exponent % 2:
            result = z if result is None else result * z
        exponent //= 2
        z = z * z if exponent else z
    assert result is not None
    return result


def _root(f: Tensor, p: int) -> Tensor:
    """|f|^(1 / p) of complex numbers as pairs, with a finite derivative at 0."""
    return (f.square().sum(-1) + torch.finfo(f.dtype).tiny ** 0.5).pow(0.5 / p)
