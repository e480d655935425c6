"""The report's pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
import torch

from experiments.common.pictures import mosaic, png
from experiments.common.statistics import interval
from experiments.common.store import Run

_COLOURS = ("#d62728", "#1f77b4", "#7f7f7f", "#2ca02c", "#ff7f0e", "#9467bd", "#8c564b", "#e377c2")
_SHOWN = 8  # methods in a picture


def curves(results: pd.DataFrame, measures: Mapping[str, str]) -> bytes:
    """A row for each data set and temperature, a column for each measure: mean against training size, with 95% bands."""
    from matplotlib.figure import Figure

    places = list(results.groupby(["dataset", "temperature"], sort=False))
    figure = Figure(figsize=(3.6 * len(measures), 2.6 * len(places)), layout="constrained")
    rows = figure.subplots(len(places), len(measures), squeeze=False)
    shown = list(results["variant"].drop_duplicates())[:_SHOWN]
    for row, ((dataset, temperature), some) in zip(rows, places, strict=True):
        for axis, (measure, word) in zip(row, measures.items(), strict=True):
            for colour, variant in zip(_COLOURS, shown, strict=False):
                found = some[some["variant"] == variant].groupby("train_size")[measure]
                points = found.apply(lambda values: interval(values.tolist()))
                mean = [p.mean for p in points]
                low, high = ([p.mean + sign * (p.half_width or 0) for p in points] for sign in (-1, 1))
                axis.plot(points.index, mean, marker="o", markersize=3, color=colour, label=_short(variant))
                axis.fill_between(points.index, low, high, color=colour, alpha=0.12, linewidth=0)
            sizes = sorted(some["train_size"].unique())
            axis.set(xscale="log", ylabel=word, title=f"{_short(dataset)}, T: {temperature}")
            axis.set_xticks(sizes, [f"{n:g}" for n in sizes], minor=False)
            axis.minorticks_off()
    rows[0][-1].legend(fontsize=7)
    return png(figure)


def reliability(runs: Sequence[Run]) -> bytes:
    """A reliability diagram for each method, its seeds together."""
    from matplotlib.figure import Figure

    methods = list(dict.fromkeys(run.config["method"] for run in runs))[:_SHOWN]
    figure = Figure(figsize=(2.8 * len(methods), 3), layout="constrained")
    for axis, method in zip(figure.subplots(1, len(methods), squeeze=False)[0], methods, strict=True):
        parts = [run.result["reliability"] for run in runs if run.config["method"] == method]
        counts = torch.tensor([part["counts"] for part in parts], dtype=torch.double)
        right = (counts * torch.tensor([part["accuracy"] for part in parts], dtype=torch.double)).sum(0)
        total = counts.sum(0)
        bins = len(total)
        bars = axis.bar(
            (torch.arange(bins) + 0.5).div(bins).tolist(),
            (right / total.clamp_min(1)).tolist(),
            1 / bins,
            edgecolor="white",
        )
        for bar, share in zip(bars, (total / total.max()).sqrt().tolist(), strict=True):
            bar.set_alpha(0.1 + 0.9 * share)  # three predictions in a bin say little
        axis.plot([0, 1], [0, 1], color="black", linewidth=1)
        axis.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", title=_short(method), aspect="equal")
    figure.axes[0].set_ylabel("accuracy")
    return png(figure)


def kernels(runs: Sequence[Run]) -> bytes:
    """A row for each run: kernels of the first layer before and after training."""
    from matplotlib.figure import Figure

    runs = runs[:_SHOWN]
    figure = Figure(figsize=(8, 1.3 * len(runs)), layout="constrained")
    for axes, run in zip(figure.subplots(len(runs), 2, squeeze=False), runs, strict=True):
        for axis, kind in zip(axes, ("prior", "posterior"), strict=True):
            axis.imshow(mosaic(torch.tensor(run.result["kernels"][kind])), cmap="RdBu_r", vmin=-1, vmax=1)
            axis.set_title(f"{_short(run.config['method'])}: {kind}", fontsize=9)
            axis.axis("off")
    return png(figure)


def _short(name: object) -> str:
    """A label as plain text: matplotlib reads mathematics between dollar signs."""
    text = str(name).encode("utf-8", "backslashreplace").decode().replace("$", r"\$")
    return text if len(text) <= 30 else f"{text[:14]}…{text[-15:]}"
