"""What was aimed at in the Klein-Circles experiments, and whether it was met."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from experiments.klein_circles.images import ImageSet

LOOPS = "loops kept"
_ELBO, _TRUST, _CONTINUITY, _SHARE = 20.0, 0.98, 0.97, 0.9
_THROUGHPUT, _COST = 1.3, 1.5


class Target(NamedTuple):
    """A row of the table."""

    what: str
    target: str
    result: str
    met: str


def targets(
    runs: Sequence[Mapping[str, Any]],
    images: ImageSet,
    throughput: Mapping[str, Any] | None,
    cost: Mapping[str, Any] | None,
) -> list[Target]:
    """Those that a set of images has; ``throughput`` and ``cost`` are what benchmark_vae.py wrote.

    On rotations there are none: on SO(3) the class is not found reliably.
    """
    data = runs[0]["config"]["data"]
    # The model whose space is the images': the one for which there are loops to keep.
    right = [run["results"] for run in runs if LOOPS in run["results"]]
    found = []
    if data == "published" and right:
        elbos = [results["negative ELBO"] for results in right]
        mean, below = statistics.fmean(elbos), sum(elbo <= _ELBO for elbo in elbos)
        found = [
            Target("negative ELBO, mean over seeds", f"≤ {_ELBO:g}", f"{mean:.2f}", _yes(mean <= _ELBO)),
            Target(
                "negative ELBO, every seed",
                f"≤ {_ELBO:g}",
                f"{', '.join(f'{elbo:.2f}' for elbo in elbos)}: {below} of {len(elbos)}",
                _yes(below == len(elbos)),
            ),
            *_throughput(throughput, runs[0]["config"]["precision"]),
        ]
    elif images.seamless and data != "rotations" and right:
        good = sum(
            results[LOOPS] is True
            and results["trustworthiness"] >= _TRUST
            and results["continuity"] >= _CONTINUITY
            for results in right
        )
        result = f"{good} of {len(right)}"
        found = [
            Target(
                f"loops kept, trustworthiness ≥ {_TRUST}, continuity ≥ {_CONTINUITY}",
                "at least 9 of 10 seeds",
                result if len(right) >= 10 else f"{result} seeds that were run",
                _yes(good >= _SHARE * len(right)),
            )
        ]
    if cost is not None or data in ("published", "klein"):
        found.append(_cost(cost))
    return found


def _throughput(record: Mapping[str, Any] | None, mode: str) -> list[Target]:
    what, target = "images a second in training, beside the published code", f"≥ {_THROUGHPUT} x"
    if record is None or "reference" not in record["images per second"]:
        return [Target(what, target, "not measured", "")]
    rates = record["images per second"]
    rows = []
    for precision in ("float32", "bfloat16"):
        value = median_ratio(rates[f"ours, {precision}"], rates["reference"])
        name = f"{what}, {precision}" + (", as in this table" if precision == mode else "")
        rows.append(Target(name, target, f"{value:.2f} x", _yes(value >= _THROUGHPUT)))
    return rows


def _cost(record: Mapping[str, Any] | None) -> Target:
    what, target = "cost with warm start / one plain training", f"≤ {_COST} x CPU time"
    if record is None:
        return Target(what, target, "not measured", "")
    cpu, wall = (
        median_ratio(record[clock]["warm"], record[clock]["cold"])
        for clock in ("cpu seconds", "wall seconds")
    )
    setting = f"{record['data']}, {record['num_images']:,} images, {record['epochs']} epochs"
    return Target(f"{what} ({setting})", target, f"{cpu:.2f} x (wall {wall:.2f} x)", _yes(cpu <= _COST))


def median_ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """The median of the ratios of neighbours: what slows a machine down for a while hits both."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def _yes(met: bool) -> str:
    return "yes" if met else "no"
