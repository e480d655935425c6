"""Which engine reaches the posterior, at what cost? Predictions of each beside those of long chains.

    python -m experiments.posteriors.engines --output results/engines
    python -m experiments.posteriors.engines --datasets mnist,embedded --data-dir data --output results/engines
    python -m experiments.posteriors.engines --output results/engines --report experiments/results/engines

One network, one prior, n images, a row a run: accuracy, likelihood, calibration, how well predictive entropy tells images of another set
from unseen ones, what the engine says of itself, processor seconds, and the distance of its predictions from those of the reference
chains. The same command goes on where it was stopped, --earlier from a report's runs.csv. --report writes report.md, runs.csv and
forest.png from the runs that there are and the rows of a runs.csv that is there, and runs nothing.
"""

from __future__ import annotations

import shutil
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from experiments.common import data as datasets
from experiments.common.engine import Pool, compute
from experiments.common.options import (
    Parser,
    add_earlier,
    check_known,
    names,
    positive,
    seed_list,
    whole,
    write_config,
)
from experiments.common.store import Store, digest, tensor_bytes
from experiments.common.tables import read_runs, same
from experiments.posteriors import engines_report, methods
from experiments.posteriors.controls import PRIORS
from experiments.posteriors.engine_settings import ENGINES, REFERENCE, shortened
from experiments.posteriors.methods import Problem
from experiments.posteriors.setting import Images, check_size, in_units_of, judge, standardized


@dataclass(frozen=True)
class Run:
    """One engine on one cell."""

    images: Images
    foreign: Tensor  # images of another set, which no class fits
    settled: dict[str, Any]
    folder: Path  # of the chains, while they run

    def config(self) -> dict[str, Any]:
        return self.settled


def run_one(task: Run) -> dict[str, Any]:
    config, (x, y, unseen, labels) = task.settled, task.images
    torch.manual_seed(config["seed"])
    row = ENGINES[config["engine"]]
    problem = Problem(
        (x, y, torch.cat([unseen, task.foreign]), labels),
        PRIORS[config["prior"]].make(), config["last_gain"], config["seed"],
        task.folder if row.engine is methods.chains else None, config["widths"],
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what matters of it is in the measures
        found = row.engine(problem, **config["settings"])
    shutil.rmtree(task.folder, ignore_errors=True)
    p, foreign = found.predictions[: len(labels)], found.predictions[len(labels) :]
    return {"measures": judge(p, labels, foreign) | found.measures, "predictions": p.tolist()}


def foreign_images(learned: Tensor, other: Tensor | None) -> Tensor:
    """Images of another set in the colours and units of those that are learned from; none where there is no other."""
    channels = learned.shape[1]
    if other is None:
        return learned[:0]
    if other.shape[1] != channels:
        other = other.mean(1, keepdim=True).expand(-1, channels, -1, -1)
    return in_units_of(learned, other)[0]


def runs(args: Any, earlier: pd.DataFrame) -> Iterator[Run]:
    """Seed by seed, set by set; the reference first, then the others, each with all priors. Without those of ``earlier``; but what is
    judged by a reference wants its predictions, which are not there."""
    store = Store(args.output / "runs")
    size = {"image_size": args.size, "train_size": args.n, "test_size": args.test}
    for seed in seed_list(args.seeds, 0):
        read = {name: datasets.load(name, args.data_dir, seed=seed, **size) for name in args.datasets}
        for name, found in read.items():
            other = next((o.test_images for o in read.values() if o is not found), None)
            images, foreign = standardized(found), foreign_images(found.train_images, other)
            cell = {
                "dataset": Path(name).name, "seed": seed, "n": len(images[1]), "size": args.size, "widths": [args.width, 2 * args.width],
                "last_gain": args.last_gain, "data": digest(*map(tensor_bytes, (*images, foreign))),
            }  # fmt: skip
            configs = {
                (engine, prior): {**cell, "prior": prior, "engine": engine, "settings": shortened(ENGINES[engine].settings, args.budget)}
                for engine, prior in product(args.engines, args.priors)
            }  # fmt: skip
            lacking = {key for key, config in configs.items() if not same(earlier, config).any()}
            lacking |= {(REFERENCE, prior) for _, prior in lacking} & configs.keys()
            for key, config in configs.items():
                if key in lacking:
                    yield Run(images, foreign, config, args.output / "chains" / store.path(config).stem)


def tell(result: Mapping[str, Any]) -> str:
    m = result["measures"]
    return f"{m['accuracy']:.3f} / {m['nll']:.3f}, {m['seconds']:.0f} s"


# --- command line ----------------------------------------------------------------------------


def make_parser() -> Parser:
    parser = Parser(__doc__)
    add = parser.add_argument_group("data and network").add_argument
    add(
        "--datasets",
        type=names,
        default="embedded",
        help=f"of {', '.join(datasets.NAMES)}, or folders; the first other one is what is foreign to each",
    )
    add(
        "--data-dir",
        type=Path,
        default=Path(".cache/data"),
        help="where torchvision's files are, or are put",
    )
    add("-n", type=whole, default=100, help="images to learn from")
    add("--test", type=whole, default=1000, help="unseen images")
    add("--size", type=whole, default=14, help="pixels a side, at least 8")
    add("--priors", type=names, default="klein-3x3,gaussian", help="of the convolutions")
    add(
        "--width",
        type=whole,
        default=16,
        help="channels of the first convolution; the second has twice as many",
    )
    add("--last-gain", type=positive, default=4.0, help="of the last layer's Gaussian prior")
    runs_group = parser.add_argument_group("which runs")
    add = runs_group.add_argument
    add("--engines", type=names, default=",".join(ENGINES), help="some of them")
    add("--seeds", default="3", help="a count, or a list: of the images to learn from, starts and noise")
    add_earlier(runs_group)
    add("--budget", type=positive, default=1.0, help="every count of steps is multiplied by it")
    parser.add_argument("--output", type=Path, default=Path("results/engines"), help="folder of the runs")
    parser.add_argument(
        "--report", type=Path, help="folder for the report, and nothing is run; without it the runs"
    )
    Pool.add_options(parser)
    parser.add_progress()
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser()
    args = parser.parse_args(argv)
    with parser.ending(args.output) as ending:
        store = Store(args.output / "runs")
        if args.report is None:
            check_known(args.engines, ENGINES, "--engines")
            check_known(args.priors, PRIORS, "--priors")
            check_size("--size", args.size)
            earlier = read_runs(args.earlier)
            args.output.mkdir(parents=True, exist_ok=True)
            write_config(args, engines={name: row.settings for name, row in ENGINES.items()})
            return 1 if compute(list(runs(args, earlier)), run_one, store, Pool.of(args), tell) else 0
        print(engines_report.write(store, args.report))
    return ending.status


if __name__ == "__main__":
    sys.exit(main())
