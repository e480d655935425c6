"""The report of the Klein-Circles runs, from what is stored of them."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.common.document import markdown_table
from experiments.klein_circles.images import ImageSet
from experiments.klein_circles.targets import LOOPS, targets
from topoprior.topology.fit import Fit
from topoprior.topology.loops import SAFE_STEP

Run = dict[str, Any]
BOTTLENECKS = tuple(f"bottleneck H{degree} Z/{field}" for field in (2, 3) for degree in (1, 2))
# github.com/bekemax/KleinVAE, results/klein_circles/results.csv, seed 28.
PUBLISHED = {
    model: dict(
        zip(("reconstruction NLL", "negative ELBO", "bottleneck", *BOTTLENECKS), numbers, strict=True)
    )
    for model, numbers in {
        "klein": (62.22, 76.68, 0.1261, 0.1325, 0.1819, 0.1643, 0.0256),
        "torus": (121.03, 132.61, 0.1455, 0.2370, 0.1672, 0.1160, 0.0619),
        "euclidean": (20.46, 31.98, 0.1876, 0.2532, 0.1819, 0.2532, 0.0619),
    }.items()
}
COLUMNS = (
    "reconstruction NLL",
    "negative ELBO",
    "KL",
    *BOTTLENECKS,
    "bottleneck",
    "trustworthiness",
    "continuity",
    "isometry distance",
    LOOPS,
    "seam jump",
)
_NOTES = {
    "bottleneck": "**Bottleneck** distances between Rips diagrams, degree and field as named, and the mean of the "
    "four: computed as published; they measure the latent metric, not the encoder.",
    LOOPS: "**Loops kept**: runs whose encoder carries the generating loops to generators of the fundamental group; "
    "unclear where it jumps by more than a quarter of the shortest loop, so that a lift of the path is a guess.",
    "isometry distance": "**Isometry distance**: mean distance to the true point after the best isometry.",
    "seam jump": "**Seam jump**: largest change of a decoded probability between two lifts of a point.",
}


def markdown(stored: Sequence[Run], images: ImageSet, folder: Path) -> str:
    """report.md: the table, the targets, every run, and the pictures that are in ``folder``."""
    runs = [_checked(run, images) for run in stored]
    config, published = runs[0]["config"], runs[0]["config"]["data"] == "published"
    models = list(dict.fromkeys(run["config"]["model"] for run in runs))
    seeds = sorted({run["config"]["seed"] for run in runs})
    used = [column for column in COLUMNS if any(column in run["results"] for run in runs)]
    lines = [
        f"# {images.title}" + (", without warm start" if config["cold"] else ""),
        "",
        f"{config['num_images']:,} images (80 / 10 / 10), {config['epochs']} epochs in {config['precision']}, "
        f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}, "
        f"at most {max(run['parameters'] for run in runs):,} parameters. "
        "Test set; mean ± standard deviation over seeds. Lower is better, but for trustworthiness, continuity "
        "and loops." + (" Published: one seed, 50 epochs." if published else ""),
        "",
    ]
    table: list[Sequence[object]] = [("model", *used)]
    for model in models:
        chosen = [run["results"] for run in runs if run["config"]["model"] == model]
        table.append((model, *(_cell(chosen, column) for column in used)))
        if published and model in PUBLISHED:
            known = PUBLISHED[model]
            table.append((f"{model}, published", *(f"{known[c]:g}" if c in known else "" for c in used)))
    lines += [
        *markdown_table(table),
        "",
        " ".join(note for column, note in _NOTES.items() if column in used),
    ]
    rows = (
        [] if config["cold"] else targets(runs, images, _read(folder, "throughput"), _read(folder, "cost"))
    )
    if rows:
        lines += ["", "## Targets", "", *markdown_table([("", "target", "result", "met"), *rows])]
    lines += ["", "## Every run", "", *_every_run(runs, images)]
    for picture in ["curves.png", *(f"latents-{model}.png" for model in models)]:
        if (folder / picture).exists():
            lines += ["", f"![{picture.removesuffix('.png')}]({picture})"]
    return "\n".join(lines) + "\n"


def _checked(run: Run, images: ImageSet) -> Run:
    """The run with its results as they may be shown."""
    results = dict(run["results"])
    if not math.isfinite(images.space.volume):
        # The scale of an open direction is the prior's, not that of the generating points.
        results.pop("isometry distance", None)
    if "largest step" in results:
        results["largest step"] /= images.space.shortest_loop
        if results["largest step"] > SAFE_STEP:
            results[LOOPS] = None
    return {**run, "results": results}


def _every_run(runs: Sequence[Run], images: ImageSet) -> list[str]:
    columns = ("negative ELBO", "trustworthiness", "continuity")
    rows: list[Sequence[object]] = [
        ("model", "seed", *columns, LOOPS, "largest step / shortest loop", "warm start mismatch", "minutes")
    ]
    for run in runs:
        results, start = run["results"], run["warm_start"]
        rows.append(
            (
                run["config"]["model"],
                run["config"]["seed"],
                *(f"{results[c]:.4g}" for c in columns),
                {True: "yes", False: "no", None: "unclear"}[results[LOOPS]] if LOOPS in results else "",
                f"{results['largest step']:.3f}" if "largest step" in results else "",
                "" if start is None else f"{Fit.of(start).mismatch:.3f}",
                "" if run["seconds"] is None else f"{run['seconds'] / 60:.1f}",
            )
        )
    return markdown_table(rows)


def _cell(results: list[dict[str, Any]], column: str) -> str:
    values = [result[column] for result in results if column in result]
    if not values:
        return ""
    if column == LOOPS:
        unclear = values.count(None)
        return f"{values.count(True)} of {len(values)}" + (f", {unclear} unclear" if unclear else "")
    if column == "seam jump":
        return f"{max(values):.0e}"
    digits = max(0, 3 - math.ceil(math.log10(max(abs(statistics.fmean(values)), 1e-9))))
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.{digits}f}{spread}"


def _read(folder: Path, name: str) -> dict[str, Any] | None:
    path = folder / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
