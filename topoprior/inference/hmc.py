"""Hamiltonian Monte Carlo on a cover: exact, with an accept step."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from topoprior.inference.potential import Potential
from topoprior.inference.tuning import Tuning
from topoprior.utils.checks import check_fraction, check_int, check_positive

_DIVERGED = 1000.0  # nats of energy error: the trajectory has left the level set


class Point(NamedTuple):
    """A state with its energy and gradient."""

    q: Tensor
    energy: float
    gradient: Tensor


class Move(NamedTuple):
    """What a sampler's step returns: the next state and what is to be recorded."""

    point: Point
    velocity: Tensor
    error: float  # of the step size, for Tuning: positive where it is too long
    acceptance: float
    divergent: bool
    temperature: float


def noise(generator: torch.Generator, like: Tensor) -> Tensor:
    """Standard normal numbers from a generator of the CPU, on the device of ``like``."""
    return torch.randn(like.shape, generator=generator, dtype=like.dtype).to(like.device)


def kinetic(mass: Tensor, velocity: Tensor) -> float:
    return 0.5 * (mass * velocity).dot(velocity).item()


class HMC:
    r"""Leapfrog trajectories of geodesics and kicks, accepted with probability min(1, exp(-Delta H)).

    H(q, v) = U(q) + v^T M v / 2. The velocity is drawn afresh for every trajectory; its length is the uniform jitter
    (0, 1] times ``trajectory``, in units in which M = 1, so that no period is met.

    Args:
        trajectory: pi / 2 carries a standard normal to an independent draw.
        target: mean acceptance that the step is tuned to.
        max_steps: of one trajectory.

    Raises:
        ValueError: numbers out of range.

    Source: Duane et al. 1987; on manifolds: Byrne and Girolami 2013 (geodesic Monte Carlo).
    """

    start_step = 0.05

    def __init__(self, trajectory: float = math.pi / 2, target: float = 0.8, max_steps: int = 100) -> None:
        self.trajectory = check_positive("trajectory", trajectory)
        self.target = check_fraction("target", target)
        self.max_steps = check_int("max_steps", max_steps)

    def integrate(
        self, potential: Potential, mass: Tensor, point: Point, v: Tensor, step: float, count: int
    ) -> tuple[Point, Tensor]:
        """``count`` leapfrog steps; stops early where the energy is not finite."""
        space = potential.space
        for _ in range(count):
            v = torch.addcdiv(v, point.gradient, mass, value=-step / 2)
            q, v = space.drift(point.q, v, step)
            point = Point(q, *potential(q))
            v = torch.addcdiv(v, point.gradient, mass, value=-step / 2)
            if not math.isfinite(point.energy):
                break
        return point, v

    def step(
        self, potential: Potential, tuning: Tuning, point: Point, v: Tensor, generator: torch.Generator
    ) -> Move:
        mass, space = tuning.mass, potential.space
        v = space.tangent(point.q, noise(generator, v) / mass.sqrt())
        jitter, uniform = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
        wanted = math.ceil((1 - jitter) * self.trajectory / tuning.step_size)
        before = kinetic(mass, v)
        end, w = self.integrate(
            potential, mass, point, v, tuning.step_size, min(max(1, wanted), self.max_steps)
        )
        error = end.energy + kinetic(mass, w) - point.energy - before
        finite = math.isfinite(error) and bool(end.gradient.isfinite().all())
        acceptance = math.exp(min(0.0, -error)) if finite else 0.0
        accepted = uniform < acceptance
        return Move(
            end if accepted else point,
            w if accepted else v,
            self.target - acceptance,
            acceptance,
            not finite or error > _DIVERGED,
            2 * before / space.degrees_of_freedom,
        )
