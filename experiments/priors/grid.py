"""The runs of a sweep: what decides each one, and its name."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any

from experiments.priors.methods import OF_THE_KLEIN_BOTTLE, Method, Settings, get_method, read_settings
from experiments.priors.training import Budget

# Raise it when the same configuration would give another result: old files are then no longer found.
FORMAT = 2
TUNED = "tuned"
# Posteriors of few images want more noise than those of many: from this size on, settings of their own.
LARGE = 500
# From here on the budget is another one too, and with it the learning rates.
FULL = 10_000
# Those that the main questions are about get more seeds.
LEADING = ("klein", "gaussian", "deterministic")


@dataclass(frozen=True)
class Job:
    """One run. Everything that its result depends on is here, except the software's versions, which are recorded with it."""

    dataset: str
    train_size: int | None  # None: all
    method: str
    start: str
    temperature: str  # a number, or "tuned": what validation chose for the method
    seed: int
    settings: Settings
    budget: Budget
    data: str  # digest of all data sets that are read, and of a prior that is a folder
    test_size: int | None = None
    image_size: int | None = None
    foreign: str = ""
    foreign_size: int = 500
    shifts: tuple[str, ...] = ()
    precision: str = "float32"
    curve: int = 0

    def config(self) -> dict[str, Any]:
        return {
            **json.loads(json.dumps(asdict(self))),
            "format": FORMAT,
        }  # tuples become lists, as in a file

    def make_method(self) -> Method:
        return get_method(self.method, self.settings, start=self.start)


@dataclass(frozen=True)
class Axes:
    """What a sweep goes through."""

    cells: Sequence[tuple[str, int]]
    """Pairs of data set and training size."""
    methods: Sequence[str]
    starts: Sequence[str]
    temperatures: Sequence[str]
    seeds: int
    other_seeds: int
    first_seed: int = 0


def make_jobs(
    axes: Axes, budget: Budget, data: Mapping[str, str], of: Callable[[str], Mapping[str, Any]]
) -> list[Job]:
    """All runs, seed after seed: a sweep that is stopped early leaves whole comparisons with fewer seeds.

    Args:
        data: the digest of every data set.
        of: a data set's further fields of `Job`.
    """
    jobs = []
    for index, (dataset, size) in product(range(max(axes.seeds, axes.other_seeds)), axes.cells):
        for method, start, temperature in _combinations(axes, index):
            settings = tuned_settings(method, start, temperature, dataset, size)
            jobs.append(
                Job(
                    dataset,
                    size,
                    method,
                    start,
                    temperature,
                    axes.first_seed + index,
                    settings,
                    replace(budget, temperature=settings.temperature),
                    data[dataset],
                    **of(dataset),
                )
            )
    return jobs


def _combinations(axes: Axes, index: int) -> Iterator[tuple[str, str, str]]:
    for method, start, temperature in product(axes.methods, axes.starts, axes.temperatures):
        if index >= (axes.seeds if method in LEADING else axes.other_seeds):
            continue
        if start == "klein" and method in OF_THE_KLEIN_BOTTLE:
            continue  # their own draws are that
        if method in ("deterministic", "ensemble") and temperature != axes.temperatures[0]:
            continue  # there is no KL that a temperature could weigh
        yield method, start, temperature


def tuned_settings(method: str, start: str, temperature: str, dataset: str, train_size: int) -> Settings:
    """What validation chose for the method at temperature 1 ("bayes"), or with the temperature free ("tempered"),
    on this data set, for few images, from LARGE on for more, and at temperature 1 from FULL on for whole data sets.

    A number other than 1 takes the free settings with this temperature instead. Data that nobody has tuned for take
    the settings of Fashion-MNIST.
    """
    kind = "bayes" if temperature != TUNED and float(temperature) == 1 else "tempered"
    tuned_on = next((name for name in ("mnist", "cifar10") if dataset.startswith(name)), "fashion-mnist")
    band = "-full" if train_size >= FULL and kind == "bayes" else "-large" if train_size >= LARGE else ""
    profile = f"{kind}-{tuned_on}{band}"
    settings = get_method(method, profile=read_settings(profile), start=start).settings
    return settings if temperature == TUNED else replace(settings, temperature=float(temperature))
