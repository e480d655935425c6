"""Points to try laws on, and what is measured of them."""

from __future__ import annotations

import torch
from torch import Tensor

from topoprior.spaces import deck
from topoprior.spaces.covering import Covering
from topoprior.testing.expect import Expect


class Trial:
    """A space, points all over it, and the units in which its lengths count.

    Attributes:
        x, y, z: lifts of 40 points each, float64.
        size: the greatest distance found.
        unit: the shortest loop, where it is shorter.
        least_slope: what the features' slopes have to be at least, None for a thousandth of the greatest.
        flattest: the least slope of the features at these points, once it has been measured.
    """

    def __init__(self, space: Covering, least_slope: float | None = None) -> None:
        self.space, self.least_slope, self.expect = space, least_slope, Expect(space)
        self.generator = torch.Generator().manual_seed(0)
        self.x, self.y, self.z = self.points(120).chunk(3)
        self.size = space.distance(self.x, self.y).max().item()
        self.unit = min(self.size, space.shortest_loop)
        self.flattest = 0.0

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator, dtype=torch.float64)

    def points(self, count: int) -> Tensor:
        """Lifts all over the cover, by geodesics from where the space says there are points."""
        x = self.space.generic_points(count).double()
        length = self.space.shortest_loop if self.space.shortest_loop < torch.inf else 1.0
        return self.space.geodesic(x, self.space.tangent(x, self.normal(*x.shape)), length)[0]

    def basis(self, x: Tensor) -> Tensor:
        """Orthonormal tangent vectors, (..., cover_dim, dim)."""
        eye = torch.eye(self.space.cover_dim, dtype=x.dtype)
        projection = self.space.tangent(x.unsqueeze(-2).expand(*x.shape, -1), eye.expand(*x.shape, -1))
        return torch.linalg.svd(projection).Vh[..., : self.space.dim, :].mT

    def words(self) -> Tensor:
        """Products of up to two generators of the deck group or their inverses; the identity first."""
        some = self.space.deck_group.generators
        eye = torch.eye(self.space.cover_dim + 1, dtype=torch.float64).unsqueeze(0)
        letters = torch.cat([eye, some, deck.inverse(some)])
        words = (letters.unsqueeze(1) @ letters).flatten(0, 1)
        same = (words.unsqueeze(1) - words).abs().amax((-2, -1)) < 1e-6
        return words[~same.tril(-1).any(1)]

    def cover_length(self, x: Tensor, y: Tensor) -> Tensor:
        """Lengths of the paths of the cover between lifts (N, cover_dim): their speed, half-way."""
        h = 1e-4
        s = torch.tensor([0.5 - h, 0.5 + h], dtype=torch.float64)
        ends = [self.space.cover_path(a, b, s) for a, b in zip(x, y, strict=True)]
        return torch.stack([(b - a).norm() / (2 * h) for a, b in ends])

    def derivative(self, x: Tensor) -> Tensor:
        """Of the features along an orthonormal basis, (N, num_features, dim)."""
        return torch.func.vmap(torch.func.jacrev(self.space.embed))(x) @ self.basis(x)
