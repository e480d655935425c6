"""Real projective spaces, and the group of rotations of space."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from topoprior.covering import positive_integer
from topoprior.spherical import SphericalSpaceForm


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

    def __init__(self, dim: int) -> None:
        super().__init__([-torch.eye(positive_integer(dim, "dim") + 1)])
        i, j = torch.triu_indices(self.cover_dim, self.cover_dim)
        scale = torch.where(i == j, 1.0, math.sqrt(2)).double()
        self._triangle = i, j, scale
        # The symmetric matrix of every feature, (num_features, n + 1, n + 1).
        self._matrices = torch.zeros(self.num_features, self.cover_dim, self.cover_dim, dtype=torch.float64)
        index = torch.arange(self.num_features)
        self._matrices[index, i, j] = self._matrices[index, j, i] = 1 / scale

    num_features = property(lambda self: self.cover_dim * (self.cover_dim + 1) // 2)

    def embed(self, x: Tensor) -> Tensor:
        self._check_lift(x)
        i, j, scale = self._triangle
        return x[..., i.to(x.device)] * x[..., j.to(x.device)] * scale.to(x)

    def retract(self, y: Tensor) -> Tensor:
        self._check_features(y)
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

    def __init__(self) -> None:
        super().__init__([-torch.eye(4)])

    def matrix(self, q: Tensor) -> Tensor:
        """The rotation matrix of a unit quaternion, (..., 4) -> (..., 3, 3)."""
        self._check_lift(q)
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
        self._check_features(y)
        return self.from_matrix(y.unflatten(-1, (3, 3)))

    def __repr__(self) -> str:
        return "RotationGroup()"


def top_eigenvector(matrix: Tensor) -> Tensor:
    """Unit eigenvector of the greatest eigenvalue of symmetric matrices, (..., d, d) -> (..., d).

    Its derivative is that of perturbation theory, dv = (lambda - A)^+ dA v, which is finite where the
    greatest eigenvalue is simple; that of `torch.linalg.eigh` is not if any two others are equal.
    """
    with torch.no_grad():
        values, vectors = torch.linalg.eigh(matrix)
        v = vectors[..., -1]
        gaps = values[..., -1:] - values[..., :-1]
        floor = torch.finfo(matrix.dtype).eps * values.abs().amax(-1, keepdim=True).clamp_min(1e-30)
        rest = vectors[..., :-1]
        inverse = (rest / torch.maximum(gaps, floor).unsqueeze(-2)) @ rest.transpose(-1, -2)
    change = (matrix - matrix.detach()) @ v.unsqueeze(-1)
    return v + (inverse @ change).squeeze(-1)
