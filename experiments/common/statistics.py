"""What paired seeds say: intervals, the paired t-test, Holm's correction for many comparisons."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Interval(NamedTuple):
    """Mean over seeds and half the width of its 95% interval, None where one seed says nothing of it."""

    mean: float
    half_width: float | None

    def __str__(self) -> str:
        if self.half_width == 0 and self.mean.is_integer():  # a count, which no seed changes
            return f"{self.mean:.0f}"
        digits = 1 if abs(self.mean) >= 10 else 4
        mean = f"{self.mean:.{digits}f}"
        return mean if self.half_width is None else f"{mean} ± {self.half_width:.{digits}f}"


def interval(values: Sequence[float]) -> Interval:
    """Student's interval: mean ± t s / sqrt(n).

    Example:
        >>> print(interval([0.80, 0.82, 0.84]))
        0.8200 ± 0.0497
    """
    from scipy import stats  # takes a second to import

    mean, count = float(np.mean(values)), len(values)
    if count == 1:
        return Interval(mean, None)
    return Interval(mean, float(stats.t.ppf(0.975, count - 1) * np.std(values, ddof=1) / math.sqrt(count)))


class Paired(NamedTuple):
    """Mean difference over seeds, half its 95% interval, two-sided p-value, how many seeds."""

    mean: float
    half_width: float | None
    p: float | None
    seeds: int

    @property
    def excludes_zero(self) -> bool:
        return self.half_width is not None and abs(self.mean) > self.half_width


def paired_t_test(first: Sequence[float], second: Sequence[float]) -> Paired:
    """Student's paired test that first and second have the same mean.

    One seed says nothing of the spread: no interval, no p. Differences that are all equal have p = 0, or 1
    where they are all 0.

    Example:
        >>> result = paired_t_test([0.82, 0.83, 0.81, 0.82], [0.80, 0.80, 0.80, 0.80])
        >>> round(result.mean, 4), round(result.p, 4)
        (0.02, 0.0163)
    """
    from scipy import stats

    differences = np.subtract(first, second)
    mean, half_width = interval(differences.tolist())
    if half_width is None:
        return Paired(mean, None, None, len(differences))
    if np.ptp(differences) <= 1e-12 * abs(mean):  # scipy's p would be NaN, or a matter of rounding
        return Paired(mean, 0.0, float(mean == 0), len(differences))
    return Paired(mean, half_width, float(stats.ttest_rel(first, second).pvalue), len(differences))


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
