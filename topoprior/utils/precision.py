"""Which precision a sum needs."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

_P = ParamSpec("_P")
_T = TypeVar("_T")
_DEVICES = ("cpu", "cuda")


def at_least_float32(x: Tensor) -> Tensor:
    """Half precision has too few digits for a sum of squares, and float16 ends at 65,504."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def autocast_dtype(x: Tensor) -> torch.dtype:
    """What autocast, where it is on, makes of ``x`` before a convolution or matrix product."""
    kind = x.device.type
    narrowed = x.dtype == torch.float32 and kind in _DEVICES and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if narrowed else x.dtype


def without_autocast(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """``function``, computed in the dtype of its arguments: autocast, which rounds every matrix product to half
    precision, is for networks, not for points and densities.

    Example:
        >>> product = without_autocast(torch.matmul)
        >>> x = torch.ones(2, 2)
        >>> with torch.autocast("cpu", torch.bfloat16):
        ...     (x @ x).dtype, product(x, x).dtype
        (torch.bfloat16, torch.float32)
    """

    @functools.wraps(function)
    def wrapper(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        for device in _DEVICES:
            if torch.is_autocast_enabled(device):
                with torch.autocast(device, enabled=False):
                    return wrapper(*args, **kwargs)
        return function(*args, **kwargs)

    return wrapper
