"""Tables and pictures of the Klein-Circles runs."""

from __future__ import annotations

import argparse
import io
import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from experiments.klein_circles_data import ImageSet, Split
from topoprior.spectral import Fit

# github.com/bekemax/KleinVAE, results/klein_circles/results.csv, seed 28.
PUBLISHED = {
    "klein": (62.22, 76.68, 0.1261),
    "torus": (121.03, 132.61, 0.1455),
    "euclidean": (20.46, 31.98, 0.1876),
}
COLUMNS = (
    "reconstruction NLL",
    "negative ELBO",
    "KL",
    "bottleneck",
    "trustworthiness",
    "continuity",
    "isometry distance",
    "loops kept",
    "seam jump",
)


def markdown(runs: list[dict[str, Any]], arguments: argparse.Namespace) -> str:
    """The published columns beside ours, then every run."""
    models = list(dict.fromkeys(run["config"]["model"] for run in runs))
    lines = [
        f"# Klein-Circles: {arguments.data}",
        "",
        f"{arguments.num_images:,} images (80 / 10 / 10), {arguments.epochs} epochs, {arguments.seeds} seeds "
        f"from {arguments.first_seed}, at most {max(run['parameters'] for run in runs):,} parameters. "
        "Test set; mean and standard deviation over seeds. Lower is better, but for trustworthiness, continuity "
        "and loops. Published: one seed.",
        "",
        "| model | " + " | ".join(COLUMNS) + " |",
        "|---|" + "---|" * len(COLUMNS),
    ]
    for model in models:
        chosen = [run["results"] for run in runs if run["config"]["model"] == model]
        lines.append(f"| {model} | " + " | ".join(_cell(chosen, column) for column in COLUMNS) + " |")
        if arguments.data == "published" and model in PUBLISHED:
            nll, elbo, bottleneck = PUBLISHED[model]
            numbers = {"reconstruction NLL": nll, "negative ELBO": elbo, "bottleneck": bottleneck}
            cells = [f"{numbers[c]:g}" if c in numbers else "" for c in COLUMNS]
            lines.append(f"| {model}, published | " + " | ".join(cells) + " |")
    lines += [
        "",
        "Bottleneck: mean over degrees 1, 2 and fields Z/2, Z/3, as published; it measures the latent metric, "
        "not the encoder. Loops kept: runs whose encoder carries the generating loops to generators of the "
        "fundamental group. Isometry distance: mean distance to the true point after the best isometry. Seam "
        "jump: largest change of a decoded probability between two lifts of a point.",
        "",
        "| model | seed | negative ELBO | trustworthiness | continuity | loops kept | warm start mismatch | minutes |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for run in runs:
        results, start = run["results"], run["warm_start"]
        mismatch = "" if start is None else f"{_mismatch(start):.3f}"
        minutes = "" if run["seconds"] is None else f"{run['seconds'] / 60:.1f}"
        scores = [results[c] for c in ("negative ELBO", "trustworthiness", "continuity")]
        numbers_text = " | ".join(f"{value:.4g}" for value in scores)
        kept = results.get("loops kept", "")
        lines.append(
            f"| {run['config']['model']} | {run['config']['seed']} | {numbers_text} | {kept} | {mismatch} | {minutes} |"
        )
    return "\n".join(lines) + "\n"


def _mismatch(start: dict[str, float]) -> float:
    return Fit(torch.empty(0), **start).mismatch


def _cell(results: list[dict[str, Any]], column: str) -> str:
    values = [result[column] for result in results if column in result]
    if not values:
        return ""
    if column == "loops kept":
        return f"{sum(values)} of {len(values)}"
    if column == "seam jump":
        return f"{max(values):.0e}"
    digits = max(0, 3 - math.ceil(math.log10(max(abs(statistics.fmean(values)), 1e-9))))
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.{digits}f}{spread}"


def pictures(
    runs: list[dict[str, Any]],
    images: ImageSet,
    split: Split,
    checkpoints: Path,
    build: Callable[..., Any],
) -> dict[str, bytes]:
    """curves.png (validation), and of the first run of every model latents and decoded grids; none
    without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return {}
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figures = {}
    figure, axis = plt.subplots(figsize=(6, 4))
    colors: dict[str, str] = {}
    for run in runs:
        model = run["config"]["model"]
        label = None if model in colors else model
        color = colors.setdefault(model, f"C{len(colors)}")
        axis.plot(range(1, len(run["validation"]) + 1), run["validation"], color=color, label=label)
    axis.set(xlabel="epoch", ylabel="negative ELBO, validation (nats)", yscale="log")
    axis.legend()
    figures["curves.png"] = figure

    firsts = {run["config"]["model"]: run for run in reversed(runs)}
    for model, run in firsts.items():
        path = checkpoints / f"{run['name']}.pt"
        if not path.exists():
            continue
        vae = build(run["config"], images, split.train[0].shape[1:])
        vae.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["best_state"])
        figures[f"latents-{model}.png"] = _latents(plt, vae, split)
    encoded = {}
    for name, figure in figures.items():
        buffer = io.BytesIO()
        figure.savefig(buffer, dpi=110, bbox_inches="tight")
        plt.close(figure)
        encoded[name] = buffer.getvalue()
    return encoded


@torch.no_grad()
def _latents(plt: Any, vae: Any, split: Split) -> Any:
    """Latents of test images, colored by either generating coordinate, and images decoded on a grid."""
    x, points = split.test[0][:3000], split.test[1][:3000]
    latents = vae.covering.project(vae.latents(x))
    figure, axes = plt.subplots(1, 3, figsize=(13, 4))
    for axis, coordinate in zip(axes, (0, 1), strict=False):
        marks = axis.scatter(
            latents[:, 0], latents[:, 1], c=points[:, coordinate] % 1, s=4, cmap="twilight", linewidths=0
        )
        axis.set(
            xlabel="first latent", ylabel="second latent", title=f"colored by coordinate {coordinate + 1}"
        )
        figure.colorbar(marks, ax=axis)
    side = 12
    order = torch.linspace(0, len(latents) - 1, side * side).long()
    rows = latents[latents[:, 0].argsort()][order]
    decoded = vae.decode(rows).sigmoid()
    height, width = decoded.shape[1:]
    tiles = decoded.reshape(side, side, height, width).permute(0, 2, 1, 3).reshape(side * height, -1)
    axes[2].imshow(tiles, cmap="gray_r")
    axes[2].set(title="decoded", xticks=[], yticks=[])
    return figure
