"""Priors of several kernel sizes under one name."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from topoprior.priors.base import Shape, WeightPosterior, WeightPrior
from topoprior.priors.coordinates import Coordinates
from topoprior.priors.decoded.prior import DecoderPrior
from topoprior.priors.registry import get_prior, priors_serving, register_prior


class PriorFamily(WeightPrior):
    """Of several priors, for weights of every shape the first that serves it.

    Args:
        priors: names, folders or priors.

    Raises:
        ValueError: none given; in its methods, weights that no member serves.

    Example:
        >>> family = PriorFamily("klein-3x3", "klein-5x5")
        >>> family.for_shape((8, 3, 5, 5)).name, family.serves((8, 3, 1, 1))
        ('klein-5x5', False)
    """

    def __init__(self, *priors: Any) -> None:
        if not priors:
            raise ValueError("priors: expected one or more, found none")
        self.members = tuple(get_prior(prior) for prior in priors)

    @property
    def gain(self) -> float | None:
        """That of its members, if they agree."""
        gains = {getattr(member, "gain", None) for member in self.members}
        return gains.pop() if len(gains) == 1 else None

    def serves(self, shape: Shape) -> bool:
        return any(member.serves(shape) for member in self.members)

    def for_shape(self, shape: Shape) -> WeightPrior:
        for member in self.members:
            if member.serves(shape):
                return member
        found = f"{'x'.join(map(str, shape[2:]))} kernels" if len(shape) > 2 else "a linear layer"
        raise ValueError(
            f"kernel_size: none of {self!r} serves {found}; priors that fit: {', '.join(priors_serving(shape))}"
        )

    def posterior(
        self, shape: Shape, *, device: Any = None, dtype: torch.dtype | None = None
    ) -> WeightPosterior:
        return self.for_shape(shape).posterior(shape, device=device, dtype=dtype)

    def coordinates(
        self, shape: Shape, *, device: Any = None, dtype: torch.dtype | None = None
    ) -> Coordinates:
        return self.for_shape(shape).coordinates(shape, device=device, dtype=dtype)

    def kernel_covariance(self, shape: Shape) -> Tensor:
        return self.for_shape(shape).kernel_covariance(shape)

    def sample(self, shape: Shape) -> Tensor:
        return self.for_shape(shape).sample(shape)

    def __repr__(self) -> str:
        return f"PriorFamily({', '.join(member.name or repr(member) for member in self.members)})"


_KLEIN = ("klein-3x3", "klein-5x5", "klein-7x7")


def _klein() -> PriorFamily:
    family = PriorFamily(*map(DecoderPrior.from_pretrained, _KLEIN))
    family.name = "klein"
    return family


register_prior("klein", _klein)
