"""Checks of numbers that a user gives: TypeError for another kind, ValueError out of range, and both name the argument."""

from __future__ import annotations

import math
import operator
from typing import Any


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
