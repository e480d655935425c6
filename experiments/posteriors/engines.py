"""Which engine reaches the posterior, at what cost? Predictions of each beside those of long chains.

    python -m experiments.posteriors.engines --data MNIST/raw --output results/engines
    python -m experiments.posteriors.engines --output results/engines --report experiments/results/engines

One network, one prior, n images, a row a run: accuracy, likelihood, calibration, what the engine says of itself, processor seconds, and
the distance of its predictions from those of the reference chains. The same command goes on where it was stopped. --report writes
report.md, runs.csv and config.json from the runs that there are, and runs nothing.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.common.document import Document
from experiments.common.forest import Cell, Panel, forest
from experiments.common.options import (
    Parser,
    check_known,
    names,
    positive,
    say,
    seed_list,
    whole,
    write_config,
)
from experiments.common.palette import colour
from experiments.common.statistics import interval
from experiments.common.store import Run, Store, digest, tensor_bytes
from experiments.common.tables import as_rows, frame, write_csv
from experiments.posteriors import families, methods
from experiments.posteriors.methods import Engine, Problem, total_variation
from experiments.posteriors.setting import Images, choose, read_embedded, read_folder


class Row(NamedTuple):
    """An engine and its settings, which decide the run."""

    words: str
    engine: Engine
    settings: dict[str, Any]


_POINT = {"steps": 300, "lr": 0.02}
_FIT = {"steps": 800, "lr": 0.02, "map_steps": 300}
REFERENCE = "reference"
ENGINES = {
    REFERENCE: Row("reference: BAOAB, 4 chains of 3,600 gradients", methods.chains,
        {"method": "baoab", "num_chains": 4, "warmup": 900, "num_samples": 90, "thinning": 30, "energy_error": 3e-3}),
    "map": Row("MAP (delta), 300 steps", methods.point, {"members": 1, **_POINT}),
    "ensemble": Row("deep ensemble of 5 MAPs", methods.point, {"members": 5, **_POINT}),
    "laplace-last": Row("last-layer Laplace at the MAP", methods.laplace_last, _POINT),
    "vi-early": Row("mean-field VI, stopped after 200 steps", methods.variational, {"steps": 200, "lr": 5e-3}),
    "vi": Row("mean-field VI, 3,000 steps", methods.variational, {"steps": 3000, "lr": 5e-3}),
    "natural": Row("mean-field VI by natural gradients, 800 steps", methods.natural, {"steps": 800, "lr": 0.3}),
    "hmc": Row("HMC, dual averaging, 2 chains of 80 trajectories", methods.chains,
        {"method": "hmc", "num_chains": 2, "warmup": 40, "num_samples": 40, "max_steps": 32}),
    "baoab-short": Row("BAOAB, 2 chains of 600 gradients", methods.chains,
        {"method": "baoab", "num_chains": 2, "warmup": 300, "num_samples": 20, "thinning": 15}),
    "sghmc": Row("SGHMC from MAPs, batches of 20, 2 chains of 1,000", methods.sghmc,
        {"num_chains": 2, "steps": 1000, "warmup": 400, "every": 30, "batch": 20, "lr": 0.01, "alpha": 5.0, "map_steps": 300}),
    "vi-from-map": Row("mean-field VI from the MAP, 600 steps", methods.variational,
        {"steps": 600, "lr": 5e-3, "start": "map", "map_steps": 300}),
    "vi-last": Row("mean-field last layer, points below, 600 steps", methods.variational,
        {"steps": 600, "lr": 5e-3, "only_last": True}),
    **{
        f"vi-{family}": Row(f"{words} from the MAP, 800 steps", families.structured, {"family": family, **_FIT})
        for family, words in {
            "mean-field": "mean-field, whitened,", "low-rank": "low rank over all layers,",
            "matrix-normal": "matrix-normal,", "layer-scale": "a scale a layer, mean-field,",
        }.items()
    },
    "vi-cold": Row("mean-field VI at temperature 0.1, 800 steps", methods.variational,
        {"steps": 800, "lr": 5e-3, "temperature": 0.1}),
}  # fmt: skip
_COUNTS = ("steps", "warmup", "num_samples", "every", "thinning", "map_steps")
MEASURES = {
    "accuracy": "accuracy", "nll": "NLL", "ece": "ECE", "kl": "KL an image", "negative_elbo": "negative ELBO an image",
    "r_hat": "r-hat", "ess": "ESS", "seconds": "processor seconds", "distance": "distance to the reference",
}  # fmt: skip

_WITHOUT = ("ece", "kl", "ess", "seconds")  # an interval: the table is wide


def judge(p: Tensor, y: Tensor) -> dict[str, float]:
    """Accuracy, mean negative log likelihood in nats, calibration error over 15 bins."""
    from torchmetrics.functional.classification import multiclass_calibration_error

    return {
        "accuracy": (p.argmax(1) == y).double().mean().item(),
        "nll": F.nll_loss(p.clamp_min(torch.finfo(p.dtype).tiny).log(), y).item(),
        "ece": multiclass_calibration_error(p, y, p.shape[1], n_bins=15, norm="l1").item(),
    }


def shortened(settings: dict[str, Any], budget: float) -> dict[str, Any]:
    """Every count times ``budget``, at least 4."""
    return {k: max(4, round(v * budget)) if k in _COUNTS else v for k, v in settings.items()}


def run_one(row: Row, settings: dict[str, Any], problem: Problem) -> dict[str, Any]:
    torch.manual_seed(problem.seed)
    found = row.engine(problem, **settings)
    measures = judge(found.predictions, problem.images[3]) | found.measures
    return {"measures": measures, "predictions": found.predictions.tolist()}


def run(args: argparse.Namespace) -> None:
    """Seed by seed, set by set; for each prior the reference first."""
    check_known(args.engines, ENGINES, "--engines")
    check_known([str(args.size)], ("14", "28"), "--size")
    check_known(args.datasets, ("mnist", "embedded"), "--datasets")
    if "mnist" in args.datasets and args.data is None:
        raise ValueError("--data: mnist wants the folder of its four files; or choose --datasets embedded")
    seeds = seed_list(args.seeds, 0)
    arrays = {
        name: read_embedded() if name == "embedded" else read_folder(args.data) for name in args.datasets
    }
    store = Store(args.output / "runs")
    for seed, name, engine, prior in product(seeds, args.datasets, args.engines, args.priors):
        images = choose(arrays[name], args.n, args.test, seed, args.size)
        row = ENGINES[engine]
        settings = shortened(row.settings, args.budget)
        config = {"dataset": name, "prior": prior, "engine": engine, "seed": seed, "n": args.n, "size": args.size,
            "last_gain": args.last_gain, "settings": settings, "data": _digest(images)}  # fmt: skip
        if store.get(config) is None:
            folder = (
                args.output / "chains" / store.path(config).stem if row.engine is methods.chains else None
            )
            problem = Problem(images, prior, args.last_gain, seed, folder)
            store.put(config, run_one(row, settings, problem))
            if folder is not None:
                shutil.rmtree(folder)
        m = (store.get(config) or {})["measures"]
        say(
            f"{name} seed {seed} {prior} {engine}: {m['accuracy']:.3f} / {m['nll']:.3f}, {m['seconds']:.0f} s"
        )


def _digest(images: Images) -> str:
    return digest(*map(tensor_bytes, images))


# --- the report ------------------------------------------------------------------------------


def with_distances(runs: Sequence[Run]) -> pd.DataFrame:
    """A row a run; ``distance``: mean total variation from the reference on the same images with the same prior."""
    table = frame(runs)
    key = ["dataset", "prior", "seed", "n", "size", "last_gain", "data"]
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
        cells = [Cell(*interval(found[e])) if found.get(e) else None for e in engines]
        panels.append(Panel(names[key], "distance, less is nearer", cells))
    labels, shades = [words[e] for e in engines], [colour(e) for e in engines]
    page.picture(
        "forest.png",
        forest(labels, shades, panels, min(2, len(places)), None),
        "Distance of the predictions from those of the reference, in total variation; of the reference, that of its halves. Means over seeds.",
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
    "Means over the seeds, with 95 percent intervals by Student's t where there are several. NLL in nats; ECE over 15 bins. KL an image and negative ELBO an image in nats, of the part of the network "
    "that has a posterior with stds (at temperature 0.1 the ELBO is still that of temperature 1). r-hat: the 99 percent quantile of rank-normalized split "
    "r-hat over the predicted probabilities of 50 unseen images; ESS: the median effective number of draws of the same numbers. Processor "
    "seconds: of training or sampling on one core, without the predictions. Distance to the reference: total variation between the "
    "predicted classes, mean over the unseen images, from 0 to 1; in the line of the reference itself: between the first and the last "
    "two of its chains, so about the distance at which its own noise ends what can be told."
)


def _cell(values: pd.Series, measure: str) -> str:
    known = values.dropna()
    if known.empty:
        return ""
    digits = {"seconds": 0, "ess": 0, "r_hat": 2, "kl": 2, "negative_elbo": 2}.get(measure, 3)
    found = interval(known.tolist())
    spread = "" if found.half_width is None or measure in _WITHOUT else f" ± {found.half_width:.{digits}f}"
    return f"{found.mean:.{digits}f}{spread}"


# --- command line ----------------------------------------------------------------------------


def make_parser() -> Parser:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--data", type=Path, help="folder with MNIST's four files; without it no MNIST")
    add("--output", type=Path, default=Path("results/engines"), help="folder of the runs")
    add("--report", type=Path, help="folder for the report, and nothing is run; without it the runs")
    add("--datasets", type=names, default="mnist,embedded", help="some of them")
    add("--priors", type=names, default="klein-3x3,gaussian", help="of the convolutions")
    add("--engines", type=names, default=",".join(ENGINES), help="some of them")
    add("--seeds", default="2", help="a count, or a list: of the images to learn from, starts and noise")
    add("-n", type=whole, default=100, help="images to learn from")
    add("--test", type=whole, default=1000, help="unseen images")
    add("--size", type=whole, default=14, help="pixels a side: 28, or 14 by averaging")
    add("--last-gain", type=positive, default=1.0, help="of the last layer's Gaussian prior")
    add("--budget", type=positive, default=1.0, help="every count of steps is multiplied by it")
    parser.add_progress()
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser()
    args = parser.parse_args(argv)
    with parser.ending(args.output) as ending:
        if args.report is None:
            args.output.mkdir(parents=True, exist_ok=True)
            write_config(args, engines={name: row.settings for name, row in ENGINES.items()})
            run(args)
            return 0
        runs = list(Store(args.output / "runs"))
        if not runs:
            raise ValueError(f"--output {args.output}: no runs there yet")
        table = with_distances(runs)
        write_csv(args.report / "runs.csv", table.drop(columns=["data"]))
        print(report(table).write(args.report))
    return ending.status


if __name__ == "__main__":
    sys.exit(main())
