"""What the comparison says, as a table in plain text, as markdown and as pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from experiments.common.document import markdown_table
from experiments.common.pictures import mosaic, png
from experiments.common.statistics import Interval, interval
from experiments.priors.metrics import METRICS

if TYPE_CHECKING:
    pass

Run = Mapping[str, Any]
COLUMNS = (*METRICS, "KL / image", "parameters", "train seconds")


def summarize(runs: Sequence[Run]) -> dict[str, dict[str, Interval]]:
    """For each method, in order of appearance, the interval of every column over its seeds."""
    methods = dict.fromkeys(run["method"] for run in runs)
    return {
        method: {
            column: interval([run["results"][column] for run in runs if run["method"] == method])
            for column in COLUMNS
        }
        for method in methods
    }


def paired_differences(runs: Sequence[Run]) -> dict[str, dict[str, Interval]]:
    """First method minus each other one, seed by seed: they share data, batches and seed.

    What the seeds have in common cancels, so these intervals are narrower than those of the means.
    """
    values: dict[str, dict[int, Run]] = {}
    for run in runs:
        values.setdefault(run["method"], {})[run["seed"]] = run["results"]
    first, *others = values
    return {
        f"{first} - {other}": {
            metric: interval([values[first][s][metric] - values[other][s][metric] for s in values[first]])
            for metric in METRICS
        }
        for other in others
    }


def rows(table: Mapping[str, Mapping[str, Interval]], corner: str) -> list[list[str]]:
    """Header and one row of text for each entry."""
    columns = list(next(iter(table.values())))
    header = [corner, *columns]
    return [header, *([name, *(_cell(c, entry[c]) for c in columns)] for name, entry in table.items())]


def _cell(column: str, value: Interval) -> str:
    return f"{value.mean:.0f}" if column == "parameters" else str(value)


def plain(table: list[list[str]]) -> str:
    """Aligned text for a terminal."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [
        "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in table
    ]
    lines.insert(1, "  ".join("-" * w for w in widths))
    return "\n".join(lines)


def markdown(config: Mapping[str, Any], runs: Sequence[Run]) -> str:
    """The whole report."""
    arguments = config["arguments"]
    seeds = ", ".join(map(str, arguments["seeds"]))
    differences = paired_differences(runs)
    parts = [
        "# Priors compared",
        f"Data: {arguments['dataset']}, {config['train_images']} training and {config['test_images']} test "
        f"images of {config['image_shape']}. Budget: {arguments['steps']} steps of {arguments['batch_size']} "
        f"images, temperature {arguments['temperature']:g}, {arguments['samples']} posterior samples. "
        f"Seeds: {seeds}. Mean over seeds ± half its 95% interval (Student's t). "
        "KL / image: KL(posterior || prior) in nats over the number of training images, which the bound charges.",
        _pipes(rows(summarize(runs), "method")),
    ]
    if differences:
        parts += ["Paired differences, seed by seed:", _pipes(rows(differences, "difference"))]
    parts += [
        "## Kernels of the first layer",
        "Left: drawn from the prior (for a deterministic network, from its initialization). "
        "Right: drawn from the posterior after training, first seed. Each kernel has a scale of its own.",
        "![kernels](kernels.png)",
        "## Calibration",
        "Accuracy against confidence, all seeds together; the fainter a bar, the fewer predictions. "
        "Bars below the diagonal: overconfident.",
        "![reliability diagrams](reliability.png)",
        "## Settings",
        "Chosen on validation data with equal effort for each method; see `experiments/priors/tune.py`.",
        _pipes([["method", "settings"], *([name, f"`{s}`"] for name, s in config["settings"].items())]),
    ]
    return "\n\n".join(parts) + "\n"


def _pipes(table: list[list[str]]) -> str:
    return "\n".join(markdown_table(table))


def kernels_picture(prior: Mapping[str, Tensor], posterior: Mapping[str, Tensor]) -> bytes:
    """PNG: a row for each method, kernels (N, h, w) of its prior beside those of its posterior."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.3 * len(prior)), layout="constrained")
    axes = figure.subplots(len(prior), 2, squeeze=False)
    for (left, right), method in zip(axes, prior, strict=True):
        for axis, kind, kernels in ((left, "prior", prior), (right, "posterior", posterior)):
            axis.imshow(mosaic(kernels[method]), cmap="RdBu_r", vmin=-1, vmax=1)
            axis.set_title(f"{method}: {kind}", fontsize=9)
            axis.axis("off")
    return png(figure)


def reliability_picture(runs: Sequence[Run]) -> bytes:
    """PNG: a reliability diagram for each method, its seeds together."""
    from matplotlib.figure import Figure

    methods = list(dict.fromkeys(run["method"] for run in runs))
    figure = Figure(figsize=(2.8 * len(methods), 3), layout="constrained")
    for axis, method in zip(figure.subplots(1, len(methods), squeeze=False)[0], methods, strict=True):
        parts = [run["reliability"] for run in runs if run["method"] == method]
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
        axis.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", title=method, aspect="equal")
    figure.axes[0].set_ylabel("accuracy")
    return png(figure)
