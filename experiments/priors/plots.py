"""The report's pictures, from runs alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

import topoprior as tp
from experiments.common.pictures import mosaic, png
from experiments.priors.table import Cell, Comparison, LearningCurve, Run, Table, Variant

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = ("#d62728", "#1f77b4", "#7f7f7f", "#2ca02c", "#ff7f0e", "#9467bd", "#8c564b", "#e377c2")


def curves(table: Table, dataset: str, variants: Sequence[Variant], measures: dict[str, str]) -> bytes:
    """A row for each temperature, a column for each measure: mean against training size, with 95% bands."""
    from matplotlib.figure import Figure

    temperatures = table.temperatures
    figure = Figure(figsize=(4.2 * len(measures), 3.2 * len(temperatures)), layout="constrained")
    axes = figure.subplots(len(temperatures), len(measures), squeeze=False)
    for row, temperature in zip(axes, temperatures, strict=True):
        for axis, (measure, word) in zip(row, measures.items(), strict=True):
            for colour, variant in zip(_COLOURS * 3, variants, strict=False):
                _curve(axis, table, dataset, temperature, variant, measure, colour)
            axis.set(xscale="log", xlabel="training images", ylabel=word, title=f"T: {temperature}")
            sizes = table.sizes(dataset)
            axis.set_xticks(sizes, [str(n) for n in sizes], minor=False)
            axis.minorticks_off()
    axes[0][-1].legend(fontsize=7)
    return png(figure)


def _curve(
    axis: Axes, table: Table, dataset: str, temperature: str, variant: Variant, measure: str, colour: str
) -> None:
    points = [
        (size, value)
        for size in table.sizes(dataset)
        if (value := table.interval(Cell(dataset, size, temperature), variant, measure)) is not None
    ]
    if not points:
        return
    sizes = [size for size, _ in points]
    means = [value.mean for _, value in points]
    widths = [value.half_width or 0.0 for _, value in points]
    axis.plot(sizes, means, marker="o", markersize=3, color=colour, label=str(variant))
    low, high = ([m + sign * w for m, w in zip(means, widths, strict=True)] for sign in (-1, 1))
    axis.fill_between(sizes, low, high, color=colour, alpha=0.12, linewidth=0)


def learning(curves: dict[str, dict[str, LearningCurve]], words: dict[str, str]) -> bytes:
    """A row for each place, a column for each measure: mean over seeds against steps, with 95% bands."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6 * len(words), 3.2 * len(curves)), layout="constrained")
    rows = figure.subplots(len(curves), len(words), squeeze=False)
    names = dict.fromkeys(name for of_methods in curves.values() for name in of_methods)
    colours = dict(zip(names, _COLOURS * 3, strict=False))  # a method's is the same everywhere
    for row, (place, of_methods) in zip(rows, curves.items(), strict=True):
        for axis, (measure, word) in zip(row, words.items(), strict=True):
            for name, curve in of_methods.items():
                steps, values = zip(*curve.of(measure).items(), strict=True)
                means = [value.mean for value in values]
                low = [value.mean - (value.half_width or 0) for value in values]
                high = [value.mean + (value.half_width or 0) for value in values]
                axis.plot(steps, means, marker="o", markersize=3, color=colours[name], label=name)
                axis.fill_between(steps, low, high, color=colours[name], alpha=0.12, linewidth=0)
            axis.set(xscale="log", xlabel="steps", ylabel=word, title=place)
        row[-1].legend(fontsize=7)
    return png(figure)


def differences(comparisons: Sequence[Comparison], words: dict[str, str]) -> bytes:
    """Paired differences with their 95% intervals, a column for each measure."""
    from matplotlib.figure import Figure

    measures = [m for m in words if any(c.measure == m for c in comparisons)]
    places = list(dict.fromkeys(c.cell for c in comparisons))
    figure = Figure(figsize=(3.6 * len(measures), 1.2 + 0.28 * len(places)), layout="constrained")
    for axis, measure in zip(figure.subplots(1, len(measures), squeeze=False)[0], measures, strict=True):
        for comparison in comparisons:
            if comparison.measure != measure:
                continue
            y = -places.index(comparison.cell)
            colour = {"better": "#2ca02c", "worse": "#d62728", "open": "#7f7f7f"}[comparison.verdict]
            width = comparison.result.half_width or 0.0
            axis.errorbar(
                comparison.result.mean, y, xerr=width, fmt="o", markersize=4, color=colour, capsize=2
            )
        axis.axvline(0, color="black", linewidth=0.8)
        axis.set(title=words[measure])
        axis.set_yticks([-i for i in range(len(places))], [f"{c.dataset} {c.train_size}" for c in places])
        if axis is not figure.axes[0]:
            axis.set_yticklabels([])
    return png(figure)


def bottle(runs: Sequence[Run]) -> bytes | None:
    """First-layer kernels before and after training; for Klein layers, where they lie on the bottle."""
    from matplotlib.figure import Figure

    runs = [run for run in runs if "kernels" in run]
    if not runs:
        return None
    figure = Figure(figsize=(11, 2.6 * len(runs)), layout="constrained")
    for row, run in zip(figure.subplots(len(runs), 3, squeeze=False), runs, strict=True):
        kernels, name = run["kernels"], run["config"]["method"]
        for axis, kind in zip(row, ("prior", "posterior"), strict=False):
            axis.imshow(mosaic(torch.tensor(kernels[kind])), cmap="RdBu_r", vmin=-1, vmax=1)
            axis.set_title(f"{name}: {kind}", fontsize=9)
            axis.axis("off")
        if "points" in kernels:
            _on_the_bottle(row[2], kernels)
        else:
            row[2].axis("off")
    return png(figure)


def _on_the_bottle(axis: Axes, kernels: dict[str, Any]) -> None:
    """Posterior means over the decoded kernels of a fundamental domain; size: amplitude, bars: std."""
    prior = tp.DecoderPrior.from_pretrained("klein-3x3")
    across, down = 12, 8
    u, v = (torch.arange(across) + 0.5) / across, (torch.arange(down) + 0.5) / down
    grid = prior.decode(torch.cartesian_prod(u, v)).unflatten(0, (across, down))
    picture = torch.zeros(down * 4, across * 4)
    for i in range(across):
        for j in range(down):
            kernel = grid[i, j] / grid[i, j].abs().max()
            picture[j * 4 : j * 4 + 3, i * 4 : i * 4 + 3] = kernel
    axis.imshow(picture, cmap="RdBu_r", vmin=-1, vmax=1, alpha=0.45, extent=(0, 1, 1, 0), aspect="auto")
    points = torch.tensor(kernels["points"])
    scales = torch.tensor(kernels["point scales"])
    amplitudes = torch.tensor(kernels["amplitudes"]).abs()
    axis.errorbar(
        points[:, 0].tolist(), points[:, 1].tolist(),
        xerr=scales[:, 0].clamp(max=0.5).tolist(), yerr=scales[:, 1].clamp(max=0.5).tolist(),
        fmt="none", ecolor="black", elinewidth=0.6,
    )  # fmt: skip
    axis.scatter(
        points[:, 0].tolist(), points[:, 1].tolist(), s=(8 + 30 * amplitudes).tolist(), color="black"
    )
    axis.set(xlim=(0, 1), ylim=(1, 0), xlabel="u = θ1 / π", ylabel="v = θ2 / 2π")
    axis.set_title("posterior on the Klein bottle", fontsize=9)
