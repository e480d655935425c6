"""Step sizes that fall again and again, for Langevin dynamics on minibatches."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from topoprior.utils.checks import check_fraction, check_int, check_positive


def cyclical(
    lr: float, cycle: int, explore: float = 0.25
) -> tuple[Callable[[Any], float], Callable[[Any], float]]:
    r"""Schedules of cyclical SGLD: step size and temperature as functions of the step, counted from 0.

    At the fraction t in [0, 1) of a cycle the step size is lr (1 + cos(pi t)) / 2. While t is below ``explore`` the temperature is 0: long steps
    without noise look for another mode. From there on it is 1, and draws are those of Langevin dynamics.

    Args:
        lr: of a cycle's first step, in units in which the prior has unit variance: a step moves by lr times the gradient of the log joint.
        cycle: steps.
        explore: fraction of a cycle without noise.

    Raises:
        TypeError: ``cycle`` is no int.
        ValueError: numbers out of range.

    Source: Zhang et al. 2020 (cyclical stochastic gradient MCMC).

    Example: for the library posteriors, whose draws are kept where the temperature is 1.
        >>> rate, temperature = cyclical(1e-3, cycle=100)
        >>> [rate(step) for step in (0, 50, 100)], [temperature(step) for step in (0, 24, 25, 99, 100)]
        ([0.001, 0.0005, 0.001], [0.0, 0.0, 1.0, 1.0, 0.0])
    """
    lr, cycle, explore = (
        check_positive("lr", lr),
        check_int("cycle", cycle, 2),
        check_fraction("explore", explore),
    )

    def rate(step: Any) -> float:
        return lr * (1 + math.cos(math.pi * (int(step) % cycle) / cycle)) / 2

    def temperature(step: Any) -> float:
        return float(int(step) % cycle >= explore * cycle)

    return rate, temperature
