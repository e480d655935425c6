"""The report of the engines: how far each predicts from the reference chains, what it says of itself, what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch

from experiments.common.document import Document
from experiments.common.forest import Cell, Panel, forest
from experiments.common.palette import colour
from experiments.common.statistics import interval
from experiments.common.store import Run, Store
from experiments.common.tables import as_rows, frame, read_runs, without, write_csv
from experiments.posteriors.engine_settings import ENGINES, REFERENCE
from experiments.posteriors.methods import total_variation

MEASURES = {
    "accuracy": "accuracy", "nll": "NLL", "ece": "ECE", "auroc": "AUROC", "kl": "KL an image",
    "negative_elbo": "negative ELBO an image", "r_hat": "r-hat", "ess": "ESS", "seconds": "processor seconds", "distance": "distance to the reference",
}  # fmt: skip
_WITHOUT = ("ece", "auroc", "kl", "ess", "seconds")  # an interval: the table is wide


def write(store: Store, folder: Path) -> Path:
    """report.md, runs.csv and forest.png. Rows of a runs.csv that is there stay, unless the store has their run.

    Raises:
        ValueError: no runs in either.
    """
    runs, path = list(store), folder / "runs.csv"
    table = with_distances(runs) if runs else pd.DataFrame()
    if path.is_file():
        earlier = without(read_runs(path), (run.config for run in runs))
        table = pd.concat([earlier, table], ignore_index=True)
    if not len(table):
        raise ValueError(f"--output {store.folder.parent}: no runs there yet")
    write_csv(path, table)
    return report(table).write(folder)


def with_distances(runs: Sequence[Run]) -> pd.DataFrame:
    """A row a run; ``distance``: mean total variation from the reference on the same images with the same prior."""
    table = frame(runs)
    key = ["dataset", "prior", "seed", "n", "size", "widths", "last_gain", "data"]
    predictions = [torch.tensor(run.result["predictions"]) for run in runs]
    references = {
        tuple(row[key]): predictions[i] for i, row in table.iterrows() if row["engine"] == REFERENCE
    }
    distances = []
    for i, row in table.iterrows():
        reference = references.get(tuple(row[key]))
        distances.append(
            row["halves_apart"]
            if row["engine"] == REFERENCE
            else None
            if reference is None
            else total_variation(predictions[int(i)], reference)
        )
    return table.assign(distance=distances)


def report(table: pd.DataFrame) -> Document:
    """The picture and one table; folded one a set and prior, engines from the nearest to the reference on."""
    page = Document("Engines of posterior inference beside long chains")
    shown = [m for m in MEASURES if m in table]
    table = table.assign(distance=pd.to_numeric(table["distance"]))
    places = list(table.groupby(["dataset", "prior", "n", "size"], sort=False))
    mean = table.assign(first=table["engine"] != REFERENCE).groupby("engine")[["first", "distance"]].mean()
    engines = list(mean.sort_values(["first", "distance"]).index)
    words = {e: ENGINES[e].words for e in engines}
    names = {key: f"{SETS.get(key[0], key[0])}, {key[1]}" for key, _ in places}
    panels = []
    for key, some in places:
        found = {str(e): values.dropna().tolist() for e, values in some.groupby("engine")["distance"]}
        cells = [_drawn(found[e]) if found.get(e) else None for e in engines]
        panels.append(Panel(names[key], "distance, less is nearer", cells))
    labels, shades = [words[e] for e in engines], [colour(e) for e in engines]
    page.picture(
        "forest.png",
        forest(labels, shades, panels, min(2, len(places)), None),
        "Distance of the predictions from those of the reference, in total variation; of the reference, that of its halves. Means over seeds, with 95% intervals where there are at least three.",
    )
    beside = pd.DataFrame(
        {
            names[key]: some.groupby("engine")[["nll", "distance"]].apply(
                lambda runs: f"{runs['nll'].mean():.3f} / {runs['distance'].mean():.3f}".replace("nan", "?")
            )
            for key, some in places
        }
    )
    page.table(
        as_rows(beside.reindex(engines).fillna("").rename(index=words).rename_axis("NLL / distance"))
    )
    for key, some in places:
        with page.folded(f"{names[key]}: all measures"):
            seeds = sorted(some["seed"].unique())
            page.text(f"n = {key[2]}, {key[3]} x {key[3]} pixels, seeds {', '.join(map(str, seeds))}.")
            page.table(as_rows(_of_a_place(some, shown, seeds)))
    with page.folded("What the columns are"):
        page.text(_COLUMNS)
    return page


def _drawn(values: list[float]) -> Cell:
    """Two seeds have an interval of 13 standard errors to either side, which says nothing."""
    mean, half = interval(values)
    return Cell(mean, half if len(values) > 2 else None)


def _of_a_place(some: pd.DataFrame, shown: Sequence[str], seeds: Sequence[int]) -> pd.DataFrame:
    groups = some.groupby("engine")
    mean = groups[list(shown)].mean()
    mean = mean.assign(first=mean.index != REFERENCE).sort_values(["first", "distance"])
    cells = pd.DataFrame(
        {MEASURES[m]: [_cell(groups.get_group(engine)[m], m) for engine in mean.index] for m in shown},
        index=mean.index,
    )
    counts = some.groupby("engine")["seed"].nunique()
    lacking = {e: "" if counts[e] == len(seeds) else f" ({counts[e]} of the seeds)" for e in mean.index}
    cells.index = pd.Index([ENGINES[e].words + lacking[e] for e in mean.index], name="engine")
    return cells


SETS = {"embedded": "Fashion-MNIST subset", "mnist": "MNIST"}
_COLUMNS = (
    "Means over the seeds, with 95 percent intervals by Student's t where there are several. NLL in nats; ECE over 15 bins; AUROC: of predictive entropy, as many images of another set against the unseen ones. KL an image and negative ELBO an image in nats, of the part of the network "
    "that has a posterior with stds (at temperature 0.1 the ELBO is still that of temperature 1). r-hat: the 99 percent quantile of rank-normalized split "
    "r-hat over the predicted probabilities of 50 unseen images; ESS: the median effective number of draws of the same numbers. Processor "
    "seconds: of training or sampling on one core, without the predictions. Distance to the reference: total variation between the "
    "predicted classes, mean over the unseen images, from 0 to 1; in the line of the reference itself: between the first and the last "
    "two of its chains: its own noise, the mean of all four, is about half of that."
)


def _cell(values: pd.Series, measure: str) -> str:
    known = values.dropna()
    if known.empty:
        return ""
    digits = {"seconds": 0, "ess": 0, "r_hat": 2, "kl": 2, "negative_elbo": 2}.get(measure, 3)
    found = interval(known.tolist())
    spread = "" if found.half_width is None or measure in _WITHOUT else f" ± {found.half_width:.{digits}f}"
    return f"{found.mean:.{digits}f}{spread}"
