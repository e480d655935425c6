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
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from topoprior.utils.checks import real_tensor
from topoprior.utils.precision import without_autocast

if TYPE_CHECKING:
    from topoprior.spaces.deck import DeckGroup


# What every kind of space computes in the dtype of its points, whatever autocast says.
_EXACT = ("project", "lifts", "embed", "retract", "distance", "difference", "sample_uniform", "nearest_deck",
          "cover_path", "tangent", "geodesic")  # fmt: skip


class Covering(ABC):
    """A space base = cover / deck group. See the module's documentation for the convention of lifts.

    Attributes:
        dim: dimension of the base.
        cover_dim: number of coordinates of a lift.
        num_features: number of coordinates of :meth:`embed`.
        num_sheets: sheets over the base of the largest covering space that carries a uniform law.
        volume: volume of the base, ``inf`` where it is not compact.
        deck_group: the deck transformations: generators, relations, what generates all.
        shortest_loop: length of the shortest loop that cannot be drawn together, ``inf`` where every loop can.
        open_dim: number of directions in which the space is not compact.
        has_finite_group: whether :meth:`lifts` has all lifts, whatever the radius.
    """

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for name in _EXACT:
            if name in vars(cls):
                setattr(cls, name, without_autocast(vars(cls)[name]))

    dim: int
    cover_dim: int
    num_features: int
    num_sheets: int
    volume: float
    deck_group: DeckGroup
    shortest_loop: float
    open_dim: int = 0
    has_finite_group: bool = False

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
    def sample_uniform(
        self,
        shape: torch.Size,
        dtype: torch.dtype,
        device: torch.device | None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Lifts of points drawn uniformly from the base, shape (*shape, cover_dim)."""

    @abstractmethod
    def nearest_deck(self, x: Tensor, y: Tensor) -> Tensor:
        """The deck transformations that take the lifts ``y`` nearest to ``x``, both (..., cover_dim).

        Matrices [[A, t], [0, 1]] of x -> A x + t, (..., cover_dim + 1, cover_dim + 1), float64, on the CPU.
        """

    @abstractmethod
    def cover_path(self, x: Tensor, y: Tensor, s: Tensor) -> Tensor:
        """Points at s in [0, 1] (M,) of a shortest path of the cover between two lifts (cover_dim,), (M, cover_dim)."""

    @abstractmethod
    def generic_points(self, count: int) -> Tensor:
        """Lifts without symmetries, near 0 along open directions, the same every time, (count, cover_dim), float64."""

    def sample_window(self, count: int, reach: float, generator: torch.Generator | None = None) -> Tensor:
        """Uniform lifts, along open directions within ``reach`` of 0, (count, cover_dim), float64."""
        return self.sample_uniform(torch.Size([count]), torch.float64, torch.device("cpu"), generator)

    def eigenspaces(self) -> Iterator[Any]:
        """The lowest invariant harmonics without the constant, ever more of them, eigenspace by eigenspace.

        Raises:
            TypeError: a space whose harmonics are not known.
        """
        raise TypeError(f"space: expected a flat manifold or a spherical space form, found {self!r}")

    def low_harmonics(self, count: int) -> Any:
        """At least ``count`` of the lowest of them."""
        return next(lowest for lowest in self.eigenspaces() if lowest.num_features >= count)

    def same_point(self, x: Tensor, y: Tensor, atol: float = 1e-5) -> Tensor:
        """Whether ``x`` and ``y`` are lifts of one point, up to distance ``atol``. Shape (...)."""
        return self.distance(x, y) <= atol

    def _move(self, x: Tensor, v: Tensor) -> Tensor:
        """The lift that the tangent vector ``v`` leads to from ``x``, to first order."""
        return x + v

    # --- motion on the cover -------------------------------------------------------------------

    #: Whether the cover is R^n, so that geodesics are straight lines.
    is_flat: bool = False

    def tangent(self, x: Tensor, v: Tensor) -> Tensor:
        """The part of the vector ``v`` that is tangent to the cover at ``x``, (..., cover_dim)."""
        self._check_lift(x)
        return self._check_lift(v, "v")

    def geodesic(self, x: Tensor, v: Tensor, t: float) -> tuple[Tensor, Tensor]:
        """Point and velocity at time ``t`` of the geodesic of the cover from ``x`` with tangent velocity ``v``.

        Deck transformations are isometries: they carry geodesics to geodesics.
        """
        return x + t * v, v

    def metric_axes(self) -> list[list[int]]:
        """Groups of coordinates of the cover that deck transformations (or its curvature) mix: a diagonal metric that
        is one number in each group is the same on all sheets."""
        return [list(range(self.cover_dim))]

    def _check_lift(self, x: Tensor, name: str = "x") -> Tensor:
        x = real_tensor(name, x)
        if x.shape[-1:] != (self.cover_dim,):
            raise ValueError(
                f"{name}: expected shape (..., {self.cover_dim}), a lift to the cover of {self!r}, "
                f"found {tuple(x.shape)}"
            )
        return x

    def _known_pair(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Two lifts in float64 on the CPU, and 0 where all their numbers are finite, NaN elsewhere, (..., 1, 1)."""
        x, y = (self._check_lift(p, name).detach().double().cpu() for p, name in ((x, "x"), (y, "y")))
        known = (x - y).isfinite().all(-1)[..., None, None]
        return x, y, torch.zeros(known.shape, dtype=x.dtype, device="cpu").masked_fill(~known, math.nan)

    def _check_features(self, y: Tensor) -> Tensor:
        y = real_tensor("y", y)
        if y.shape[-1:] != (self.num_features,):
            raise ValueError(
                f"y: expected shape (..., {self.num_features}), features of {self!r}, "
                f"found {tuple(y.shape)}"
            )
        # An angle of infinity is a number to atan2, but no point has such features.
        return torch.where(y.isinf(), math.nan, y)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


def safe_sqrt(squared: Tensor) -> Tensor:
    """The square root, with gradient 0 at 0 (a subgradient of a distance); NaN stays NaN."""
    zero = squared == 0
    return torch.where(zero, 1.0, squared).sqrt() * ~zero
