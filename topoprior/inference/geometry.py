"""Where a chain lives: all coordinates side by side in one vector, curved parts known by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from topoprior.priors.coordinates import Part
from topoprior.spaces.covering import Covering


@dataclass(frozen=True)
class Block:
    """One part's place in the vector."""

    name: str
    shape: torch.Size
    first: int
    space: Covering | None

    @property
    def where(self) -> slice:
        return slice(self.first, self.first + self.shape.numel())


class StateSpace:
    r"""The cover on which a sampler runs: a product of lines, flat covers and spheres.

    A state is a vector q of all coordinates. Flat parts drift on straight lines, without boundary or change of
    chart, for a deck transformation changes neither densities nor lengths; points of spheres drift on great
    circles. The metric is diagonal and the same on all sheets: one number where deck transformations mix
    coordinates (:meth:`~topoprior.Covering.metric_axes`).

    Args:
        parts: shapes and laws by name, as of :class:`~topoprior.priors.Coordinates`.

    Attributes:
        size: length of the vector.
        degrees_of_freedom: of the motion; a point of S^n has n, and n + 1 coordinates.
        stiffness: (size,), prior precision of a coordinate, the least mass that it may have: 1 where the law has unit
            variance; 12 / period^2 and n + 1, those of uniform laws on a circle and on S^n.

    Example:
        >>> import topoprior as tp
        >>> from topoprior.priors import Uniform
        >>> space = StateSpace({"z": Part(torch.Size([5, 3]), Uniform(tp.Sphere(2)))})
        >>> space.size, space.degrees_of_freedom
        (15, 10)
    """

    def __init__(self, parts: Mapping[str, Part]) -> None:
        self.parts = dict(parts)
        self.blocks: list[Block] = []
        self.size = self.degrees_of_freedom = 0
        for name, part in self.parts.items():
            space = part.law.space
            self.blocks.append(Block(name, part.shape, self.size, space))
            numbers = part.shape.numel()
            self.size += numbers
            self.degrees_of_freedom += numbers if space is None else numbers // space.cover_dim * space.dim
        self.curved = [
            block for block in self.blocks if block.space is not None and not block.space.is_flat
        ]
        self.stiffness = torch.ones(self.size, dtype=torch.float64)
        for block in self.blocks:
            if block.space is not None:
                rows = self.stiffness[block.where].view(-1, block.space.cover_dim)
                rows.copy_(_uniform_precision(block.space))

    def flatten(self, x: Mapping[str, Tensor]) -> Tensor:
        """The vector of named parts."""
        return torch.cat([x[block.name].reshape(-1) for block in self.blocks])

    def unflatten(self, q: Tensor) -> dict[str, Tensor]:
        """Named parts of a vector (size,), or of many, (..., size)."""
        pieces = q.split([block.shape.numel() for block in self.blocks], -1)
        return {
            block.name: piece.unflatten(-1, block.shape) if block.shape else piece.squeeze(-1)
            for block, piece in zip(self.blocks, pieces, strict=True)
        }

    def _points(self, x: Tensor, block: Block) -> Tensor:
        assert block.space is not None
        return x[block.where].view(-1, block.space.cover_dim)

    def tangent(self, q: Tensor, v: Tensor) -> Tensor:
        """The part of ``v`` tangent at ``q``."""
        if not self.curved:
            return v
        v = v.clone()
        for block in self.curved:
            assert block.space is not None
            points = self._points(v, block)
            points.copy_(block.space.tangent(self._points(q, block), points))
        return v

    def drift(self, q: Tensor, v: Tensor, t: float) -> tuple[Tensor, Tensor]:
        """Position and velocity after time ``t`` without force."""
        moved = torch.add(q, v, alpha=t)
        if self.curved:
            velocity = v.clone()
            for block in self.curved:
                assert block.space is not None
                points, speeds = block.space.geodesic(self._points(q, block), self._points(v, block), t)
                self._points(moved, block).copy_(points)
                self._points(velocity, block).copy_(speeds)
            v = velocity
        return moved, v

    def project(self, q: Tensor) -> Tensor:
        """The same point with every lift in the fundamental domain."""
        q = q.clone()
        for block in self.blocks:
            if block.space is not None:
                points = self._points(q, block)
                points.copy_(block.space.project(points))
        return q

    def pool(self, x: Tensor) -> Tensor:
        """Means of ``x`` over the coordinates that have to share one mass."""
        x = x.clone()
        for block in self.blocks:
            if block.space is not None:
                points = self._points(x, block)
                for axes in block.space.metric_axes():
                    points[:, axes] = points[:, axes].mean(1, keepdim=True)
        return x

    def describe(self, bad: Tensor) -> str:
        """Names of the parts with a True in ``bad``, for messages."""
        return ", ".join(block.name for block in self.blocks if bad[block.where].any())


def _uniform_precision(space: Covering) -> Tensor:
    """1 / variance of every coordinate under the uniform law, averaged as a metric has to be."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        x = space.sample_uniform(torch.Size([4096]), torch.float64, torch.device("cpu"))
    variance = x.var(0)
    for axes in space.metric_axes():
        variance[axes] = variance[axes].mean()
    return 1 / variance
