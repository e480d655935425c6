"""Pictures of the report on CIFAR-10: announced differences, levels against the number of images, corruptions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd

from experiments.cifar10.corruptions import KINDS, SEVERITIES
from experiments.cifar10.methods import METHODS
from experiments.common.forest import Cell, Panel, forest
from experiments.common.palette import colour
from experiments.common.pictures import png
from experiments.common.statistics import interval

PLACES = ["network", "width", "n"]
MEASURES = {"cls/Acc": "accuracy", "scaled/NLL": "NLL at the fitted temperature"}


def where(place: Sequence[object]) -> str:
    network, width, n = place
    return f"{network}, width {width}, n = {n:,}"


def differences(accuracy: pd.DataFrame, nll: pd.DataFrame) -> bytes:
    pairs = list(dict.fromkeys(zip(accuracy["first"], accuracy["second"], strict=True)))
    panels = []
    for rows, axis in (
        (accuracy, "accuracy (right: first better)"),
        (nll, "NLL, scaled (left: first better)"),
    ):
        for place, some in rows.groupby(PLACES):
            by_pair = {(r["first"], r["second"]): r for _, r in some.iterrows()}
            cells = [Cell.of(by_pair[pair]) if pair in by_pair else None for pair in pairs]
            panels.append(Panel(where(place).split(", ", 1)[1], axis, cells))
    labels = [
        f"{METHODS[a].words.removesuffix(', MAP')} - {METHODS[b].words.removesuffix(', MAP')}"
        for a, b in pairs
    ]
    return forest(labels, [colour(b if a == "klein" else a) for a, b in pairs], panels, len(panels) // 2)


def _methods(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    for method in METHODS:
        mine = table[table["method"] == method]
        if len(mine):
            yield method, mine


def sizes(table: pd.DataFrame) -> bytes:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.3, 3.4), layout="constrained")
    axes = figure.subplots(1, 2)
    for axis, (measure, words) in zip(axes, MEASURES.items(), strict=True):
        for k, (method, mine) in enumerate(_methods(table)):
            for j, (_, some) in enumerate(mine.groupby(PLACES[:2])):
                levels = [(n, *interval(found[measure].tolist())) for n, found in some.groupby("n")]
                beside = [n * 1.03 ** (k - 2.5) for n, _, _ in levels]
                label = METHODS[method].words if j == 0 else None
                axis.errorbar(
                    beside, [m for _, m, _ in levels], yerr=[half or 0.0 for _, _, half in levels], color=colour(method),
                    label=label, marker="os^v"[j % 4], markersize=4, linewidth=1, capsize=2,
                )  # fmt: skip
        axis.set_xscale("log")
        axis.set_xticks(ns := sorted(table["n"].unique()), [f"{n:,}" for n in ns])
        axis.minorticks_off()
        axis.set_xlabel("images to learn from")
        axis.set_title(words, fontsize=10)
        axis.grid(color="0.9", linewidth=0.7)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(fontsize=8, frameon=False)
    return png(figure)


def corruptions(table: pd.DataFrame) -> bytes:
    """Of the place with the most seeds, the largest n among them."""
    from matplotlib.figure import Figure

    _, some = max(table.groupby(PLACES), key=lambda group: (group[1]["seed"].nunique(), group[0][2]))
    figure = Figure(figsize=(8.3, 2.6), layout="constrained")
    for axis, kind in zip(figure.subplots(1, len(KINDS), sharey=True), KINDS, strict=True):
        for method, mine in _methods(some):
            severities = range(1, SEVERITIES + 1)
            levels = [mine["cls/Acc"].mean(), *(mine[f"{kind} {s}"].mean() for s in severities)]
            axis.plot(
                [0, *severities], levels, color=colour(method), label=METHODS[method].words, linewidth=1
            )
        axis.set_title(f"{kind}, n = {some['n'].iloc[0]:,}" if kind == "noise" else kind, fontsize=10)
        axis.set_xlabel("severity", fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(color="0.9", linewidth=0.7)
    figure.legend(
        *axis.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8, frameon=False
    )
    return png(figure)
