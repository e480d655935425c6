"""Underdamped Langevin dynamics on a cover: fast, with a small bias and no accept step."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from topoprior.inference.hmc import Move, Point, kinetic, noise
from topoprior.inference.potential import Potential
from topoprior.inference.tuning import Tuning
from topoprior.utils.checks import check_positive

_LOST = 10.0  # nats of energy error, beside one a degree of freedom


class BAOAB:
    r"""One gradient a step: half a kick, half a drift, friction and noise, half a drift, half a kick.

    .. math:: dq = v\, dt, \qquad dv = -M^{-1} \nabla U\, dt - \gamma v\, dt + \sqrt{2 \gamma} M^{-1/2}\, dW

    No accept step corrects the discretization, whose bias in q is of order step^2, and of order step^4 where friction
    is high; on a Gaussian it is 0. The step is tuned so that the energy error of a step has variance ``energy_error`` a
    degree of freedom; one that is off by a nat a degree of freedom counts as divergent. The kinetic temperature, taken
    after the noise, is 1 for an exact sampler.

    Args:
        friction: gamma, in units in which M = 1.
        energy_error: 5e-4 is a step of about .35 on a standard normal with friction 1.

    Raises:
        ValueError: numbers that are not positive.

    Source: Leimkuhler and Matthews 2013 (BAOAB); the step's criterion: Robnik et al. 2023 (microcanonical HMC).
    """

    start_step = 0.01

    def __init__(self, friction: float = 1.0, energy_error: float = 5e-4) -> None:
        self.friction = check_positive("friction", friction)
        self.energy_error = check_positive("energy_error", energy_error)

    def step(
        self, potential: Potential, tuning: Tuning, point: Point, v: Tensor, generator: torch.Generator
    ) -> Move:
        mass, space, h = tuning.mass, potential.space, tuning.step_size
        before = kinetic(mass, v)
        v = torch.addcdiv(v, point.gradient, mass, value=-h / 2)
        error = kinetic(mass, v) - before
        q, v = space.drift(point.q, v, h / 2)
        keep = math.exp(-self.friction * h)
        kick = space.tangent(q, noise(generator, v) / mass.sqrt())
        v = keep * v + math.sqrt(1 - keep**2) * kick
        temperature = kinetic(mass, v)
        q, v = space.drift(q, v, h / 2)
        end = Point(q, *potential(q))
        v = torch.addcdiv(v, end.gradient, mass, value=-h / 2)
        error += end.energy - point.energy + kinetic(mass, v) - temperature
        # A bound far above what is aimed at, sqrt(energy_error * degrees of freedom): such a step falls or explodes.
        fine = abs(error) < _LOST + space.degrees_of_freedom and bool(end.gradient.isfinite().all())
        squared = error**2 / space.degrees_of_freedom / self.energy_error if fine else math.inf
        return Move(
            end,
            v,
            0.03 * (min(squared, 6.0) - 1),  # a noisy number: a small gain
            1.0,
            not fine,
            2 * temperature / space.degrees_of_freedom,
        )
