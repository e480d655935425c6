"""The report of the quick comparison: one table, one picture, what the columns are."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.common.document import Document, escape
from experiments.common.forest import Cell, Panel, forest
from experiments.common.palette import colour
from experiments.common.statistics import Paired, holm, interval, paired_t_test
from experiments.common.tables import signed, write_csv
from experiments.posteriors.controls import PRIORS

SETS = {"embedded": "a subset of Fashion-MNIST"}
_DRAWN = 1.0  # nats
_COLUMNS = {"cls/Acc": "accuracy", "cls/NLL": "NLL", "cal/ECE": "ECE"}


def table_of(runs: Iterable[tuple[Mapping[str, Any], Mapping[str, Any] | None]]) -> pd.DataFrame:
    """A row a run."""
    kept = ("method", "dataset", "seed", "n", "test")
    return pd.DataFrame([{**{k: c[k] for k in kept}, **r["measures"]} for c, r in runs if r is not None])


def summary(table: pd.DataFrame) -> list[list[str]]:
    """A row a method, the least NLL first: means over splits, ± half the 95% interval."""
    rows = [["method", *_COLUMNS.values(), "converged", "by", "core seconds"]]
    order = table.groupby("method")["cls/NLL"].mean().sort_values().index
    for method in order:
        mine = table[table["method"] == method]
        rows.append(
            [
                _words(method),
                *(_short(mine[column]) for column in _COLUMNS),
                f"{int(mine['converged'].sum())} of {len(mine)}",
                _criterion(mine),
                f"{mine['core seconds'].mean():.0f}",
            ]
        )
    return rows


def _words(method: str) -> str:
    prior, comma, what = method.partition(", ")
    return f"{PRIORS[prior].words.split(',')[0]}{comma}{what}" if prior in PRIORS else method


def _short(values: pd.Series) -> str:
    mean, half = interval(values.tolist())
    return f"{mean:.3f}" if half is None else f"{mean:.3f} ± {half:.3f}"


def _criterion(mine: pd.DataFrame) -> str:
    spent = f"{mine['gradients'].mean():,.0f} gradients"
    if mine.get("r-hat") is not None and mine["r-hat"].notna().all():
        return f"r-hat {mine['r-hat'].max():.2f}, {spent} a chain"
    if mine.get("KL / image") is not None and mine["KL / image"].notna().all():
        return f"{spent}, KL / image {mine['KL / image'].mean():.2f}"
    return spent


def differences(table: pd.DataFrame, first: str, measure: str) -> dict[str, Paired]:
    """``first`` minus every other method, paired by split."""
    wide = table.pivot_table(index="seed", columns="method", values=measure).dropna()
    others = [m for m in wide.columns if m != first]
    return {other: paired_t_test(wide[first].tolist(), wide[other].tolist()) for other in others}


def tests(table: pd.DataFrame, first: str) -> list[list[str]]:
    """A row a prior whose posterior was sampled too: differences in NLL and accuracy with Holm's p."""
    rows: dict[str, list[str]] = {}
    for measure in ("cls/NLL", "cls/Acc"):
        found = {m: d for m, d in differences(table, first, measure).items() if m.endswith(", sampled")}
        adjusted = holm([1.0 if d.p is None else d.p for d in found.values()])
        for (method, d), p in zip(found.items(), adjusted, strict=True):
            text = signed(d.mean, d.half_width, None if d.p is None else p)
            rows.setdefault(method, [_words(method), str(d.seeds)]).append(text)
    return [["minus", "splits", "NLL", "accuracy"], *rows.values()]


def write(table: pd.DataFrame, arguments: argparse.Namespace) -> Path:
    """report.md, runs.csv, forest.png."""
    page = Document(
        f"Weight priors on {SETS.get(arguments.dataset, escape(Path(arguments.dataset).name or arguments.dataset))}"
    )
    page.text(
        f"{table['n'].iloc[0]} images to learn from, {table['test'].iloc[0]} unseen ones, {table['seed'].nunique()} splits; a network of "
        f"{arguments.width} and {2 * arguments.width} channels. Means over splits, ± half the 95% interval; the least NLL first."
    )
    first = f"{arguments.priors[0]}, sampled"
    page.picture(
        "forest.png",
        _forest(table, first),
        f"{_words(first)} minus the others, paired by split, with 95% intervals that are not corrected for their number. Left of 0 in NLL and right of 0 in "
        f"accuracy it predicts better. Not drawn: NLL that differs by more than {_DRAWN:g} nat.",
    )
    page.table(summary(table))
    pairs = tests(table, first)
    if len(pairs) > 1:
        page.text(
            f"{_words(first)} minus the other priors' sampled posteriors, by split; p of the paired t-test, by Holm over a column."
        )
        page.table(pairs)
    with page.folded("What the rows and columns are"):
        page.text(
            "Sampled: the mean prediction of chains on the posterior (underdamped Langevin on the cover, full batch, temperature 1), each from its own draw of the prior. "
            "They count as converged where the 99 percent quantile of rank-normalized split r-hat, over the predicted probabilities of 100 unseen images, is at most 1.1. "
            "The others descend with Adam and count as converged where 250 steps gain less than .01 nats an image. MAP: the most probable point of the same posterior, in "
            "whitened coordinates. nn.Conv2d has no prior. BLiTZ has its defaults: predictions near chance with a KL / image of the order of the logarithm of the number of "
            "classes mean that it fell back to its prior. A prior is judged by its sampled posterior: the other rows say what an approximation costs."
        )
        page.text(
            "NLL: negative log likelihood, nats. ECE: expected calibration error, 15 bins. Core seconds: of one processor, a split. Runs: runs.csv."
        )
    write_csv(arguments.output / "runs.csv", table)
    return page.write(arguments.output)


def _forest(table: pd.DataFrame, first: str) -> bytes:
    nll, accuracy = (differences(table, first, measure) for measure in ("cls/NLL", "cls/Acc"))
    rows = sorted(nll, key=lambda method: -nll[method].mean)
    near = [Cell(*nll[m][:2]) if abs(nll[m].mean) < _DRAWN else None for m in rows]
    panels = [
        Panel("", "NLL, nats (left: better)", near),
        Panel("", "accuracy (right: better)", [Cell(*accuracy[m][:2]) for m in rows]),
    ]
    return forest([_words(m) for m in rows], [colour(m) for m in rows], panels, across=2)
