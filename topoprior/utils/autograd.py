"""Helpers of functions that compute their gradient with their value."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

BLOCK = 2**15  # elements


def then(x: Tensor, operation: str, *arguments: Any, **options: Any) -> Tensor:
    """x.operation(...), in place where nothing is differentiated. For tensors that the caller has made."""
    return getattr(x, operation if torch.is_grad_enabled() else operation + "_")(*arguments, **options)


def batches_first(in_dims: Sequence[int | None], *tensors: Tensor) -> list[Tensor]:
    """For the ``vmap`` of an elementwise function, which takes the batch as one more dimension."""
    return [x.unsqueeze(0) if d is None else x.movedim(d, 0) for x, d in zip(tensors, in_dims, strict=True)]


def in_blocks(function: Callable[..., tuple[Tensor, ...]], *tensors: Tensor) -> tuple[Tensor, ...]:
    """An elementwise function of tensors of one shape. A CPU takes pieces that stay in its cache."""
    like = tensors[0]
    if like.numel() <= BLOCK or like.device.type != "cpu" or torch.compiler.is_compiling():
        return function(*tensors)
    pieces = zip(*(x.reshape(-1).split(BLOCK) for x in tensors), strict=True)
    results = zip(*(function(*piece) for piece in pieces), strict=True)
    return tuple(torch.cat(parts).view(like.shape) for parts in results)
