"""The report of the Klein-Circles runs, from what is stored of them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from experiments.common.document import Document
from experiments.common.store import Run
from experiments.klein_circles.images import ImageSet
from topoprior.topology.loops import SAFE_STEP

LOOPS, CERTIFIED = "loops kept", "certified"
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
    CERTIFIED,
    "seam jump",
)
_NOTES = {
    "bottleneck": "**Bottleneck** distances between Rips diagrams, degree and field as named, and the mean of the "
    "four: computed as published; they measure the latent metric, not the encoder.",
    LOOPS: "**Loops kept**: runs whose encoder carries the generating loops to generators of the fundamental group; "
    "unclear where it jumps by more than a quarter of the shortest loop, so that a lift of the path is a guess.",
    CERTIFIED: "**Certified**: runs whose encoder tears no triangle of neighbours among 1,500 training images and keeps all "
    "loops, read without the generating points.",
    "isometry distance": "**Isometry distance**: mean distance to the true point after the best isometry.",
    "seam jump": "**Seam jump**: largest change of a decoded probability between two lifts of a point.",
}


def report(runs: Sequence[Run], images: ImageSet) -> Document:
    """The table over seeds, beside the published one, and every run."""
    config = runs[0].config
    published = config["images"] == "published"
    results = [_checked(run.result["measures"], images) for run in runs]
    models = list(dict.fromkeys(run.config["model"] for run in runs))
    seeds = sorted({run.config["seed"] for run in runs})
    used = [column for column in COLUMNS if any(column in found for found in results)]
    page = Document(images.title + (", without warm start" if config["cold"] else ""))
    page.text(
        f"{config['num_images']:,} images (80 / 10 / 10), {config['epochs']} epochs in {config['precision']}, "
        f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}, "
        f"at most {max(found['parameters'] for found in results):,} parameters. "
        "Test set; mean ± standard deviation over seeds. Lower is better, but for trustworthiness, continuity "
        "and loops." + (" Published: one seed, 50 epochs." if published else "")
    )
    table: list[Sequence[object]] = [("model", *used)]
    for model in models:
        chosen = [found for run, found in zip(runs, results, strict=True) if run.config["model"] == model]
        table.append((model, *(_cell(chosen, column) for column in used)))
        if published and model in PUBLISHED:
            known = PUBLISHED[model]
            table.append((f"{model}, published", *(f"{known[c]:g}" if c in known else "" for c in used)))
    page.table(table)
    page.text(" ".join(note for column, note in _NOTES.items() if column in used))
    page.heading("Every run")
    page.table(_every_run(runs, results))
    return page


def _checked(measures: dict[str, Any], images: ImageSet) -> dict[str, Any]:
    """Measures as they may be shown."""
    results = {key: value for key, value in measures.items() if value is not None}
    if not math.isfinite(images.space.volume):
        # The scale of an open direction is the prior's, not that of the generating points.
        results.pop("isometry distance", None)
    if "largest step" in results:
        results["largest step"] /= images.space.shortest_loop
        if results["largest step"] > SAFE_STEP:
            results[LOOPS] = None
    return results


def _every_run(runs: Sequence[Run], results: Sequence[dict[str, Any]]) -> list[Sequence[object]]:
    columns = ("negative ELBO", "trustworthiness", "continuity")
    said = [column for column in (LOOPS, CERTIFIED) if any(column in found for found in results)]
    rows: list[Sequence[object]] = [
        ("model", "seed", *columns, *said, "largest step / shortest loop", "warm start mismatch", "minutes")
    ]
    for run, found in zip(runs, results, strict=True):
        numbers = (("largest step", ".3f"), ("warm start mismatch", ".3f"), ("minutes", ".1f"))
        rows.append(
            (
                run.config["model"],
                run.config["seed"],
                *(f"{found[c]:.4g}" for c in columns),
                *(
                    {True: "yes", False: "no", None: "unclear"}[found[c]] if c in found else ""
                    for c in said
                ),
                *(f"{found[name]:{digits}}" if name in found else "" for name, digits in numbers),
            )
        )
    return rows


def _cell(results: list[dict[str, Any]], column: str) -> str:
    values = [result[column] for result in results if column in result]
    if not values:
        return ""
    if column in (LOOPS, CERTIFIED):
        unclear = values.count(None)
        return f"{values.count(True)} of {len(values)}" + (f", {unclear} unclear" if unclear else "")
    if column == "seam jump":
        return f"{max(values):.0e}"
    digits = max(0, 3 - math.ceil(math.log10(max(abs(statistics.fmean(values)), 1e-9))))
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.{digits}f}{spread}"
