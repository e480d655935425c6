"""What a sampler learns during warm-up: its step and its mass."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from topoprior.inference.geometry import StateSpace

_WINDOWS = (
    0.15,
    0.25,
    0.45,
    0.9,
)  # of the warm-up: nothing is learned of the mass before the first and after the last
_GAMMA, _SHIFT, _KAPPA = 0.05, 10.0, 0.75  # of dual averaging, as in Stan


class Tuning:
    r"""Step size by dual averaging, diagonal mass by mean squared gradients.

    Under the posterior E[g_i^2] = E[d^2 U / d q_i^2], integrated by parts: without boundary there is nothing else. So
    the mean squared gradient is the expected curvature, the mass in whose units the posterior has about unit scale in
    every direction. A deck transformation leaves it unchanged, where the variance of a lift that drifts
    means nothing. It is at least the prior's precision. The estimate starts afresh at 15, 25 and 45 percent of the
    warm-up and ends at 90.

    The step's dual averaging lowers |mean of ``error``|, a number that is positive where the step is too long.

    Source: Hoffman and Gelman 2014 (NUTS), section 3.2; the mass from gradients: Tran and Kleppe 2024.
    """

    def __init__(self, space: StateSpace, warmup: int, step_size: float, like: Tensor) -> None:
        self.space, self.warmup = space, warmup
        self.mass = space.stiffness.to(like)
        self._sum = torch.zeros_like(self.mass)
        self._count = 0
        self.log_step = math.log(step_size)
        self._restart()

    def _restart(self) -> None:
        self._center, self._error, self._log_average, self._steps = self.log_step + math.log(2), 0.0, 0.0, 0

    @property
    def step_size(self) -> float:
        return math.exp(self.log_step)

    def update(self, iteration: int, error: float, gradient: Tensor) -> None:
        """After iteration 0, 1, ... of the warm-up."""
        self._update_step(error)
        ends = [round(part * self.warmup) for part in _WINDOWS]
        if ends[0] <= iteration < ends[-1]:
            self._sum.addcmul_(gradient, gradient)
            self._count += 1
        if iteration + 1 in ends[1:] and self._count >= 5:
            # As if the prior's precision had been seen a few times.
            shrunk = (self._sum + 5 * self.space.stiffness.to(self._sum)) / (self._count + 5)
            self.mass = torch.maximum(self.space.pool(shrunk), self.space.stiffness.to(shrunk))
            self._sum.zero_()
            self._count = 0
            self._restart()
        if iteration + 1 == self.warmup and self._steps:
            self.log_step = self._log_average

    def _update_step(self, error: float) -> None:
        self._steps += 1
        rate = 1 / (self._steps + _SHIFT)
        self._error += rate * (error - self._error)
        self.log_step = self._center - math.sqrt(self._steps) / _GAMMA * self._error
        weight = self._steps**-_KAPPA
        self._log_average += weight * (self.log_step - self._log_average)

    def state(self) -> dict[str, Tensor]:
        numbers = [self.log_step, self._center, self._error, self._log_average, self._steps, self._count]
        return {
            "mass": self.mass,
            "sum": self._sum,
            "tuning": torch.tensor(numbers, dtype=torch.float64),
        }

    def load(self, state: dict[str, Tensor]) -> None:
        self.mass, self._sum = state["mass"].to(self.mass), state["sum"].to(self.mass)
        numbers = state["tuning"].tolist()
        self.log_step, self._center, self._error, self._log_average = numbers[:4]
        self._steps, self._count = int(numbers[4]), int(numbers[5])
