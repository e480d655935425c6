"""Which dtypes weights have, and modules that refuse the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from typing_extensions import Self

#: Real numbers that sums and logarithms can be computed of.
REAL_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_dtype(name: str, given: torch.dtype | Tensor | None) -> None:
    """A :class:`TypeError` for dtypes other than real floating-point numbers of 16 bits or more; None is torch's default."""
    dtype = (
        given.dtype if isinstance(given, Tensor) else torch.get_default_dtype() if given is None else given
    )
    if dtype not in REAL_DTYPES:
        expected = ", ".join(str(known).removeprefix("torch.") for known in REAL_DTYPES)
        raise TypeError(f"{name}: expected dtype {expected}, found {dtype}")


class RealModule(nn.Module):
    """A module of real numbers, in the making and in ``to``: a refusal changes nothing.

    Example:
        >>> RealModule(torch.complex64)
        Traceback (most recent call last):
        TypeError: dtype: expected dtype float16, bfloat16, float32, float64, found torch.complex64
    """

    def __init__(self, dtype: torch.dtype | None = None) -> None:
        check_dtype("dtype", dtype)
        super().__init__()

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        parameter = next(self.parameters(), None)  # asked of one number first
        if parameter is not None:
            check_dtype(type(self).__name__, fn(parameter.detach().new_zeros(1)))
        return super()._apply(fn, recurse)
