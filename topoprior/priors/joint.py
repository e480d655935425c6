"""Draws of several posteriors as one: in networks of many small layers the number of operations is what costs."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from topoprior.priors.base import WeightPosterior

# Numbers of a parameter up to which posteriors are drawn together: a block of work of a decoded layer. Larger
# layers are as fast alone.
MOST = 2**17


def rsample_all(posteriors: Sequence[WeightPosterior]) -> list[Tensor]:
    """A draw of each, in order; those of one :meth:`~topoprior.priors.base.WeightPosterior.joint_key` as one."""
    found: dict[int, Tensor] = {}
    for group in _groups(posteriors):
        some = [posteriors[i] for i in group]
        draws = [some[0].rsample()] if len(some) == 1 else type(some[0]).rsample_jointly(some)
        found.update(zip(group, draws, strict=True))
    return [found[i] for i in range(len(posteriors))]


def joined(parameters: Sequence[Tensor], dims: int = 0) -> Tensor:
    """Parameters side by side, (..., n), flattened but for their first ``dims`` dimensions."""
    return torch.cat([parameter.flatten(dims) for parameter in parameters], dims)


def _groups(posteriors: Sequence[WeightPosterior]) -> list[list[int]]:
    """Positions: each in one group, which is no larger than ``MOST``."""
    found: list[list[int]] = []
    open_: dict[Hashable, tuple[list[int], int]] = {}
    for i, posterior in enumerate(posteriors):
        key: Any = posterior.joint_key()
        if key is None:
            found.append([i])
            continue
        size = next(posterior.parameters()).numel()
        group, total = open_.get(key, ([], MOST))
        if total + size > MOST:
            group, total = [], 0
            found.append(group)
        group.append(i)
        open_[key] = group, total + size
    return found
