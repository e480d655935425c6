"""What paired seeds say: intervals, the paired t-test, Holm's correction for many comparisons."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

# Two-sided 95% quantiles of Student's t with 1, 2, ... degrees of freedom.
_T95 = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281)


class Interval(NamedTuple):
    """Mean over seeds and half the width of its 95% interval, None where one seed says nothing of it."""

    mean: float
    half_width: float | None

    def __str__(self) -> str:
        digits = 1 if abs(self.mean) >= 10 else 4
        mean = f"{self.mean:.{digits}f}"
        return mean if self.half_width is None else f"{mean} ± {self.half_width:.{digits}f}"


def interval(values: Sequence[float]) -> Interval:
    """Student's interval: mean ± t s / sqrt(n).

    Example:
        >>> print(interval([0.80, 0.82, 0.84]))
        0.8200 ± 0.0497
    """
    count = len(values)
    mean = math.fsum(values) / count
    if count == 1:
        return Interval(mean, None)
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    return Interval(mean, t_quantile(count - 1) * math.sqrt(variance / count))


def t_quantile(degrees: int) -> float:
    """Two-sided 95% quantile of Student's t: from the table, then by expansion around the normal."""
    if degrees <= len(_T95):
        return _T95[degrees - 1]
    z = 1.959964
    first = (z**3 + z) / (4 * degrees)
    second = (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * degrees**3)
    return z + first + second + third


class Paired(NamedTuple):
    """Mean difference over seeds, half its 95% interval, two-sided p-value, how many seeds."""

    mean: float
    half_width: float | None
    p: float | None
    seeds: int

    @property
    def excludes_zero(self) -> bool:
        return self.half_width is not None and abs(self.mean) > self.half_width


def paired_t_test(differences: Sequence[float]) -> Paired:
    """Student's paired test that the mean difference is 0.

    One seed says nothing of the spread: no interval, no p. Differences that are all equal have p = 0, or 1
    where they are all 0.

    Example:
        >>> result = paired_t_test([0.02, 0.03, 0.01, 0.02])
        >>> round(result.mean, 4), round(result.p, 4)
        (0.02, 0.0163)
    """
    from scipy import stats  # takes a second to import

    mean, half_width = interval(differences)
    count = len(differences)
    if half_width is None:
        return Paired(mean, None, None, count)
    variance = math.fsum((d - mean) ** 2 for d in differences) / (count - 1)
    if variance == 0:
        return Paired(mean, 0.0, float(mean == 0), count)
    return Paired(
        mean, half_width, float(2 * stats.t.sf(abs(mean) / math.sqrt(variance / count), count - 1)), count
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values: rejecting those below 5% makes one false rejection among all at most 5% likely.

    Source: Holm 1979. The i-th smallest of m is multiplied by m - i + 1, and none may fall below the one before.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted
