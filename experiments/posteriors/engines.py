"""Which engine reaches the posterior, at what cost? Predictions of each beside those of long chains.

    python -m experiments.posteriors.engines --output results/engines
    python -m experiments.posteriors.engines --datasets mnist,embedded --data-dir data --output results/engines
    python -m experiments.posteriors.engines --output results/engines --report experiments/results/engines

One network, one prior, n images, a row a run: accuracy, likelihood, calibration, how well predictive entropy tells images of another set
from unseen ones, what the engine says of itself, processor seconds, and the distance of its predictions from those of the reference
chains. The same command goes on where it was stopped. --report writes report.md, runs.csv and forest.png from the runs that there are, and
runs nothing.
"""

from __future__ import annotations

import shutil
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from experiments.common import data as datasets
from experiments.common.engine import Pool, compute
from experiments.common.options import (
    Parser,
    check_known,
    names,
    positive,
    seed_list,
    whole,
    write_config,
)
from experiments.common.store import Store, digest, tensor_bytes
from experiments.posteriors import converge, families, methods
from experiments.posteriors.controls import PRIORS
from experiments.posteriors.methods import Engine, Problem
from experiments.posteriors.setting import Images, judge, split


class Row(NamedTuple):
    """An engine and its settings, which decide the run."""

    words: str
    engine: Engine
    settings: dict[str, Any]


_POINT = {"steps": 600, "lr": 0.02}
_FIT = {"steps": 1000, "lr": 0.02, "map_steps": 600}
_CHAIN = {
    "method": "baoab",
    "energy_error": converge.CHAIN["energy_error"],
    "friction": converge.CHAIN["friction"],
}
REFERENCE = "reference"
ENGINES = {
    REFERENCE: Row("reference: BAOAB, 4 chains of 4,500 gradients", methods.chains,
        {"num_chains": 4, "warmup": 1500, "num_samples": 75, "thinning": 40, **_CHAIN}),
    "map": Row("MAP (delta), 600 steps", methods.point, {"members": 1, **_POINT}),
    "ensemble": Row("deep ensemble of 5 MAPs", methods.point, {"members": 5, **_POINT}),
    "laplace-last": Row("last-layer Laplace at the MAP", methods.laplace_last, _POINT),
    "vi-early": Row("mean-field VI, stopped after 200 steps", methods.variational, {"steps": 200, "lr": 5e-3}),
    "vi": Row("mean-field VI, 3,000 steps", methods.variational, {"steps": 3000, "lr": 0.01}),
    "natural": Row("mean-field VI by natural gradients, 2,000 steps", methods.natural, {"steps": 2000, "lr": 0.3}),
    "hmc": Row("HMC, dual averaging, 2 chains of 80 trajectories", methods.chains,
        {"method": "hmc", "num_chains": 2, "warmup": 40, "num_samples": 40, "max_steps": 32}),
    "baoab-short": Row("BAOAB, 2 chains of 600 gradients", methods.chains,
        {"num_chains": 2, "warmup": 300, "num_samples": 20, "thinning": 15, **_CHAIN}),
    "sghmc": Row("SGHMC from MAPs, batches of 20, 2 chains of 1,000", methods.sghmc,
        {"num_chains": 2, "steps": 1000, "warmup": 400, "every": 30, "batch": 20, "lr": 0.01, "alpha": 5.0, "map_steps": 600}),
    "vi-last": Row("mean-field last layer, points below, 2,000 steps", methods.variational,
        {"steps": 2000, "lr": 0.01, "only_last": True}),
    **{
        f"vi-{family}": Row(f"{words} from the MAP, 1,000 steps", families.structured, {"family": family, **_FIT})
        for family, words in {
            "mean-field": "mean-field, whitened,", "low-rank": "low rank over all layers,",
            "matrix-normal": "matrix-normal,", "layer-scale": "a scale a layer, mean-field,",
        }.items()
    },
    "vi-cold": Row("mean-field VI at temperature 0.1, 3,000 steps", methods.variational,
        {"steps": 3000, "lr": 0.01, "temperature": 0.1}),
}  # fmt: skip
_COUNTS = ("steps", "warmup", "num_samples", "every", "thinning", "map_steps")


def shortened(settings: Mapping[str, Any], budget: float) -> dict[str, Any]:
    """Every count times ``budget``, at least 4."""
    return {k: max(4, round(v * budget)) if k in _COUNTS else v for k, v in settings.items()}


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


def foreign_images(name: str, images: Images, args: Any, seed: int) -> Tensor:
    """Unseen images of the first other set, in the colours and units of this one; none where there is no other."""
    others = [other for other in args.datasets if other != name]
    if not others:
        return images[2][:0]
    raw = [datasets.load(n, args.data_dir, image_size=args.size, train_size=args.n, test_size=args.test, seed=seed) for n in (name, others[0])]  # fmt: skip
    learned, found = raw[0].train_images, raw[1].test_images
    channels = learned.shape[1]
    if found.shape[1] != channels:
        found = found.mean(1, keepdim=True).expand(-1, channels, -1, -1)
    return (found - learned.mean()) / learned.std().clamp_min(1e-6)


def runs(args: Any) -> Iterator[Run]:
    """Seed by seed, set by set; the reference first, then the others, each with all priors."""
    store = Store(args.output / "runs")
    for seed, name in product(seed_list(args.seeds, 0), args.datasets):
        images = split(name, args.data_dir, size=args.size, n=args.n, test=args.test, seed=seed)
        foreign = foreign_images(name, images, args, seed)
        data = digest(*map(tensor_bytes, (*images, foreign)))
        for engine, prior in product(args.engines, args.priors):
            config = {
                "dataset": Path(name).name, "prior": prior, "engine": engine, "seed": seed, "n": len(images[1]), "size": args.size,
                "widths": [args.width, 2 * args.width], "last_gain": args.last_gain,
                "settings": shortened(ENGINES[engine].settings, args.budget), "data": data,
            }  # fmt: skip
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
    add = parser.add_argument_group("which runs").add_argument
    add("--engines", type=names, default=",".join(ENGINES), help="some of them")
    add("--seeds", default="3", help="a count, or a list: of the images to learn from, starts and noise")
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
            if args.size < 8:
                raise ValueError(f"--size {args.size}: give at least 8, the network halves it twice")
            args.output.mkdir(parents=True, exist_ok=True)
            write_config(args, engines={name: row.settings for name, row in ENGINES.items()})
            return 1 if compute(list(runs(args)), run_one, store, Pool.of(args), tell) else 0
        from experiments.posteriors import engines_report

        print(engines_report.write(store, args.report))
    return ending.status


if __name__ == "__main__":
    sys.exit(main())
