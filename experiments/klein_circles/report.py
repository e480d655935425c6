"""The report of the Klein-Circles runs, from what is stored of them.

    python -m experiments.klein_circles.report results/klein-circles

From runs.csv; pictures that are in the folder are shown, and no other drawn but the comparison of the spaces.
"""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.common.document import Document
from experiments.common.forest import Cell, Panel, forest
from experiments.common.options import report_again
from experiments.common.palette import colour
from experiments.common.statistics import interval
from experiments.common.store import Run
from experiments.klein_circles.images import ImageSet, image_set
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
    "negative ELBO",
    "reconstruction NLL",
    "KL",
    "trustworthiness",
    "continuity",
    "isometry distance",
    LOOPS,
    CERTIFIED,
    "seam jump",
)
_CONFIG = ("images", "model", "seed", "epochs", "num_images", "precision", "cold")
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
_ABOUT_FOREST = "Means over seeds with 95% intervals, on the test set; points without one are of one seed."


def main(argv: Sequence[str] | None = None) -> int:
    return report_again(
        __doc__,
        argv,
        read,
        lambda runs, folder: report(runs, image_set(runs[0].config["images"]), folder=folder),
    )


def read(path: Path) -> list[Run]:
    """Of a runs.csv: what the report needs of a configuration, and the measures."""
    rows = pd.read_csv(path).astype(object)
    rows = rows.where(rows.notna(), None)
    return [
        Run({name: row[name] for name in _CONFIG}, {"measures": row}, {}) for row in rows.to_dict("records")
    ]


def report(
    runs: Sequence[Run],
    images: ImageSet,
    pictures: Mapping[str, bytes] | None = None,
    folder: Path | None = None,
) -> Document:
    """A picture and the table over seeds, beside the published one; every run, folded.

    Args:
        pictures: "curves.png" and "latents-MODEL.png".
        folder: where those are that are not given.
    """
    config = runs[0].config
    published = config["images"] == "published"
    results = [_checked(run.result["measures"], images) for run in runs]
    known = [*PUBLISHED]
    models = sorted(
        {run.config["model"] for run in runs}, key=lambda m: (m not in known, [*known, m].index(m), m)
    )
    of = {m: [f for run, f in zip(runs, results, strict=True) if run.config["model"] == m] for m in models}
    seeds = sorted({run.config["seed"] for run in runs})
    page = Document(images.title + (", without warm start" if config["cold"] else ""))
    captions = {f"latents-{m}.png": f"Latents of the first {m} run, and what is decoded." for m in models}
    if len(models) > 1:
        page.picture("forest.png", _forest(of, published), _ABOUT_FOREST)
    else:
        _show(page, captions, pictures, folder)
    page.table(_over_seeds(of, COLUMNS, published))
    page.text(
        f"{config['num_images']:,} images (80 / 10 / 10), {config['epochs']} epochs in {config['precision']}, "
        f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}, "
        f"at most {max(found['parameters'] for found in results):,} parameters. "
        "Test set; mean ± standard deviation over seeds. Lower is better, but for trustworthiness, continuity "
        "and loops." + (" Published: one seed, 50 epochs." if published else "")
    )
    with page.folded("What the columns are"):
        used = [name for name in _NOTES if any(name in found for found in results)]
        page.text("\n".join(f"- {_NOTES[name]}" for name in used))
    if any("bottleneck" in found for found in results):
        with page.folded("Bottleneck distances"):
            page.table(_over_seeds(of, (*BOTTLENECKS, "bottleneck"), published))
    if len(models) > 1:
        with page.folded("Latents"):
            _show(page, captions, pictures, folder)
    with page.folded("Every run"):
        page.table(_every_run(runs, results))
        _show(page, {"curves.png": "Validation, after every epoch."}, pictures, folder)
    return page


def _show(
    page: Document, captions: dict[str, str], pictures: Mapping[str, bytes] | None, folder: Path | None
) -> None:
    for name, caption in captions.items():
        if pictures and name in pictures:
            page.picture(name, pictures[name], caption)
    if folder is not None:
        page.pictures_there(folder, captions)


def _forest(of: Mapping[str, Sequence[dict[str, Any]]], published: bool) -> bytes:
    """Means over seeds with 95% intervals; the published ones are of one seed."""
    labels, names = [], []
    cells: dict[str, list[Cell | None]] = {"negative ELBO": [], "reconstruction NLL": []}
    for model, found in of.items():
        known = PUBLISHED.get(model) if published else None
        labels += [model, f"{model}, published"] if known else [model]
        names += [model, model] if known else [model]
        for column, there in cells.items():
            there.append(Cell(*interval([result[column] for result in found])))
            if known:
                there.append(Cell(known[column], None))
    panels = [Panel(column, "nats an image, less is better", there) for column, there in cells.items()]
    return forest(labels, [colour(name) for name in names], panels, across=2, line=None)


def _over_seeds(
    of: Mapping[str, Sequence[dict[str, Any]]], columns: Sequence[str], published: bool
) -> list[Sequence[object]]:
    used = [c for c in columns if any(c in result for found in of.values() for result in found)]
    table: list[Sequence[object]] = [("model", *used)]
    for model, found in of.items():
        table.append((model, *(_cell(found, column) for column in used)))
        if published and model in PUBLISHED:
            known = PUBLISHED[model]
            table.append((f"{model}, published", *(f"{known[c]:g}" if c in known else "" for c in used)))
    return table


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


def _cell(results: Sequence[dict[str, Any]], column: str) -> str:
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


if __name__ == "__main__":
    sys.exit(main())
