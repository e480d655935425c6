"""Coverings: spaces given as cover / deck group, points given as lifts.

A covering pi: cover -> base = cover / Gamma, with Gamma acting by isometries. A point of the base is
handed around as a point of the cover, a *lift*; any lift is accepted everywhere, and two lifts of one
point give the same answer.

Two maps make neural networks continuous on the base: `embed`, a deck-invariant smooth injective map
into R^num_features that a decoder reads, and `retract`, its left inverse, which turns what an encoder
emits into a point.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from topoprior.groups import check_group, generate_group, neighbour_offsets
from topoprior.harmonics import Harmonics

Isometry = tuple["Tensor | Sequence[Sequence[float]]", "Tensor | Sequence[float]"]


class Covering(ABC):
    """A space base = cover / deck group. See the module's documentation for the convention of lifts.

    Attributes:
        dim: dimension of the base.
        cover_dim: number of coordinates of a lift.
        num_features: number of coordinates of :meth:`embed`.
        num_sheets: sheets over the base of the largest covering space that carries a uniform law.
        volume: volume of the base, ``inf`` where it is not compact.
    """

    dim: int
    cover_dim: int
    num_features: int
    num_sheets: int
    volume: float

    @abstractmethod
    def project(self, x: Tensor) -> Tensor:
        """Canonical lift of the point of ``x``: the one in the fundamental domain. (..., cover_dim)."""

    @abstractmethod
    def lifts(self, x: Tensor, radius: float) -> Tensor:
        """Lifts of the point of ``x``, among them every one within ``radius`` of ``x``.

        (..., cover_dim) -> (..., L, cover_dim), where L depends on the space and ``radius`` alone.
        """

    @abstractmethod
    def embed(self, x: Tensor) -> Tensor:
        """Deck-invariant, smooth, injective features. (..., cover_dim) -> (..., num_features)."""

    @abstractmethod
    def retract(self, y: Tensor) -> Tensor:
        """A lift of the point whose features are (near) ``y``. (..., num_features) -> (..., cover_dim)."""

    @abstractmethod
    def distance(self, x: Tensor, y: Tensor) -> Tensor:
        """Geodesic distance on the base between the points of ``x`` and ``y``. Shape (...)."""

    @abstractmethod
    def sample_uniform(self, shape: torch.Size, dtype: torch.dtype, device: torch.device | None) -> Tensor:
        """Lifts of points drawn uniformly from the base, shape (*shape, cover_dim)."""

    def spectral_embed(self, x: Tensor) -> Tensor:
        """Invariant features that are Laplace eigenfunctions, the lowest of them: see `spectral.py`."""
        return self.embed(x)

    def spectral_retract(self, y: Tensor) -> Tensor:
        """Left inverse of :meth:`spectral_embed` up to deck moves."""
        return self.retract(y)

    def same_point(self, x: Tensor, y: Tensor, atol: float = 1e-5) -> Tensor:
        """Whether ``x`` and ``y`` are lifts of one point, up to distance ``atol``. Shape (...)."""
        return self.distance(x, y) <= atol

    def _move(self, x: Tensor, v: Tensor) -> Tensor:
        """The lift that the tangent vector ``v`` leads to from ``x``, to first order."""
        return x + v

    def _check_lift(self, x: Tensor, name: str = "x") -> None:
        if x.shape[-1:] != (self.cover_dim,):
            raise ValueError(
                f"{name}: expected shape (..., {self.cover_dim}), a lift to the cover of {self!r}, "
                f"found {tuple(x.shape)}"
            )

    def _check_features(self, y: Tensor) -> None:
        if y.shape[-1:] != (self.num_features,):
            raise ValueError(
                f"y: expected shape (..., {self.num_features}), features of {self!r}, "
                f"found {tuple(y.shape)}"
            )

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class FlatManifold(Covering):
    r"""R^n / Gamma with :math:`\Gamma = \{x \mapsto A_j x + t_j + B k : k \in Z^r\}`.

    Args:
        lattice: B, shape (n, r), columns are the translations of Gamma; r < n leaves directions open.
        holonomy: the cosets (A_j, t_j) of the lattice in Gamma, A_j orthogonal (n, n), t_j (n,);
            the identity may be left out. Default: the lattice alone (a torus).

    Raises:
        ValueError: when Gamma is not a group, A_j is not orthogonal or does not preserve the lattice,
            or an element has a fixed point; the message names the element.

    Volume |det B| / m. Features are the lowest deck-invariant harmonics that embed the space;
    :class:`KleinBottle` and the other named spaces have closed forms.

    Example:
        >>> # the Klein bottle from its glide reflection (u, v) -> (u + 1, -v)
        >>> K = FlatManifold([[2.0, 0.0], [0.0, 1.0]], [([[1.0, 0.0], [0.0, -1.0]], [1.0, 0.0])])
        >>> K.volume, K.num_sheets
        (1.0, 2)
        >>> K.distance(torch.tensor([0.1, 0.3]), torch.tensor([1.1, -0.3])).item() < 1e-6
        True
    """

    def __init__(
        self,
        lattice: Tensor | Sequence[Sequence[float]],
        holonomy: Sequence[Isometry] = (),
    ) -> None:
        self.lattice = torch.as_tensor(lattice, dtype=torch.float64).detach().cpu()
        if self.lattice.dim() != 2 or self.lattice.shape[0] < self.lattice.shape[1]:
            raise ValueError(
                f"lattice: expected shape (n, r) with r <= n, found {tuple(self.lattice.shape)}"
            )
        n, self.rank = self.lattice.shape
        linear = [torch.eye(n, dtype=torch.float64)]
        shift = [torch.zeros(n, dtype=torch.float64)]
        for a, t in holonomy:
            linear.append(torch.as_tensor(a, dtype=torch.float64).detach().cpu())
            shift.append(torch.as_tensor(t, dtype=torch.float64).detach().cpu())
        self.linear, self.shift, self.integer_linear = check_group(self.lattice, linear, shift)
        self.dim = self.cover_dim = n
        self.num_sheets = len(self.shift)
        gram = self.lattice.T @ self.lattice
        compact = self.rank == n
        self.volume = gram.det().sqrt().item() / self.num_sheets if compact else math.inf
        # As Python numbers, which compiled code sees as constants.
        self._cosets = list(zip(self.linear.tolist(), self.shift.tolist(), strict=True))
        self._periods = None if self.periods is None else self.periods.tolist()

    @classmethod
    def from_generators(cls, generators: Sequence[Isometry]) -> FlatManifold:
        r"""The quotient of R^n by the group that the isometries x -> A x + t generate.

        Args:
            generators: pairs (A, t), A orthogonal (n, n), t (n,).

        Raises:
            ValueError: the group is not discrete, has more than 200 linear parts, or has an element
                with a fixed point.

        Example:
            >>> glide = ([[1.0, 0.0], [0.0, -1.0]], [1.0, 0.0])
            >>> shift = ([[1.0, 0.0], [0.0, 1.0]], [0.0, 1.0])
            >>> FlatManifold.from_generators([glide, shift]).volume  # the Klein bottle
            1.0
        """
        pairs = []
        for a, t in generators:
            linear = torch.as_tensor(a, dtype=torch.float64).detach().cpu()
            pairs.append((linear, torch.as_tensor(t, dtype=torch.float64).detach().cpu()))
        lattice, cosets = generate_group(pairs)
        return FlatManifold(lattice, cosets[1:])

    # --- the lattice -------------------------------------------------------------------------

    @cached_property
    def periods(self) -> Tensor | None:
        """The period along each axis (``inf`` where open), or None if the lattice is not along axes."""
        if ((self.lattice.abs() > 1e-12).sum(0) > 1).any():
            return None
        periods = self.lattice.abs().sum(1)
        return torch.where(periods > 0, periods, math.inf)

    @cached_property
    def across_basis(self) -> Tensor:
        """Orthonormal basis of the directions across the lattice, (n, n - r)."""
        q = torch.linalg.qr(self.lattice, mode="complete").Q
        return q[:, self.rank :]

    def across_coordinates(self, x: Tensor) -> Tensor:
        """Coordinates of ``x`` along the open directions, (..., n - r)."""
        return x @ self.across_basis.to(x)

    @cached_property
    def _dual(self) -> Tensor:
        return torch.linalg.pinv(self.lattice).T

    def lattice_coordinates(self, x: Tensor) -> Tensor:
        """Coordinates of ``x`` in the lattice basis, B^+ x, (..., r)."""
        return x @ self._dual.to(x)

    def wrap(self, x: Tensor) -> Tensor:
        """``x`` modulo the lattice, lattice coordinates in [-1/2, 1/2]."""
        return x - self.lattice_coordinates(x).round() @ self.lattice.T.to(x)

    def sheets(self, x: Tensor) -> Tensor:
        """A_j x + t_j for every coset j, (..., n) -> (..., m, n)."""
        return torch.einsum("jab,...b->...ja", self.linear.to(x), x) + self.shift.to(x)

    # --- the space ---------------------------------------------------------------------------

    def project(self, x: Tensor) -> Tensor:
        """The lift with the lexicographically least lattice coordinates in [0, 1)^r."""
        self._check_lift(x)
        images = self.sheets(x)
        coordinates = self.lattice_coordinates(images)
        cell = coordinates.floor()
        cell = torch.where(coordinates - cell >= 1, cell + 1, cell)  # -1e-9 rounds up to 1
        images = images - cell @ self.lattice.T.to(x)
        coordinates = coordinates - cell
        allowed = torch.ones(coordinates.shape[:-1], dtype=torch.bool, device=x.device)
        slack = 8 * torch.finfo(x.dtype).eps
        for axis in range(self.rank):
            key = torch.where(allowed, coordinates[..., axis], math.inf)
            allowed = allowed & (key <= key.amin(-1, keepdim=True) + slack)
        best = allowed.to(torch.uint8).argmax(-1)
        index = best[..., None, None].expand(*best.shape, 1, self.cover_dim)
        return images.gather(-2, index).squeeze(-2)

    def lifts(self, x: Tensor, radius: float) -> Tensor:
        self._check_lift(x)
        wrapped = self.wrap(x)
        # |A p + t + B k - p| <= radius for some p of the centred cell bounds the lattice vector B k.
        cell_radius = 0.5 * self.lattice.norm(dim=0).sum().item()
        offsets = neighbour_offsets(self.lattice, radius + 2 * cell_radius + self.shift.norm(dim=1).max())
        images = self.sheets(wrapped).unsqueeze(-2) + (offsets @ self.lattice.T).to(x)
        return images.flatten(-3, -2) + (x - wrapped).unsqueeze(-2)

    def difference(self, x: Tensor, y: Tensor) -> Tensor:
        """The shortest vector from ``x`` to a lift of the point of ``y``, (..., n)."""
        self._check_lift(x)
        self._check_lift(y, "y")
        vectors = self.wrap(self.sheets(y) - x.unsqueeze(-2))
        if self.periods is None:  # rounding is exact along axes; else the nearest is among neighbours
            near = neighbour_offsets(self.lattice, self.lattice.norm(dim=0).sum().item())
            vectors = (vectors.unsqueeze(-2) + (near @ self.lattice.T).to(x)).flatten(-3, -2)
        best = vectors.square().sum(-1).argmin(-1)
        return vectors.gather(-2, best[..., None, None].expand(*best.shape, 1, self.dim)).squeeze(-2)

    def distance(self, x: Tensor, y: Tensor) -> Tensor:
        squared = self.difference(x, y).square().sum(-1)
        # sqrt has no gradient at 0; at equal points take 0, a subgradient of the distance.
        return torch.where(squared > 0, squared, 1.0).sqrt() * (squared > 0)

    def sample_uniform(self, shape: torch.Size, dtype: torch.dtype, device: torch.device | None) -> Tensor:
        if self.volume == math.inf:
            raise ValueError(f"{self!r} is not compact: it carries no uniform distribution")
        cell = torch.rand(*shape, self.rank, dtype=dtype, device=device)
        return cell @ self.lattice.T.to(cell)

    # --- features by harmonics ---------------------------------------------------------------

    @cached_property
    def _harmonics(self) -> Harmonics:
        from topoprior.embedding import embedding_harmonics

        return embedding_harmonics(self)

    @property
    def num_features(self) -> int:  # type: ignore[override]
        return self._harmonics.num_features

    def embed(self, x: Tensor) -> Tensor:
        self._check_lift(x)
        return self._harmonics(x)

    def retract(self, y: Tensor) -> Tensor:
        """Nearest point of the embedded space, by a grid search and Gauss-Newton steps."""
        from topoprior.embedding import nearest_flat_point

        self._check_features(y)
        return nearest_flat_point(self, y)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, FlatManifold):
            return NotImplemented
        return all(
            a.shape == b.shape and bool(torch.allclose(a, b))
            for a, b in (
                (self.lattice, other.lattice),
                (self.linear, other.linear),
                (self.shift, other.shift),
            )
        )

    def __hash__(self) -> int:
        return hash((self.dim, self.rank, self.num_sheets))

    def __repr__(self) -> str:
        return f"FlatManifold(dim={self.dim}, rank={self.rank}, num_sheets={self.num_sheets})"


class Euclidean(FlatManifold):
    """R^n covering itself: features are the coordinates. Makes every formula's trivial case.

    Example:
        >>> Euclidean(3).distance(torch.zeros(3), torch.tensor([3.0, 4.0, 0.0])).item()
        5.0
    """

    def __init__(self, dim: int) -> None:
        super().__init__(torch.zeros(_positive(dim, "dim"), 0))

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
        super().__init__(torch.eye(_positive(dim, "dim")))

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
        if _positive(dim, "dim") < 2:
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


def _positive(value: int, name: str) -> int:
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{name}: expected a positive integer, found {value!r}")
    return value
