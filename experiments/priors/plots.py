"""The report's pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
import torch

from experiments.common.forest import plain
from experiments.common.palette import colour
from experiments.common.pictures import mosaic, png
from experiments.common.statistics import interval
from experiments.common.store import Run
from experiments.priors.grid import LEADING

_SHOWN = 8  # methods in a picture
_CURVES = 6  # methods whose bands can be told apart
_WIDTH = 8.3  # inches: the width of a page


def curves(results: pd.DataFrame, measures: Mapping[str, str]) -> bytes:
    """A row for each data set, a column for each measure: mean against training size, with 95% bands."""
    from matplotlib.figure import Figure

    places = list(results.groupby("dataset", sort=False))
    figure = Figure(figsize=(_WIDTH, 2.6 * len(places) + 0.6), layout="constrained")
    rows = figure.subplots(len(places), len(measures), squeeze=False)
    variants = [v for v in results["variant"].drop_duplicates() if "start" not in v]
    shown = sorted(variants, key=lambda v: v not in LEADING)[:_CURVES]
    for row, (dataset, some) in zip(rows, places, strict=True):
        for axis, (measure, word) in zip(row, measures.items(), strict=True):
            for variant in shown:
                shade = colour(variant)
                found = some[some["variant"] == variant].groupby("train_size")[measure]
                points = found.apply(lambda values: interval(values.tolist()))
                mean = [p.mean for p in points]
                low, high = ([p.mean + sign * (p.half_width or 0) for p in points] for sign in (-1, 1))
                axis.plot(points.index, mean, marker="o", markersize=3, color=shade, label=plain(variant))
                axis.fill_between(points.index, low, high, color=shade, alpha=0.12, linewidth=0)
            sizes = sorted(some["train_size"].unique())
            axis.set(xscale="log", ylabel=word, title=plain(dataset))
            axis.set_xticks(sizes, [f"{n / 1000:g}k" if n >= 1000 else f"{n:g}" for n in sizes], fontsize=8)
            axis.minorticks_off()
    figure.legend(*rows[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=9)
    return png(figure)


def learning(runs: Sequence[Run], measures: Mapping[str, str]) -> bytes:
    """Test measures while training goes on: a row for each data set, means over seeds; a method's other start is dashed."""
    from matplotlib.figure import Figure

    points = pd.DataFrame(
        [{**run.config, **point} for run in runs for point in run.result.get("curve", [])]
    )
    places = list(points.groupby("dataset", sort=False))
    figure = Figure(figsize=(_WIDTH, 2.6 * len(places) + 0.6), layout="constrained")
    rows = figure.subplots(len(places), len(measures), squeeze=False)
    lines = {}
    for row, (dataset, some) in zip(rows, places, strict=True):
        for axis, (measure, word) in zip(row, measures.items(), strict=True):
            for (method, start), found in some.groupby(["method", "start"], sort=False):
                name, style = (method, "-") if start == "own" else (f"{method}, {start} start", "--")
                mean = found.groupby("step")[measure].mean()
                (lines[name],) = axis.plot(mean.index, mean, style, marker=".", color=colour(method))
            axis.set(xscale="log", xlabel="steps", ylabel=word, title=plain(dataset))
    figure.legend(lines.values(), map(plain, lines), loc="outside lower center", ncols=3, fontsize=9)
    return png(figure)


def reliability(runs: Sequence[Run]) -> bytes:
    """A reliability diagram for each method, its seeds together."""
    from matplotlib.figure import Figure

    methods = list(dict.fromkeys(run.config["method"] for run in runs))[:_SHOWN]
    across = min(4, len(methods))
    lines = -(-len(methods) // across)
    figure = Figure(figsize=(_WIDTH, 2.5 * lines), layout="constrained")
    grid = figure.subplots(lines, across, squeeze=False)
    for axis in grid.flat[len(methods) :]:
        axis.set_visible(False)
    for axis, method in zip(grid.flat, methods, strict=False):
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
            color=colour(method),
        )
        for bar, share in zip(bars, (total / total.max()).sqrt().tolist(), strict=True):
            bar.set_alpha(0.1 + 0.9 * share)  # three predictions in a bin say little
        axis.plot([0, 1], [0, 1], color="black", linewidth=1)
        axis.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", title=plain(method), aspect="equal")
    for axis in grid[:, 0]:
        axis.set_ylabel("accuracy")
    return png(figure)


def kernels(runs: Sequence[Run]) -> bytes:
    """A row for each run: kernels of the first layer before and after training."""
    from matplotlib.figure import Figure

    runs = runs[:_SHOWN]
    figure = Figure(figsize=(8, 1.3 * len(runs)), layout="constrained")
    for axes, run in zip(figure.subplots(len(runs), 2, squeeze=False), runs, strict=True):
        for axis, kind in zip(axes, ("prior", "posterior"), strict=True):
            axis.imshow(mosaic(torch.tensor(run.result["kernels"][kind])), cmap="RdBu_r", vmin=-1, vmax=1)
            axis.set_title(f"{plain(run.config['method'])}: {kind}", fontsize=9)
            axis.axis("off")
    return png(figure)
