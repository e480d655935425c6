"""The report on CIFAR-10, from runs.csv alone: announced differences, every method at every size, corruptions.

python -m experiments.cifar10.report experiments/results/cifar10
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.cifar10 import pictures
from experiments.cifar10.compress import FILE as COMPRESSED
from experiments.cifar10.methods import METHODS, RATES
from experiments.cifar10.pictures import MEASURES, PLACES, where
from experiments.common.document import Document
from experiments.common.options import report_again
from experiments.common.statistics import interval
from experiments.common.tables import announced, differences, read_runs, signed
from experiments.common.uncertainty import AURC, AUROC

#: First minus second: the announced comparisons.
FAMILY = [
    ("klein", "nn.Conv2d"),
    ("klein", "klein-start"),
    ("klein", "linear"),
    ("klein", "gaussian"),
    ("klein-residual", "klein"),
]
SIZES = (500, 1000, 5000)  # at which they were announced
#: Method, weights, members; first minus second, neither announced nor tested.
MORE = [
    (("klein", "last", 1), ("nn.Conv2d", "last", 1)),  # beyond the sizes of the announced
    (("klein-start", "last", 1), ("nn.Conv2d", "last", 1)),
    (("klein", "average", 1), ("nn.Conv2d", "average", 1)),
    (("klein", "average", 1), ("klein", "last", 1)),
    (("nn.Conv2d", "average", 1), ("nn.Conv2d", "last", 1)),
    (("klein", "laplace", 1), ("nn.Conv2d", "last", 1)),
    (("klein", "laplace", 1), ("klein", "last", 1)),
    (("klein", "laplace", 1), ("nn.Conv2d", "laplace", 1)),
    (("klein", "last", 4), ("nn.Conv2d", "last", 4)),
    (("klein", "last", 4), ("nn.Conv2d", "last", 1)),
]
_COLUMNS = {
    "cls/Acc": "accuracy", "cls/NLL": "NLL", "cls/Brier": "Brier", "cal/ECE": "ECE", "scaled/NLL": "NLL, scaled",
    "scaled/ECE": "ECE, scaled", AURC: "AURC", AUROC: "AUROC, foreign", "corrupted/Acc": "accuracy, corrupted",
    "kernel numbers": "kernel numbers", "checkpoint kB": "kB", "core minutes": "core minutes",
}  # fmt: skip
_CANDIDATE = ["method", "rate", "rate of latents", "decay", "temperature", "accuracy", "NLL, scaled"]


def read(path: Path) -> pd.DataFrame:
    table = read_runs(path)
    table["core minutes"] = table["core seconds"] / 60
    return table.assign(
        **{m: table.get(m, math.nan) for m in _COLUMNS}
    )  # a measure that no run has is empty


def report(table: pd.DataFrame, folder: Path) -> Document:
    """Of the rows of runs.csv, and those of compression.csv where that is there."""
    reported = table[table["role"] == "reported"].sort_values(PLACES, kind="stable")
    single = reported[
        (reported["weights"] == "last") & (reported["members"] == 1) & (reported["member"] == 0)
    ]
    page = Document(f"CIFAR-10: {', '.join(reported['dataset'].unique())}")
    if single["n"].nunique() > 1:
        page.picture(
            "sizes.png",
            pictures.sizes(single),
            "Accuracy and NLL at the fitted temperature against the number of images to learn from; means over seeds, 95% intervals.",
        )
    _announced(page, single)
    _more(page, reported)
    for place, some in reported.groupby(PLACES):
        with page.folded(f"{where(place)}: every method"):
            page.text(
                f"Seeds {', '.join(map(str, sorted(some['seed'].unique())))}; {some['steps'].dropna().iloc[0]:.0f} steps of at most {some['batch'].iloc[0]} images. "
                "Means over seeds, ± half the 95% interval. Average: of the weights over the last steps. Laplace: the last weights with a normal law of the "
                "last layer. Members: networks whose mean prediction it is."
            )
            page.table(_levels(some))
    if single["corrupted/Acc"].notna().any():
        page.picture(
            "corruptions.png",
            pictures.corruptions(single),
            "Accuracy on corrupted test images, means over seeds.",
        )
    if (folder / COMPRESSED).is_file():
        _compressed(page, pd.read_csv(folder / COMPRESSED))
    _chosen(page, table)
    with page.folded("What rows and columns are"):
        page.text(
            "MAP: the most probable point under the prior at the stated temperature, in whitened coordinates; others have no prior. NLL: negative log likelihood, nats. Brier: squared distance "
            "of the probabilities to the label, summed over classes. ECE: expected calibration error, 15 bins. Scaled: with one temperature a network, fitted on the validation images. "
            "AURC: area under the curve of error against coverage, the surest answers first; lower is better. AUROC: the chance that a foreign image (Fashion-MNIST, "
            "1,000 images, resized, grey in three channels) gets a smaller largest probability than a test image, at temperature 1. Corrupted: mean over five kinds and five severities of "
            "some of the test images. Kernel numbers: trained numbers of the 3x3 convolutions. kB: of the weights and buffers as torch.save writes them, of all members. Core minutes: of "
            "training, one processor."
        )
    return page


# --- announced differences -------------------------------------------------------------------


def _announced(page: Document, table: pd.DataFrame) -> None:
    family, table = len(FAMILY) * len(SIZES), table[table["n"] <= max(SIZES)]
    accuracy, nll = (announced(table, FAMILY, "method", measure, PLACES, family) for measure in MEASURES)
    if not len(accuracy):
        return
    page.heading("Announced differences")
    page.picture(
        "forest.png",
        pictures.differences(accuracy, nll),
        "First minus second, by seed, with 95% intervals that are not corrected for their number; no interval for a single seed.",
    )
    head = ["comparison", "where", "seeds", *MEASURES.values()]
    rows = [
        [_pair(a), where(a[PLACES]), str(a["seeds"]), *(_difference(x) for x in (a, b))]
        for (_, a), (_, b) in zip(accuracy.iterrows(), nll.iterrows(), strict=True)
    ]
    page.table([head, *rows])
    page.text(
        "First minus second, by seed, ± half the 95% interval; in brackets p by Holm over the "
        f"{family} announced comparisons of a column, of which those that were not run count as p = 1. Higher accuracy and lower NLL are better. In bold: p below .05."
    )


def _more(page: Document, reported: pd.DataFrame) -> None:
    """Differences of kinds of weights and of ensembles, seed by seed."""
    some = reported[(reported["members"] > 1) | (reported["member"] == 0)]
    kinds = [_kind(kind) for kind in zip(some["method"], some["weights"], some["members"], strict=True)]
    some = some.assign(kind=kinds)
    columns = {
        **MEASURES,
        "scaled/ECE": "ECE at the fitted temperature",
        AURC: "AURC",
        AUROC: _COLUMNS[AUROC],
    }
    rows = []
    for pair in MORE:
        first, second = map(_kind, pair)
        here = some[some["n"] > max(SIZES)] if pair == MORE[0] else some
        by_place: dict[tuple[Any, ...], dict[str, pd.Series]] = {}
        for measure in columns:
            for _, row in differences(here, first, second, "kind", measure, PLACES).iterrows():
                by_place.setdefault(tuple(row[PLACES]), {})[measure] = row
        for place, found in by_place.items():
            cells = [
                signed(found[m]["mean"], found[m]["half_width"]) if m in found else "" for m in columns
            ]
            seeds = str(next(iter(found.values()))["seeds"])
            rows.append([f"{first} - {second}", where(place), seeds, *cells])
    if rows:
        with page.folded(
            "Start, averages, Laplace's law of the last layer, ensembles: neither announced nor tested"
        ):
            page.table([["comparison", "where", "seeds", *columns.values()], *rows])
            page.text(
                "First minus second, by seed, ± half the 95% interval, not corrected for their number."
            )


def _kind(kind: tuple[str, str, int]) -> str:
    method, weights, members = kind
    return f"{METHODS[method].words} ({weights}{f', {members} members' if members > 1 else ''})"


def _pair(row: pd.Series) -> str:
    return f"{METHODS[row['first']].words} - {METHODS[row['second']].words}"


def _difference(row: pd.Series) -> str:
    text = signed(row["mean"], row["half_width"], row["adjusted"])
    return f"**{text}**" if row["adjusted"] < 0.05 else text


# --- levels ----------------------------------------------------------------------------------


def _levels(some: pd.DataFrame) -> list[list[str]]:
    """A row a method, its kind of weights and its number of members, the most accurate first."""
    singles = some[(some["members"] > 1) | (some["member"] == 0)]
    groups = list(singles.groupby(["method", "weights", "members"]))
    groups.sort(key=lambda group: -group[1]["cls/Acc"].mean())
    rows = [["method", "weights", "members", *_COLUMNS.values()]]
    for (method, weights, members), mine in groups:
        cells = (_mean(mine[column].dropna().tolist(), column) for column in _COLUMNS)
        rows.append([METHODS[method].words, weights, str(members), *cells])
    return rows


def _mean(values: list[float], column: str) -> str:
    if not values:
        return ""
    if column in ("kernel numbers", "checkpoint kB", "core minutes"):
        return f"{sum(values) / len(values):,.{1 if 'minutes' in column else 0}f}"
    mean, half = interval(values)
    return f"{mean:.4f}" if half is None else f"{mean:.4f} ± {half:.4f}"


def _chosen(page: Document, table: pd.DataFrame) -> None:
    """The candidates, the chosen one of each method in bold; then what was run on the side."""
    last = table[table["weights"] == "last"]
    for role, title in (("selection", "How the rates were chosen"), ("side", "On the side")):
        some = last[last["role"] == role]
        if not len(some):
            continue
        rows = [[*(["where"] if role == "side" else []), *_CANDIDATE]]
        for method, mine in some.groupby("method", sort=False):
            best = mine["validation scaled/NLL"].idxmin() if role == "selection" else None
            for i, row in mine.iterrows():
                cells = [f"width {row['width']}, {row['steps']:.0f} steps"] if role == "side" else []
                cells += [METHODS[method].words, *(f"{row[k]:g}" for k in RATES)]
                cells += [f"{row[m]:.4f}" for m in ("validation cls/Acc", "validation scaled/NLL")]
                rows.append([f"**{cell}**" for cell in cells] if i == best else cells)
        with page.folded(title):
            chosen = (
                "in bold what has the lowest NLL at its fitted temperature."
                if role == "selection"
                else "nothing was chosen by these."
            )
            page.text(
                f"{some['n'].iloc[0]:,} images, seed {some['seed'].iloc[0]}, validation images alone; {chosen}"
            )
            page.table(rows)


def _compressed(page: Document, table: pd.DataFrame) -> None:
    """Kernels stored smaller, the smallest first."""
    measures = {"cls/Acc": "accuracy", "cls/NLL": "NLL", "scaled/NLL": "NLL, scaled"}
    rows = [["method", "kernels", "where", "seeds", "kernel kB", *measures.values()]]
    groups = table.groupby([*PLACES, "method", "form"])
    for (*place, method, form), mine in sorted(groups, key=lambda group: group[1]["kernel bytes"].mean()):
        cells = (_mean(mine[measure].tolist(), measure) for measure in measures)
        size = f"{mine['kernel bytes'].mean() / 1000:.1f}"
        rows.append([METHODS[method].words, form, where(place), str(len(mine)), size, *cells])
    with page.folded("Kernels stored smaller, not trained again"):
        page.text(
            "Kernels of its own: combinations of so many, the principal ones of the network. 8 bits: with a scale an output channel. z: the point of the Klein bottle, on 256 x 256 places. "
            "kB: of the 3x3 convolutions, with scales and bases. Batch statistics are made again."
        )
        page.table(rows)


def main(argv: Sequence[str] | None = None) -> int:
    return report_again(__doc__, argv, read, report)


if __name__ == "__main__":
    sys.exit(main())
