"""Real projective spaces, and the group of rotations of space."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from topoprior.spaces.spherical.manifold import SphericalSpaceForm, normalized, pick
from topoprior.utils.checks import positive_integer
from topoprior.utils.plain import plain


class RealProjectiveSpace(SphericalSpaceForm):
    r"""S^n / +-1: lines through the origin of R^(n+1).

    Features: the symmetric matrix z z^T, its upper triangle row by row, off-diagonal entries times
    sqrt 2, so that lengths are those of the matrices. ``retract``: the eigenvector of the greatest
    eigenvalue, the nearest point; its gradient is finite where that eigenvalue is simple.

    Example:
        >>> P = RealProjectiveSpace(2)
        >>> x = torch.tensor([0.0, -0.6, 0.8])
        >>> P.num_features, P.same_point(P.retract(P.embed(x)), -x).item()
        (6, True)
    """

    @plain
    def __init__(self, dim: int) -> None:
        super().__init__([-torch.eye(positive_integer(dim, "dim") + 1, dtype=torch.float64)])
        i, j = torch.triu_indices(self.cover_dim, self.cover_dim)
        scale = torch.where(i == j, 1.0, torch.tensor(2.0, dtype=torch.float64).sqrt())
        self._triangle = i, j, scale
        # The symmetric matrix of every feature, (num_features, n + 1, n + 1).
        self._matrices = torch.zeros(self.num_features, self.cover_dim, self.cover_dim, dtype=torch.float64)
        index = torch.arange(self.num_features)
        self._matrices[index, i, j] = self._matrices[index, j, i] = 1 / scale

    num_features = property(lambda self: self.cover_dim * (self.cover_dim + 1) // 2)

    def embed(self, x: Tensor) -> Tensor:
        x = self._check_lift(x)
        i, j, scale = self._triangle
        return x[..., i.to(x.device)] * x[..., j.to(x.device)] * scale.to(x)

    def retract(self, y: Tensor) -> Tensor:
        y = self._check_features(y)
        return top_eigenvector(torch.einsum("...f,fab->...ab", y, self._matrices.to(y)))

    def __repr__(self) -> str:
        return f"RealProjectiveSpace({self.dim})"


class RotationGroup(SphericalSpaceForm):
    r"""SO(3) = S^3 / +-1: rotations of space, lifts are unit quaternions (w, x, y, z).

    Features: the rotation matrix, row by row (9). ``retract``: the nearest rotation to any 3 x 3
    matrix, as the greatest eigenvector of a symmetric 4 x 4 matrix (Davenport's q-method): no case
    distinction, no branch but the sign of the quaternion.

    Distances are half the angle of rotation, and the volume is pi^2, as the metric is that of S^3.

    Example:
        >>> G = RotationGroup()
        >>> quarter = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
        >>> q = G.from_matrix(quarter)  # a quarter turn about z
        >>> torch.allclose(q.abs(), torch.tensor([0.5**0.5, 0.0, 0.0, 0.5**0.5]), atol=1e-6)
        True
        >>> torch.allclose(G.matrix(q), quarter, atol=1e-6)
        True
    """

    num_features = 9

    @plain
    def __init__(self) -> None:
        super().__init__([-torch.eye(4, dtype=torch.float64)])

    def matrix(self, q: Tensor) -> Tensor:
        """The rotation matrix of a unit quaternion, (..., 4) -> (..., 3, 3)."""
        q = self._check_lift(q)
        w, x, y, z = q.unbind(-1)
        rows = [
            torch.stack([w * w + x * x - y * y - z * z, 2 * (x * y - w * z), 2 * (x * z + w * y)], -1),
            torch.stack([2 * (x * y + w * z), w * w - x * x + y * y - z * z, 2 * (y * z - w * x)], -1),
            torch.stack([2 * (x * z - w * y), 2 * (y * z + w * x), w * w - x * x - y * y + z * z], -1),
        ]
        return torch.stack(rows, -2)

    def from_matrix(self, matrix: Tensor) -> Tensor:
        """A unit quaternion of the rotation nearest to a matrix, (..., 3, 3) -> (..., 4).

        Raises:
            ValueError: wrong shape.
        """
        if matrix.shape[-2:] != (3, 3):
            raise ValueError(f"matrix: expected shape (..., 3, 3), found {tuple(matrix.shape)}")
        m = matrix
        xx, yy, zz = m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]
        wx, wy, wz = (
            m[..., 2, 1] - m[..., 1, 2],
            m[..., 0, 2] - m[..., 2, 0],
            m[..., 1, 0] - m[..., 0, 1],
        )
        xy, xz, yz = (
            m[..., 0, 1] + m[..., 1, 0],
            m[..., 0, 2] + m[..., 2, 0],
            m[..., 1, 2] + m[..., 2, 1],
        )
        # tr(R(q)^T M) = q^T K q
        rows = [
            torch.stack([xx + yy + zz, wx, wy, wz], -1),
            torch.stack([wx, xx - yy - zz, xy, xz], -1),
            torch.stack([wy, xy, yy - xx - zz, yz], -1),
            torch.stack([wz, xz, yz, zz - xx - yy], -1),
        ]
        return top_eigenvector(torch.stack(rows, -2))

    def embed(self, x: Tensor) -> Tensor:
        return self.matrix(x).flatten(-2)

    def retract(self, y: Tensor) -> Tensor:
        y = self._check_features(y)
        return self.from_matrix(y.unflatten(-1, (3, 3)))

    def __repr__(self) -> str:
        return "RotationGroup()"


def top_eigenvector(matrix: Tensor) -> Tensor:
    """Unit eigenvector of the greatest eigenvalue of symmetric matrices, (..., d, d) -> (..., d).

    Its derivative is that of perturbation theory, dv = (lambda - A)^+ dA v, which is finite where the
    greatest eigenvalue is simple; that of `torch.linalg.eigh` is not if any two others are equal.
    """
    with torch.no_grad():
        usable = matrix.isfinite().all(-1).all(-1)[..., None, None]  # eigh refuses a batch for one NaN
        values, vectors = torch.linalg.eigh(torch.where(usable, matrix, 0.0))
        v = vectors[..., -1]
        gaps = values[..., -1:] - values[..., :-1]
        floor = torch.finfo(matrix.dtype).eps * values.abs().amax(-1, keepdim=True).clamp_min(1e-30)
        rest = vectors[..., :-1]
        inverse = (rest / torch.maximum(gaps, floor).unsqueeze(-2)) @ rest.transpose(-1, -2)
    change = (matrix - matrix.detach()) @ v.unsqueeze(-1)
    return v + (inverse @ change).squeeze(-1)


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

    @plain
    def __init__(self, p: int, q: int) -> None:
        if not isinstance(q, int) or math.gcd(positive_integer(p, "p"), q) != 1:
            raise ValueError(f"q: expected an integer prime to p = {p}, found {q!r}")
        self.p, self.q = p, q % p or 1  # p = 1 is the sphere; q = 1 keeps its features smooth
        self.r = pow(self.q, -1, p) or 1
        turn = 2 * math.pi / p
        super().__init__([torch.block_diag(_turn(k * turn), _turn(k * self.q * turn)) for k in range(p)])

    def embed(self, x: Tensor) -> Tensor:
        x = self._check_lift(x)
        z1, z2 = torch.complex(x[..., 0], x[..., 1]), torch.complex(x[..., 2], x[..., 3])
        features = [
            _power(z1, self.p),
            _power(z2, self.p),
            _power(z1, self.q) * z2.conj(),
            z1 * _power(z2, self.r).conj(),
        ]
        return torch.view_as_real(torch.stack(features, -1)).flatten(-2)

    def retract(self, y: Tensor) -> Tensor:
        y = self._check_features(y)
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
