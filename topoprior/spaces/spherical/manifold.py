r"""Spherical space forms: spheres modulo finite groups of rotations and reflections.

Lifts are unit vectors of R^(n+1). The sphere is a finite cover with a uniform law, so on these spaces
a bound through the cover costs at most log(number of sheets).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from topoprior.spaces.covering import Covering, safe_sqrt
from topoprior.spaces.deck import DeckGroup, affine
from topoprior.spaces.embedding import _GRID, _LEAST_SLOPE, _MOST_MONOMIALS, _Slopes, nearest_point
from topoprior.spaces.spherical.group import check_spherical_group
from topoprior.spaces.spherical.harmonics import SphericalHarmonics, invariant_harmonics
from topoprior.utils.checks import positive_integer
from topoprior.utils.plain import found_once, own, plain
from topoprior.utils.real_module import check_dtype


def embedding_invariants(space: SphericalSpaceForm) -> SphericalHarmonics:
    """A small set of invariant spherical harmonics whose map is an immersion and injective.

    Degree after degree: the first one of a large group is high (12 on the Poincare sphere), and every
    degree costs.
    """
    points = torch.cat([_symmetric(space.cover_dim), sphere_grid(space.cover_dim, 256)])
    parts: list[SphericalHarmonics] = []
    degree = 1
    while math.comb(space.dim + degree, degree) <= _MOST_MONOMIALS:
        part = invariant_harmonics(space.elements, degree)
        degree += 1
        if part is None:
            continue
        parts.append(part)
        joined = SphericalHarmonics.join(parts)
        if joined.num_features <= space.dim:
            continue
        columns = _Slopes(space, joined, points, 0.1 * space.shortest, _LEAST_SLOPE).select()
        if columns is not None:
            return joined.select(columns)
    raise ValueError(f"no embedding of {space!r} by harmonics of degree up to {degree - 1} was found")


def _symmetric(cover_dim: int) -> Tensor:
    """Unit vectors along the sums and differences of at most two axes, (cover_dim^2, cover_dim)."""
    eye = torch.eye(cover_dim, dtype=torch.float64)
    i, j = torch.triu_indices(cover_dim, cover_dim, 1)
    return torch.cat([eye, (eye[i] + eye[j]) / math.sqrt(2), (eye[i] - eye[j]) / math.sqrt(2)])


def sphere_grid(cover_dim: int, count: int = _GRID) -> Tensor:
    """Evenly spread unit vectors, (count, cover_dim): normal quantiles of a Sobol sequence."""
    engine = torch.quasirandom.SobolEngine(cover_dim, scramble=True, seed=0)
    unit = engine.draw(max(count, 1), dtype=torch.float64)[:count]  # it draws one point at least
    normal = torch.special.ndtri(unit.clamp(1e-9, 1 - 1e-9))
    return normal / normal.norm(dim=1, keepdim=True)


def nearest_spherical_point(space: SphericalSpaceForm, y: Tensor) -> Tensor:
    """:func:`nearest_point` on a grid of the sphere."""
    return nearest_point(space, y, space._search_grid, 0.1 * space.shortest)


class SphericalSpaceForm(Covering):
    r"""S^n / Gamma, Gamma a finite group of orthogonal matrices that fixes no point of the sphere.

    Args:
        elements: all of Gamma, (n+1, n+1) matrices; the identity may be left out.

    Raises:
        ValueError: a matrix is not orthogonal or fixes a point, or a product of two is missing; the
            message names them.

    Volume vol(S^n) / m, in the metric of the unit sphere. Features are the lowest invariant spherical
    harmonics that embed the space, and `retract` searches the nearest point; the named spaces have
    closed forms. Points are differentiable functions of features to first order.

    Example:
        >>> quarter = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
        >>> turns = [torch.block_diag(*[torch.linalg.matrix_power(quarter, k)] * 2) for k in range(4)]
        >>> space = SphericalSpaceForm(turns)  # the lens space L(4, 1)
        >>> space.num_sheets, round(space.volume, 4)
        (4, 4.9348)
        >>> x = torch.tensor([0.6, 0.0, 0.8, 0.0])
        >>> space.same_point(space.retract(space.embed(x)), x, atol=1e-3).item()
        True
    """

    @plain
    def __init__(self, elements: Sequence[Tensor | Sequence[Sequence[float]]]) -> None:
        matrices = [own("elements", a) for a in elements]
        if not matrices or matrices[0].dim() != 2 or len(matrices[0]) < 2:
            raise ValueError("elements: expected matrices of shape (n+1, n+1) with n >= 1")
        self.elements = check_spherical_group(matrices)
        self.num_sheets, self.cover_dim = self.elements.shape[:2]
        self.dim = self.cover_dim - 1
        half = self.cover_dim / 2
        sphere = 2 * math.exp(half * math.log(math.pi) - math.lgamma(half))
        self.volume = sphere / self.num_sheets
        # The least angle by which a deck transformation moves a point; 2 pi on the sphere itself.
        self.shortest = 2 * math.pi
        if self.num_sheets > 1:
            moved = self.elements[1:] - torch.eye(self.cover_dim, dtype=torch.float64)
            self.shortest = 2 * math.asin(torch.linalg.svdvals(moved)[:, -1].min().item() / 2)

    @found_once
    def cover(self) -> Sphere:
        """The sphere that covers the space."""
        return Sphere(self.dim)

    def _images(self, x: Tensor) -> Tensor:
        return torch.einsum("jab,...b->...ja", self.elements.to(x), x)

    def _move(self, x: Tensor, v: Tensor) -> Tensor:
        return normalized(x + v)

    def tangent(self, x: Tensor, v: Tensor) -> Tensor:
        x, v = self._check_lift(x), self._check_lift(v, "v")
        return v - (v * x).sum(-1, keepdim=True) * x

    def geodesic(self, x: Tensor, v: Tensor, t: float) -> tuple[Tensor, Tensor]:
        """A great circle: x cos(|v| t) + v / |v| sin(|v| t)."""
        speed = v.norm(dim=-1, keepdim=True)
        angle = t * speed
        direction = v / speed.clamp_min(torch.finfo(v.dtype).tiny)
        moved = angle.cos() * x + angle.sin() * direction
        velocity = speed * (angle.cos() * direction - angle.sin() * x)
        moved = normalized(moved)  # roundings add up over long chains
        return moved, self.tangent(moved, velocity)

    def project(self, x: Tensor) -> Tensor:
        """The lift with the lexicographically greatest coordinates."""
        x = self._check_lift(x)
        images = self._images(x)
        allowed = torch.ones(images.shape[:-1], dtype=torch.bool, device=x.device)
        slack = 8 * torch.finfo(x.dtype).eps
        for axis in range(self.cover_dim):
            key = torch.where(allowed, images[..., axis], -math.inf)
            allowed = allowed & (key >= key.amax(-1, keepdim=True) - slack)
        return pick(images, allowed.to(torch.uint8).argmax(-1))

    has_finite_group = True

    def lifts(self, x: Tensor, radius: float = math.inf) -> Tensor:
        """All lifts, (..., num_sheets, n + 1), x itself first, whatever the ``radius``."""
        x = self._check_lift(x)
        return self._images(x)

    def distance(self, x: Tensor, y: Tensor) -> Tensor:
        x = self._check_lift(x)
        y = self._check_lift(y, "y")
        images = self._images(y)
        x = x.expand(*torch.broadcast_shapes(x.shape, y.shape))
        images = images.expand(*x.shape[:-1], *images.shape[-2:])
        nearest = pick(images, (images * x.unsqueeze(-2)).sum(-1).argmax(-1))
        # arccos(x . y) loses half the digits near 0 and pi; this form none.
        apart, across = (safe_sqrt(v.square().sum(-1)) for v in (x - nearest, x + nearest))
        return 2 * torch.atan2(apart, across) + 0 * apart  # of infinities atan2 makes a number

    def sample_uniform(
        self,
        shape: torch.Size,
        dtype: torch.dtype,
        device: torch.device | None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        check_dtype("dtype", dtype)
        return normalized(
            torch.randn(*shape, self.cover_dim, dtype=dtype, device=device, generator=generator)
        )

    # --- loops ---------------------------------------------------------------------------------

    @found_once
    def deck_group(self) -> DeckGroup:
        zero = torch.zeros(self.cover_dim, self.num_sheets, dtype=torch.float64)
        return DeckGroup(zero[:, :0], self.elements, zero.T)

    @property
    def shortest_loop(self) -> float:  # type: ignore[override]
        return self.shortest if self.num_sheets > 1 else math.inf

    def generic_points(self, count: int) -> Tensor:
        return sphere_grid(self.cover_dim, count)

    def nearest_deck(self, x: Tensor, y: Tensor) -> Tensor:
        x, y, unknown = self._known_pair(x, y)
        nearest = (self._images(y) * x.unsqueeze(-2)).sum(-1).argmax(-1)
        return affine(self.elements[nearest], torch.zeros_like(x + y)) + unknown

    def cover_path(self, x: Tensor, y: Tensor, s: Tensor) -> Tensor:
        """Of a great circle; between antipodes, of one of them."""
        cosine = x @ y
        across = y - cosine * x
        angle = s.to(x).unsqueeze(1) * torch.atan2(across.norm(), cosine)
        if across.norm() < 1e-6:
            axis = torch.eye(self.cover_dim).to(x)[x.abs().argmin()]
            across = axis - (axis @ x) * x
        return angle.cos() * x + angle.sin() * normalized(across)

    # --- features by invariant polynomials -----------------------------------------------------

    @found_once
    def _invariants(self) -> SphericalHarmonics:
        return embedding_invariants(self)

    def eigenspaces(self) -> Iterator[SphericalHarmonics]:
        parts: list[SphericalHarmonics] = []
        for degree in itertools.count(1):
            part = invariant_harmonics(self.elements, degree)
            if part is not None:
                parts.append(part)
                yield SphericalHarmonics.join(parts)

    @found_once
    def _search_grid(self) -> Tensor:
        return sphere_grid(self.cover_dim)

    @property
    def num_features(self) -> int:  # type: ignore[override]
        return self._invariants.num_features

    def embed(self, x: Tensor) -> Tensor:
        x = self._check_lift(x)
        return self._invariants(x)

    def retract(self, y: Tensor) -> Tensor:
        """Nearest point of the embedded space, by a grid search and Gauss-Newton steps."""
        y = self._check_features(y)
        return nearest_spherical_point(self, y)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SphericalSpaceForm):
            return NotImplemented
        if self.elements.shape != other.elements.shape:
            return False
        gaps = (self.elements.unsqueeze(1) - other.elements).abs().amax((-2, -1)).amin(1)
        return bool(gaps.max() < 1e-6)

    def __hash__(self) -> int:
        return hash((self.dim, self.num_sheets))

    def __repr__(self) -> str:
        return f"SphericalSpaceForm(dim={self.dim}, num_sheets={self.num_sheets})"


class Sphere(SphericalSpaceForm):
    """S^n covering itself: features are the coordinates.

    Example:
        >>> round(Sphere(2).volume / math.pi, 6)
        4.0
    """

    @plain
    def __init__(self, dim: int) -> None:
        super().__init__([torch.eye(positive_integer(dim, "dim") + 1, dtype=torch.float64)])

    num_features = property(lambda self: self.cover_dim)

    def embed(self, x: Tensor) -> Tensor:
        return self._check_lift(x)

    def retract(self, y: Tensor) -> Tensor:
        y = self._check_features(y)
        return normalized(y)

    def __repr__(self) -> str:
        return f"Sphere({self.dim})"


# --- helpers ---------------------------------------------------------------------------------------


def normalized(x: Tensor) -> Tensor:
    """Vectors scaled to length 1; 0 stays 0."""
    return x / x.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)


def pick(images: Tensor, index: Tensor) -> Tensor:
    """images[..., index, :], (..., m, d) -> (..., d)."""
    return images.gather(-2, index[..., None, None].expand(*index.shape, 1, images.shape[-1])).squeeze(-2)
