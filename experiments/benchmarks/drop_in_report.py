"""The report of the drop-in benchmark: means over rows, every recipe and network, every row, the candidates."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from experiments.benchmarks.swapped import LAYERS
from experiments.benchmarks.tasks import TASKS
from experiments.common.document import Document
from experiments.common.forest import Cell, Panel, forest
from experiments.common.palette import colour
from experiments.common.statistics import interval
from experiments.common.store import Run
from experiments.common.tables import frame, same, write_csv

REFERENCE = "nn.Conv2d"
MEASURES = {"accuracy": "cls/Acc", "NLL": "cls/NLL", "ECE": "cal/ECE"}
PLACE = ["data set", "network", "recipe"]
CHOOSING = 100  # seeds from here on are for choosing defaults


def joined(earlier: pd.DataFrame, runs: Iterable[Run]) -> pd.DataFrame:
    """A row a run. A run takes the place of an earlier one that was made by other defaults, or on the same processor."""
    runs = list(runs)
    made_by = [run.versions.get("processor", "not known") for run in runs]
    for run, processor in zip(runs, made_by, strict=True):
        here = {name: run.config[name] for name in (*PLACE, "layer", "seed", "steps")}
        elsewhere = same(earlier, run.config) & ~same(earlier, {"processor": processor})
        earlier = earlier[elsewhere | ~same(earlier, here)]
    parts = [part for part in (earlier, frame(runs).assign(processor=made_by)) if len(part)]
    return pd.concat(parts) if parts else pd.DataFrame()


def write(table: pd.DataFrame, output: Path) -> None:
    """runs.csv and report.md."""
    table = table.sort_values(["data set", "seed", "network", "recipe", "layer", "processor"])
    write_csv(output / "runs.csv", table)
    document = Document("Swapping a layer in")
    held_out, choosing = table[table["seed"] < CHOOSING], table[table["seed"] >= CHOOSING]
    usual = held_out["steps"] == table["steps"].mode()[0]
    held_out, longer = held_out[usual], held_out[~usual]
    other = held_out["network"].isin(TASKS)
    held_out, extra = held_out[~other], held_out[other]
    if len(held_out):
        document.picture(
            "forest.png",
            picture(held_out),
            f"Layer minus {REFERENCE}, means over data sets, networks and recipes with 95% intervals over these rows.",
        )
        document.table(summary(held_out))
        document.text(
            "Nothing is tuned. Accuracy, negative log likelihood (nats) and expected calibration error of the mean of 16 draws. "
            f"Differences are to {REFERENCE} with the same data set, network, recipe and seed on the same processor, means of rows first "
            "over seeds, with 95% intervals over rows. Confidence is the mean of the largest probability: above accuracy a network is "
            f"surer than it is right, below less sure. Runs: {processors(held_out)}."
        )
        for by in ("recipe", "network", "data set"):
            with document.folded(f"By {by}: accuracy / NLL / ECE"):
                document.table(split(held_out, by))
        with document.folded("Every row: accuracy / NLL / ECE, means over seeds"):
            document.table(rows(held_out))
    if len(extra):
        with document.folded("Other networks: the class of every pixel, a number"):
            document.text(
                "regression: how bright the lower half of an image is, seen the upper. In place of accuracy and ECE are R² and the mean "
                "distance of the shares below the predicted quantiles from nominal."
            )
            document.table(rows(extra))
    for steps, some in longer.groupby("steps"):
        with document.folded(f"With {steps} steps"):
            document.table(summary(some))
            document.table(split(some, "network"))
            document.table(rows(some))
    if len(choosing):
        with document.folded(f"Candidates, seeds {CHOOSING} and on"):
            document.table(summary(choosing))
    document.write(output)


def processors(table: pd.DataFrame) -> str:
    """How many runs of which seeds each has made."""
    seeds = table.groupby("processor")["seed"]
    return "; ".join(
        f"{len(some)} of seeds {', '.join(map(str, sorted(some.unique())))} on {name}"
        for name, some in seeds
    )


def picture(table: pd.DataFrame) -> bytes:
    """A row a layer: its differences to the reference."""
    layers = [layer for layer in ordered(table) if layer != REFERENCE]
    panels = []
    for word, measure in MEASURES.items():
        found = [differences(table, layer, measure).tolist() for layer in layers]
        side = "right" if word == "accuracy" else "left"
        panels.append(
            Panel(
                word,
                f"{side}: better than {REFERENCE}",
                [Cell(*interval(values)) if values else None for values in found],
            )
        )
    return forest(layers, [colour(layer) for layer in layers], panels, across=3)


def differences(table: pd.DataFrame, layer: str, measure: str) -> pd.Series:
    """Layer minus reference at every place, run by run of one seed on one processor, mean over those that both have."""
    wide = table[table["layer"].isin([layer, REFERENCE])].pivot_table(
        index=[*PLACE, "seed", "processor"], columns="layer", values=measure
    )
    if not {layer, REFERENCE} <= set(wide.columns):
        return pd.Series(dtype=float)
    return (wide[layer] - wide[REFERENCE]).dropna().groupby(PLACE).mean()


def summary(table: pd.DataFrame) -> list[list[str]]:
    head = [
        "layer",
        "rows",
        "runs",
        *MEASURES,
        *(f"Δ {name}" for name in MEASURES),
        "worst row's Δ accuracy",
    ]
    lines = [[*head, "rows below by > .03", "confidence - accuracy", "KL / N"]]
    for layer in ordered(table):
        own = table[table["layer"] == layer]
        places = own.groupby(PLACE)
        line = [layer, str(places.ngroups), str(len(own))]
        line += [f"{places[column].mean().mean():.3f}" for column in MEASURES.values()]
        deltas = [differences(table, layer, column) for column in MEASURES.values()]
        surer = f"{(places['confidence'].mean() - places['cls/Acc'].mean()).mean():+.3f}"
        if layer == REFERENCE or not len(deltas[0]):
            lines.append([*line, "", "", "", "", "", surer, ""])
            continue
        for delta in deltas:
            mean, half = interval(delta.tolist())
            line.append(f"{mean:+.3f}" + ("" if half is None else f" ± {half:.3f}"))
        line += [
            f"{deltas[0].min():+.3f}",
            str(int((deltas[0] < -0.03).sum())),
            surer,
            f"{own['KL / N'].mean():.1f}",
        ]
        lines.append(line)
    return lines


def split(table: pd.DataFrame, by: str) -> list[list[str]]:
    """Δ accuracy / NLL / ECE of every layer, means over the places of every value of ``by``."""
    values = list(dict.fromkeys(table[by]))
    lines = [["layer", *values]]
    for layer in ordered(table):
        cells = []
        for value in values:
            some = table[table[by] == value]
            if layer == REFERENCE:
                means = [
                    some[some["layer"] == layer].groupby(PLACE)[c].mean().mean() for c in MEASURES.values()
                ]
                cells.append("" if pd.isna(means[0]) else " / ".join(f"{m:.3f}" for m in means))
                continue
            deltas = [differences(some, layer, column).mean() for column in MEASURES.values()]
            cells.append("" if pd.isna(deltas[0]) else " / ".join(f"{d:+.3f}" for d in deltas))
        lines.append([layer, *cells])
    return lines


def rows(table: pd.DataFrame) -> list[list[str]]:
    layers = ordered(table)
    means = table.groupby([*PLACE, "layer"])[list(MEASURES.values())].mean()
    lines = [[*PLACE, *layers]]
    for place in dict.fromkeys(table[PLACE].itertuples(index=False, name=None)):
        cells = []
        for layer in layers:
            key = (*place, layer)
            found = means.loc[key] if key in means.index else None
            cells.append("" if found is None else " / ".join(f"{value:.3f}" for value in found))
        lines.append([*place, *cells])
    return lines


def ordered(table: pd.DataFrame) -> list[str]:
    """As `LAYERS` has them, candidates by name after them."""
    found = set(table["layer"])
    return [name for name in LAYERS if name in found] + sorted(found - set(LAYERS))
