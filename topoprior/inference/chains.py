"""One chain from its start to its last draw, in a file that a killed run goes on from."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from tqdm import tqdm

from topoprior.inference.geometry import StateSpace
from topoprior.inference.hmc import Move, Point, noise
from topoprior.inference.potential import Potential
from topoprior.inference.tuning import Tuning
from topoprior.utils.files import CheckpointError, pack, read_file, unpack, write_atomically

FORMAT = "topoprior.chain/1"
STATS = ("energy", "acceptance", "divergences", "temperature")
_MOST = 1 << 34  # bytes of a chain's file
_MOST_TEXT = 1 << 26  # of them for its settings, which name every tensor of a network
_SAVE_SECONDS = 30.0
_HOT = 2.0  # kinetic temperature
_ROUNDING = 1e-3  # of an energy, beside itself or 1 nat, on another machine


class Sampler(Protocol):
    """HMC, BAOAB, or one of your own."""

    start_step: float

    def step(
        self, potential: Potential, tuning: Tuning, point: Point, v: Tensor, generator: torch.Generator
    ) -> Move: ...


@dataclass
class Chain:
    """Draws (S, size), lifts in the fundamental domain, and their statistics (S, 4), :data:`STATS`.

    ``failure`` says why the chain ended early; its draws so far are kept.
    """

    draws: Tensor
    stats: Tensor
    step_size: float
    seconds: float
    failure: str | None = None


class _Run:
    """All that changes while a chain runs."""

    def __init__(self, space: StateSpace, sampler: Sampler, q: Tensor, warmup: int, seed: int) -> None:
        self.space = space
        self.generator = torch.Generator().manual_seed(seed)
        self.tuning = Tuning(space, warmup, sampler.start_step, q)
        self.q, self.iteration, self.seconds = q, 0, 0.0
        self.v = self.fresh_velocity(q)
        self.draws: list[Tensor] = []
        self.stats: list[list[float]] = []
        self.sums = [0.0] * len(STATS)

    def fresh_velocity(self, q: Tensor) -> Tensor:
        return self.space.tangent(q, noise(self.generator, q) / self.tuning.mass.sqrt())

    def warm(self, move: Move, before: Point) -> Move:
        """Learn from a move of the warm-up; stay where a step diverged, and take away the heat of a fall.

        A start high above the posterior turns its energy into speed. Speed makes the step short, and with a short step
        friction takes long: without this the chain would stay hot.
        """
        if move.divergent:
            move = move._replace(point=before)
        self.tuning.update(self.iteration, move.error, move.point.gradient)
        if move.divergent or move.temperature > _HOT:
            move = move._replace(velocity=self.fresh_velocity(move.point.q))
        return move

    def save(self, path: Path, settings: Mapping[str, Any], energy: float) -> None:
        config = {
            "format": FORMAT, "settings": dict(settings), "iteration": self.iteration, "energy": energy
        }  # fmt: skip
        tensors = {
            "q": self.q,
            "v": self.v,
            "draws": torch.stack(self.draws) if self.draws else self.q.new_empty(0, len(self.q)),
            "stats": torch.tensor(self.stats, dtype=torch.float64).reshape(-1, len(STATS)),
            "sums": torch.tensor([*self.sums, self.seconds], dtype=torch.float64),
            "random": self.generator.get_state(),
            **self.tuning.state(),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, pack(config, tensors))

    def load(self, path: Path, settings: Mapping[str, Any], potential: Potential) -> None:
        config, tensors, _ = unpack(read_file(path, _MOST), path, _MOST_TEXT)
        if config is None or config.get("format") != FORMAT:
            raise CheckpointError(f"{path}: expected format {FORMAT!r}, found that of another file")
        found = config.get("settings", {})
        for name, value in settings.items():
            if found.get(name) != value:
                raise ValueError(
                    f"folder: {path} is of a run with {name} = {found.get(name)!r}, this one has {value!r}; "
                    "remove it or choose another folder"
                )
        self.iteration = int(config["iteration"])
        self.q, self.v = tensors["q"].to(self.q), tensors["v"].to(self.v)
        self.draws = list(tensors["draws"].to(self.q))
        self.stats = tensors["stats"].tolist()
        *self.sums, self.seconds = tensors["sums"].tolist()
        self.generator.set_state(tensors["random"])
        self.tuning.load(tensors)
        # Functions have no fingerprint, but another likelihood or network has another energy.
        noted, found = config.get("energy"), potential(self.q)[0]
        if noted is not None and not math.isclose(noted, found, rel_tol=_ROUNDING, abs_tol=_ROUNDING):
            raise ValueError(
                f"folder: {path} is of a run with another density or likelihood, whose energy there is {noted:.6g}, this one "
                f"has {found:.6g}; remove it or choose another folder"
            )

    def record(self, move: Move, thinning: int) -> None:
        """Add up the statistics; every ``thinning`` moves keep a draw."""
        new = (move.point.energy, move.acceptance, float(move.divergent), move.temperature)
        self.sums = [a + b for a, b in zip(self.sums, new, strict=True)]
        self.sums[0] = move.point.energy * thinning  # the energy of the draw itself
        if (self.iteration - self.tuning.warmup) % thinning == 0:
            self.draws.append(self.space.project(self.q))
            energy, acceptance, divergences, temperature = self.sums
            self.stats.append(
                [energy / thinning, acceptance / thinning, divergences, temperature / thinning]
            )
            self.sums = [0.0] * len(STATS)

    def chain(self, num_samples: int, failure: str | None = None) -> Chain:
        draws = self.draws[:num_samples]
        stacked = torch.stack(draws) if draws else self.q.new_empty(0, len(self.q))
        stats = torch.tensor(self.stats[:num_samples], dtype=torch.float64).reshape(-1, len(STATS))
        return Chain(stacked, stats, self.tuning.step_size, self.seconds, failure)


def run_chain(
    potential: Potential,
    sampler: Sampler,
    start: Tensor,
    *,
    num_samples: int,
    warmup: int,
    thinning: int = 1,
    seed: int = 0,
    path: Path | None = None,
    settings: Mapping[str, Any] | None = None,
    progress: bool = False,
    position: int = 0,
) -> Chain:
    """Warm up, then keep every ``thinning``-th state until there are ``num_samples``.

    Args:
        start: a state, (size,).
        path: a file to go on from and to save to, about twice a minute and at the end. The numbers are those of a run
            without interruption.
        settings: what decides the numbers; a file of other settings is refused.
        position: of the progress bar.

    Raises:
        ValueError: the density is not finite at ``start``, or the file is of other settings or of another density.
        CheckpointError: the file is damaged.
    """
    run = _Run(potential.space, sampler, start.detach().clone(), warmup, seed)
    settings = {} if settings is None else settings
    if path is not None and path.exists():
        run.load(path, settings, potential)
    total = warmup + num_samples * thinning
    if run.iteration >= total:
        return run.chain(num_samples)
    point = Point(run.q, *potential(run.q))
    if failure := _failure(potential, point):
        raise ValueError(f"chain {position}: {failure} at the start")
    began = saved = time.monotonic()
    before = run.seconds
    bar = tqdm(
        total=total,
        initial=run.iteration,
        desc=f"chain {position}",
        position=position,
        disable=not progress,
    )
    with bar:
        while run.iteration < total:
            move = sampler.step(potential, run.tuning, point, run.v, run.generator)
            if run.iteration < warmup:
                move = run.warm(move, point)
            if failure := _failure(potential, move.point):
                return run.chain(num_samples, f"{failure} at iteration {run.iteration}")
            point, run.q, run.v = move.point, move.point.q, move.velocity
            run.iteration += 1
            if run.iteration > warmup:
                run.record(move, thinning)
            bar.update()
            now = time.monotonic()
            run.seconds = before + now - began
            if path is not None and (now - saved > _SAVE_SECONDS or run.iteration == total):
                run.save(path, settings, point.energy)
                saved = now
    return run.chain(num_samples)


def _failure(potential: Potential, point: Point) -> str | None:
    """What is not finite, by the name of the parameter; None where all is."""
    if math.isfinite(point.energy) and bool(point.gradient.isfinite().all()):
        return None
    bad = ~(point.q.isfinite() & point.gradient.isfinite())
    names = potential.space.describe(bad)
    what = f"position or gradient of {names}" if names else f"the energy ({point.energy})"
    return f"{what} is not finite"
