"""The runs of a sweep as a table: read, group, compare seed by seed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.common.statistics import Interval, Paired, holm, interval, paired_t_test
from experiments.priors.methods import METHODS

Run = Mapping[str, Any]
SUMMARY = "summary.json"
# Of a run's configuration, what tells it from the others.
_NEEDED = ("dataset", "train_size", "method", "start", "temperature", "seed")
# Where more is better; less is in all other measures.
_MORE = ("Acc", "AUROC")


class Cell(NamedTuple):
    dataset: str
    train_size: int
    temperature: str


class Variant(NamedTuple):
    """A method and the weights that it starts from."""

    method: str
    start: str = "own"

    def __str__(self) -> str:
        return self.method if self.start == "own" else f"{self.method}, {self.start} start"


class LearningCurve:
    """What the runs of one method have measured on the way, by step."""

    def __init__(self, runs: Iterable[Run]) -> None:
        self.points = [point for run in runs for point in run["curve"]]

    def of(self, measure: str) -> dict[int, Interval]:
        steps = sorted({int(point["step"]) for point in self.points})
        return {step: interval([p[measure] for p in self.points if p["step"] == step]) for step in steps}


class Comparison(NamedTuple):
    """One method against another at one place, by one measure."""

    cell: Cell
    first: Variant
    second: Variant
    measure: str
    result: Paired
    adjusted_p: float | None = None

    @property
    def gain(self) -> float:
        """The mean difference, positive where the first one is better."""
        return self.result.mean if more_is_better(self.measure) else -self.result.mean

    @property
    def verdict(self) -> str:
        """better, worse, or open where the interval holds 0 (or there is none)."""
        if not self.result.excludes_zero:
            return "open"
        return "better" if self.gain > 0 else "worse"


def _rank(variant: Variant) -> tuple[int, str, str]:
    """The order of the methods, own starts first."""
    known = METHODS.index(variant.method) if variant.method in METHODS else len(METHODS)
    return known, variant.method, "" if variant.start == "own" else variant.start


def more_is_better(measure: str) -> bool:
    return measure.endswith(_MORE)


def read_runs(path: Path) -> list[Run]:
    """The runs in a sweep's folder, those of an earlier report's summary.json in it included, or of such a file alone.

    Raises:
        ValueError: nothing there, or files that no sweep has written.
    """
    folder = path / "runs" if (path / "runs").is_dir() else path
    try:
        runs = {json.dumps(run["config"], sort_keys=True): run for run in _summarized(path)}
        if folder.is_dir():
            for file in sorted(folder.glob("*.json")):
                if file.name != SUMMARY:
                    run = json.loads(file.read_text(encoding="utf-8"))
                    runs[json.dumps(run["config"], sort_keys=True)] = run
        for run in runs.values():
            _ = [run["config"][key] for key in _NEEDED], run["results"]["cls/Acc"]
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror or error}; give a sweep's folder or {SUMMARY}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a sweep's results ({error!r})") from None
    if not runs:
        raise ValueError(f"{path}: no finished runs")
    return list(runs.values())


def _summarized(path: Path) -> list[Run]:
    """What `summary_of` has made of runs; none where there is no such file."""
    if path.is_dir():
        path = path / SUMMARY
        if not path.is_file():
            return []
    summary = json.loads(path.read_text(encoding="utf-8"))
    measures = summary["measures"]
    return [
        {
            **run,
            "config": {**summary["common"], **run["config"]},
            "results": {m: v for m, v in zip(measures, run["results"], strict=True) if v is not None},
        }
        for run in summary["runs"]
    ]


def summary_of(runs: Sequence[Run]) -> dict[str, Any]:
    """Small enough to be kept in a repository: every result, without its name, and of the configuration what is not
    the same for all; reliability and kernels where the report shows them."""
    first = runs[0]["config"]
    common = {
        key: value
        for key, value in first.items()
        if all(key in run["config"] and run["config"][key] == value for run in runs)
    }
    measures = list(dict.fromkeys(name for run in runs for name in run["results"]))
    table, kept, pictured = Table(runs), [], set()
    for run in runs:
        entry: dict[str, Any] = {
            "config": {key: value for key, value in run["config"].items() if key not in common},
            "results": [run["results"].get(name) for name in measures],
        }
        if run["config"]["train_size"] == table.sizes(run["config"]["dataset"])[0]:
            entry["reliability"] = run["reliability"]
        if "curve" in run:
            entry["curve"] = run["curve"]
        if (variant := variant_of(run)) not in pictured and "kernels" in run:
            entry["kernels"] = run["kernels"]
            pictured.add(variant)
        kept.append(entry)
    versions: dict[str, str] = next((run["versions"] for run in runs if "versions" in run), {})
    return {"versions": versions, "common": common, "measures": measures, "runs": kept}


def cell_of(run: Run) -> Cell:
    config = run["config"]
    return Cell(config["dataset"], config["train_size"], config["temperature"])


def variant_of(run: Run) -> Variant:
    return Variant(run["config"]["method"], run["config"]["start"])


class Table:
    """Runs by place and method. Methods without a temperature are found at every one.

    Raises:
        ValueError: two runs of a method at the same place with the same seed, but with other settings or budgets.
    """

    def __init__(self, runs: Iterable[Run]) -> None:
        self._runs: dict[tuple[Cell, Variant], dict[int, Run]] = {}
        for run in runs:
            seeds = self._runs.setdefault((cell_of(run), variant_of(run)), {})
            seed = run["config"]["seed"]
            if seed in seeds:
                _refuse_two(seeds[seed]["config"], run["config"])
            seeds[seed] = run
        self.datasets = list(dict.fromkeys(cell.dataset for cell, _ in self._runs))
        self.temperatures = sorted({cell.temperature for cell, _ in self._runs})
        self.variants = sorted({variant for _, variant in self._runs}, key=_rank)

    def sizes(self, dataset: str) -> list[int]:
        return sorted({cell.train_size for cell, _ in self._runs if cell.dataset == dataset})

    def runs(self, cell: Cell, variant: Variant) -> dict[int, Run]:
        """By seed; empty where there are none."""
        found = self._runs.get((cell, variant), {})
        if not found and variant.method in ("deterministic", "ensemble"):
            for temperature in self.temperatures:
                found = found or self._runs.get((cell._replace(temperature=temperature), variant), {})
        return found

    def interval(self, cell: Cell, variant: Variant, measure: str) -> Interval | None:
        values = [
            run["results"][measure]
            for run in self.runs(cell, variant).values()
            if measure in run["results"]
        ]
        return interval(values) if values else None

    def measures(self) -> list[str]:
        found: dict[str, None] = {}
        for seeds in self._runs.values():
            for run in seeds.values():
                found.update(dict.fromkeys(run["results"]))
        return list(found)

    def compare(self, cell: Cell, first: Variant, second: Variant, measure: str) -> Comparison | None:
        """First minus second over the seeds that both have."""
        ones, others = self.runs(cell, first), self.runs(cell, second)
        differences = [
            ones[seed]["results"][measure] - others[seed]["results"][measure]
            for seed in sorted(ones.keys() & others.keys())
            if measure in ones[seed]["results"] and measure in others[seed]["results"]
        ]
        if not differences:
            return None
        return Comparison(cell, first, second, measure, paired_t_test(differences))

    def best_start(self, cell: Cell, method: str, measure: str) -> Variant:
        """The start with the better mean on the test images: a choice in favour of this method."""
        found = {v: self.interval(cell, v, measure) for v in self.variants if v.method == method}
        known: dict[Variant, float] = {v: value.mean for v, value in found.items() if value is not None}
        if not known:
            return Variant(method)
        choose: Callable[..., Variant] = max if more_is_better(measure) else min
        return choose(known, key=known.__getitem__)


def _refuse_two(one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    differ = [key for key in one.keys() | other.keys() if one.get(key) != other.get(key)]
    place = ", ".join(f"{key} {one[key]}" for key in _NEEDED)
    raise ValueError(
        f"two runs of one kind ({place}) that differ in {', '.join(sorted(differ)) or 'nothing'}: "
        "sweeps with other settings or budgets belong in folders of their own"
    )


def learning_curves(table: Table, variants: Sequence[Variant]) -> dict[str, dict[str, LearningCurve]]:
    """By place, then by method; only where runs have been watched while they trained."""
    found: dict[str, dict[str, LearningCurve]] = {}
    for dataset in table.datasets:
        for size in table.sizes(dataset):
            for temperature in table.temperatures:
                cell = Cell(dataset, size, temperature)
                for variant in variants:
                    watched = [run for run in table.runs(cell, variant).values() if "curve" in run]
                    if watched:
                        place = f"{dataset}, n = {size}, temperature {temperature}"
                        found.setdefault(place, {})[str(variant)] = LearningCurve(watched)
    return found


def corrected(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The same with Holm's adjusted p-values: all that are given here are one family."""
    tested = [c for c in comparisons if c.result.p is not None]
    adjusted = iter(holm([c.result.p for c in tested if c.result.p is not None]))
    return [c if c.result.p is None else c._replace(adjusted_p=next(adjusted)) for c in comparisons]


def against(
    table: Table, opponent: str, temperature: str, measures: Sequence[str], ours: str = "klein"
) -> list[Comparison]:
    """Klein against a method with the better of its starts, at every place."""
    found = [
        table.compare(cell, Variant(ours), table.best_start(cell, opponent, measure), measure)
        for dataset in table.datasets
        for size in table.sizes(dataset)
        for cell in [Cell(dataset, size, temperature)]
        for measure in measures
    ]
    return corrected([c for c in found if c is not None])
