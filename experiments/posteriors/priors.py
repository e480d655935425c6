"""Does a prior help under the posterior? Chains of a small network, several priors, paired by split.

    python -m experiments.posteriors.priors --data MNIST/raw --select
    python -m experiments.posteriors.priors --data MNIST/raw
    python -m experiments.posteriors.priors --report experiments/results/posterior

--select tries every gain of the last layer with every prior, in short chains, on a split and on images that are not reported. Then
every chain is a run of its own: split by split, so that what was stopped early is the whole comparison with fewer splits; the same command
goes on from there, more chains, splits, sizes or priors add to what there is. --report writes report.md, runs.csv and forest.png from the
runs that there are, and runs nothing.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

import topoprior as tp
from experiments.common.engine import Pool, compute
from experiments.common.options import (
    Parser,
    check_known,
    names,
    positive,
    seed_list,
    whole,
    wholes,
    write_config,
)
from experiments.common.store import Store, digest, tensor_bytes
from experiments.posteriors.controls import PRIORS
from experiments.posteriors.methods import Problem
from experiments.posteriors.setting import Images, choose, read_embedded, read_folder

GAINS = (1.0, 2.0, 4.0)  # of the last layer's Gaussian prior: the candidates
CHOSEN = {"mnist": 4.0, "embedded": 4.0}
CHAIN = {"warmup": 800, "num_samples": 40, "thinning": 30, "energy_error": 3e-3}
SHORT = {"warmup": 300, "num_samples": 20, "thinning": 10, "energy_error": 3e-3}
_COUNTS = ("warmup", "num_samples", "thinning")
_SELECTION = 100  # the split that gains are chosen on
_VALIDATION = 1000  # last training images, which judge that choice
_DIAGNOSED = 30  # first unseen images, of which every draw's prediction is kept


@dataclass(frozen=True)
class Chain:
    """One run: what it learns from, and all that decides its numbers."""

    images: Images
    settled: dict[str, Any]

    def config(self) -> dict[str, Any]:
        return self.settled


def run_chain(chain: Chain) -> dict[str, Any]:
    """One chain from a draw of the prior: its mean predictions, and those of every draw for a few images."""
    images, config = chain.images, chain.settled
    prior, seed = PRIORS[config["prior"]].make(), _seed(config)
    problem = Problem(images, prior, config["last_gain"], seed)
    began = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of divergences in the warm-up, and of what is said below
        try:
            samples = tp.sample_posterior(
                problem.network("delta"), problem.data,
                method="baoab", num_chains=1, seed=seed, progress=False, **config["settings"],
            )  # fmt: skip
        except tp.inference.SamplingError as error:
            return {"measures": {"seconds": time.process_time() - began}, "failure": str(error)}
    measures = {
        "seconds": time.process_time() - began,
        "temperature": samples.stats["temperature"].mean().item(),
        "divergences": samples.stats["divergences"].sum().item(),
        "step_size": samples.step_sizes[0],
        "energy": samples.stats["energy"].mean().item(),
    }
    p = samples.predict(problem.unseen)
    return {
        "measures": measures,
        "predictions": p.mean(0).tolist(),
        "draws": p[:, :_DIAGNOSED].tolist(),
        "labels": images[3].tolist(),
    }


def _seed(config: Mapping[str, Any]) -> int:
    """Of a chain: another one for every split and chain, the same for all priors."""
    return int(np.random.SeedSequence([config["seed"], config["chain"]]).generate_state(1)[0])


# --- which runs ------------------------------------------------------------------------------


def configs(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Split by split, size by size, set by set, chain by chain, all priors side by side."""
    seeds = [_SELECTION] if args.select else seed_list(args.seeds, 0)
    settings = SHORT if args.select else CHAIN
    settings = {k: max(4, round(v * args.budget)) if k in _COUNTS else v for k, v in settings.items()}
    for seed, n, name in product(seeds, args.n, args.datasets):
        gains = GAINS if args.select else [args.last_gain or CHOSEN[name]]
        for gain, chain, prior in product(gains, range(2 if args.select else args.chains), args.priors):
            yield {
                "role": "selection" if args.select else "reported", "dataset": name, "prior": prior, "seed": seed,
                "n": n, "chain": chain, "size": args.size, "test": args.test, "last_gain": gain, "settings": settings,
            }  # fmt: skip


class Data:
    """The images of a run. A choice is judged by training images that no run of its kind learns from."""

    def __init__(self, datasets: Sequence[str], folder: Path | None) -> None:
        self.arrays = {
            name: read_embedded() if name == "embedded" else read_folder(folder)  # type: ignore[arg-type]
            for name in datasets
        }

    def __call__(self, config: Mapping[str, Any]) -> Images:
        arrays = self.arrays[config["dataset"]]
        if config["role"] == "selection":
            x, y = arrays[:2]
            arrays = [x[:-_VALIDATION], y[:-_VALIDATION], x[-_VALIDATION:], y[-_VALIDATION:]]
        return choose(arrays, config["n"], config["test"], config["seed"], config["size"])


def run(args: argparse.Namespace) -> int:
    """All chains that there are not; how many failed."""
    check_known(args.priors, PRIORS, "--priors")
    check_known([str(args.size)], ("14", "28"), "--size")
    check_known(args.datasets, CHOSEN, "--datasets")
    if "mnist" in args.datasets and args.data is None:
        raise ValueError("--data: mnist wants the folder of its four files; or choose --datasets embedded")
    for n in args.n:
        if n % 10:
            raise ValueError(f"-n {n}: give a multiple of 10, as many images of every class")
    store, data = Store(args.output / "runs"), Data(args.datasets, args.data)
    chains = []
    for config in configs(args):
        images = data(config)
        chains.append(Chain(images, {**config, "data": digest(*map(tensor_bytes, images))}))
    return compute(chains, run_chain, store, Pool.of(args), tell)


def tell(result: Mapping[str, Any]) -> str:
    return f"{result.get('failure', '')} {result['measures']['seconds']:.0f} s".strip()


# --- command line ----------------------------------------------------------------------------


def make_parser() -> Parser:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--data", type=Path, help="folder with MNIST's four files; without it no MNIST")
    add("--output", type=Path, default=Path("results/posterior"), help="folder of the runs")
    add("--select", action="store_true", help="run the candidates of the last layer's gain instead")
    add("--report", type=Path, help="folder for the report, and nothing is run; without it the runs")
    add("--datasets", type=names, default="mnist,embedded", help="some of them")
    add(
        "--priors",
        type=names,
        default="klein-3x3,gaussian,twin,linear,torus-3x3",
        help=f"of {', '.join(PRIORS)}",
    )
    add = parser.add_argument_group("runs").add_argument
    add("--seeds", default="5", help="splits: a count, or a list; images to learn from, starts and noise")
    add("-n", type=wholes, default="100", help="images to learn from, one number or several")
    add("--chains", type=whole, default=4, help="of every cell")
    add("--test", type=whole, default=1000, help="unseen images")
    add("--size", type=whole, default=14, help="pixels a side: 28, or 14 by averaging")
    add("--last-gain", type=positive, help="of the last layer's Gaussian prior; by default what was chosen")
    add("--budget", type=positive, default=1.0, help="every count of steps is multiplied by it")
    Pool.add_options(parser)
    parser.add_progress()
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser()
    args = parser.parse_args(argv)
    with parser.ending(args.output) as ending:
        if args.report is None:
            args.output.mkdir(parents=True, exist_ok=True)
            write_config(args, chain=CHAIN, short=SHORT, gains=GAINS, chosen=CHOSEN)
            return 1 if run(args) else 0
        from experiments.posteriors import priors_report

        print(priors_report.write(Store(args.output / "runs"), args.report))
    return ending.status


if __name__ == "__main__":
    sys.exit(main())
