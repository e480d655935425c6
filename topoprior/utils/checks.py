"""Checks of numbers that a user gives: TypeError for another kind, ValueError out of range, and both name the argument."""

from __future__ import annotations

import hashlib
import math
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from topoprior.utils.real_module import REAL_DTYPES
from topoprior.utils.tracing import values_known


def check_module(model: Any) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, found {type(model).__name__}")


def check_number(name: str, value: Any) -> float:
    """A real number as a float: also numpy's, or a tensor of one element; no string, no bool."""
    try:
        if not isinstance(value, str | bytes | bool):
            return float(value)
    except (TypeError, ValueError, RuntimeError):  # the last from a tensor of several elements
        pass
    raise TypeError(f"{name}: expected a number, found {value!r}")


def check_positive(name: str, value: float, *, zero: bool = False) -> float:
    """A positive finite number; 0 too if ``zero``."""
    value = check_number(name, value)
    if not math.isfinite(value) or value < 0 or (value == 0 and not zero):
        expected = "a number, at least 0" if zero else "a positive number"
        raise ValueError(f"{name}: expected {expected}, found {value}")
    return value


def check_fraction(name: str, value: float) -> float:
    value = check_number(name, value)
    if not 0 <= value < 1:
        raise ValueError(f"{name}: expected a number in [0, 1), found {value}")
    return value


def check_int(name: str, value: Any, least: int = 1) -> int:
    """A whole number as an int: also numpy's; no bool, no float."""
    try:
        found = operator.index(value)
    except TypeError:
        found = None
    if found is None or isinstance(value, bool):
        raise TypeError(f"{name}: expected an int, found {value!r}")
    if found < least:
        raise ValueError(f"{name}: expected at least {least}, found {found}")
    return found


def real_tensor(name: str, x: Any) -> Tensor:
    """A tensor of real numbers, integers as the default dtype (as torch's division has it); TypeError for all else."""
    if not isinstance(x, Tensor) or x.is_complex() or not _has_digits(x):
        found = f"a tensor of {x.dtype}" if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"{name}: expected a torch.Tensor of real numbers, found {found}")
    return x if x.is_floating_point() else x.to(torch.get_default_dtype())


def _has_digits(x: Tensor) -> bool:
    """Whether numbers are integers or have 16 bits or more: torch computes nothing in 8."""
    return not x.is_floating_point() or x.dtype in REAL_DTYPES


def positive_integer(value: int, name: str) -> int:
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{name}: expected a positive integer, found {value!r}")
    return value


def check_data(
    name: str,
    x: Any,
    *,
    shape: Sequence[int] | None = None,
    dtype: torch.dtype | None = None,
    unit: bool = False,
) -> None:
    """Data (N, ...) have to be a tensor of finite floating-point numbers, at least one example.

    Args:
        shape: of one example.
        dtype: that of the model, which data have to share.
        unit: whether values have to be in [0, 1], as the Bernoulli likelihood needs.

    Raises:
        TypeError: no tensor, no floating-point numbers, or another dtype.
        ValueError: no examples, another shape, values out of range or not finite.

    Example:
        >>> check_data("x", torch.tensor([[0.5, 2.0]]), unit=True)
        Traceback (most recent call last):
        ValueError: x: expected values in [0, 1] for the Bernoulli likelihood, found 0.5 to 2
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: expected a torch.Tensor, found {type(x).__name__}")
    if x.dtype not in REAL_DTYPES:
        raise TypeError(f"{name}: expected floating-point numbers, found {x.dtype}")
    if dtype is not None and x.dtype != dtype:
        raise TypeError(f"{name}: expected {dtype}, as the model's parameters, found {x.dtype}")
    if shape is not None and (x.dim() != len(shape) + 1 or tuple(x.shape[1:]) != tuple(shape)):
        raise ValueError(f"{name}: expected shape (N, {_listed(shape)}), found {tuple(x.shape)}")
    if x.dim() < 1 or x.numel() == 0:
        raise ValueError(f"{name}: expected at least one example, found shape {tuple(x.shape)}")
    check_values(name, x, unit=unit)


def real_data(name: str, x: Any) -> Tensor:
    """:func:`real_tensor` of finite numbers, at least one example."""
    x = real_tensor(name, x)
    check_data(name, x)
    return x


def check_values(name: str, x: Tensor, *, unit: bool = False) -> None:
    """Values have to be finite, and in [0, 1] if ``unit``: two numbers are read, whatever the size.

    Inside torch.compile and torch.func there are no values to read, and nothing is checked.
    """
    if not values_known(x) or x.numel() == 0:
        return
    low, high = torch.stack(torch.aminmax(x.detach())).tolist()  # NaN is passed on
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"{name}: expected finite values, found NaN or infinity")
    if unit and not (low >= 0 and high <= 1):
        raise ValueError(
            f"{name}: expected values in [0, 1] for the Bernoulli likelihood, found {low:g} to {high:g}"
        )


def fingerprint(x: Tensor | None) -> str:
    """Shape, dtype and a hash of all values in their order; "none" for None.

    Example:
        >>> fingerprint(torch.zeros(2)) == fingerprint(torch.zeros(2))
        True
        >>> fingerprint(torch.tensor([0.0, 1.0])) == fingerprint(torch.tensor([1.0, 0.0]))
        False
    """
    if x is None:
        return "none"
    data = x.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
    return f"{tuple(x.shape)} {x.dtype} {hashlib.sha256(data.data).hexdigest()[:16]}"


def _listed(shape: Sequence[int]) -> str:
    return ", ".join(map(str, shape))
