"""Does a prior help under the posterior? Chains that agree, several priors, sets and sizes, paired by split.

    python -m experiments.posteriors.priors --datasets mnist,embedded --data-dir data --output results/posterior
    python -m experiments.posteriors.priors --output results/posterior --report experiments/results/posterior

A cell is a prior on a split of a set: chains of a small network with Bayesian layers throughout, each from a draw of the prior, a run each. They go
on, round by round, until their predictions agree or --most gradients are spent. Split by split, so that what was stopped early is the whole comparison
with fewer splits; more splits, sizes, sets or priors add to what there is. --earlier goes on from a report's runs.csv. --select tries every
gain of the last layer in short chains, on a split and on images that are not reported. --half-step makes the cells again with a smaller step,
which says how large the bias of chains without an accept step is; their rows go to half-step.csv. --report writes report.md, runs.csv, forest.png and sizes.png
from the runs that there are and the rows of a runs.csv that is there, and runs nothing.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import topoprior as tp
from experiments.common import data as datasets
from experiments.common.engine import Pool, compute
from experiments.common.options import (
    Parser,
    add_earlier,
    check_known,
    names,
    positive,
    say,
    seed_list,
    whole,
    wholes,
    write_config,
)
from experiments.common.store import Store, digest, tensor_bytes
from experiments.common.tables import read_runs
from experiments.posteriors import converge, priors_report
from experiments.posteriors.cells import agree, has
from experiments.posteriors.controls import PRIORS
from experiments.posteriors.methods import Problem
from experiments.posteriors.setting import Images, check_size, held_out, split

GAINS = (1.0, 2.0, 4.0)  # of the last layer's Gaussian prior: the candidates
SHORT = {"warmup": 300, "num_samples": 20, "thinning": 10}
_SELECTION = 100  # the split that gains are chosen on
_VALIDATION = 1000  # training images that judge that choice


@dataclass(frozen=True)
class Chain:
    """One run: what it learns from, all that decides its numbers, where it is kept to be gone on with."""

    images: Images
    settled: dict[str, Any]
    folder: Path

    def config(self) -> dict[str, Any]:
        return self.settled


def run_chain(chain: Chain) -> dict[str, Any]:
    """One chain from a draw of the prior: its mean predictions, and those of every draw for the images that judge agreement."""
    images, config = chain.images, chain.settled
    seed = _seed(config)
    prior = PRIORS[config["prior"]].make()
    problem = Problem(images, prior, config["last_gain"], seed, widths=config["widths"])
    began = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of divergences in the warm-up, and of what is said below
        try:
            samples = tp.sample_posterior(
                problem.network("delta"), problem.data, method="baoab", num_chains=1, seed=seed, progress=False,
                folder=chain.folder, **config["settings"],
            )  # fmt: skip
        except tp.inference.SamplingError as error:
            return {"measures": {"seconds": time.process_time() - began}, "failure": str(error)}
    measures = {
        "seconds": time.process_time() - began,
        "temperature": samples.stats["temperature"].mean().item(),
        "divergences": samples.stats["divergences"].sum().item(),
        "step_size": samples.step_sizes[0],
    }
    p = samples.predict(problem.unseen)
    return {
        "measures": measures,
        "predictions": p.mean(0).tolist(),
        "draws": p[:, : converge.CHAIN["judges"]].tolist(),
        "labels": images[3].tolist(),
    }


def _seed(config: Mapping[str, Any]) -> int:
    """Of a chain: another one for every split and chain, the same for all priors."""
    return int(np.random.SeedSequence([config["seed"], config["chain"]]).generate_state(1)[0])


# --- which runs ------------------------------------------------------------------------------


class Data:
    """The images of a split, read once. A choice is judged by training images that no run of its kind learns from."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.read: dict[tuple[Any, ...], Images] = {}

    def __call__(self, name: str, n: int, seed: int) -> Images:
        key = (name, n, seed)
        if key not in self.read:
            a = self.args
            if a.select:
                self.read[key] = held_out(name, a.data_dir, size=a.size, n=n, test=_VALIDATION, seed=seed)
            else:
                self.read[key] = split(name, a.data_dir, size=a.size, n=n, test=a.test, seed=seed)
        return self.read[key]


def cells(args: argparse.Namespace, earlier: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Split by split, size by size, set by set, all priors side by side; without those of ``earlier``."""
    seeds = [_SELECTION] if args.select else seed_list(args.seeds, 0)
    role = "selection" if args.select else "half step" if args.half_step else "reported"
    for seed, n, name in product(seeds, args.n, args.datasets):
        for gain, prior in product(GAINS if args.select else [args.last_gain], args.priors):
            cell = {
                "role": role, "dataset": Path(name).name, "prior": prior, "seed": seed, "n": n,
                "chains": 2 if args.select else args.chains, "size": args.size, "test": args.test,
                "widths": [args.width, 2 * args.width], "last_gain": gain,
            }  # fmt: skip
            if not has(earlier, cell):
                yield {**cell, "name": name}


def settings(args: argparse.Namespace, count: int) -> dict[str, Any] | None:
    """Of a chain in a round, which goes on where the one before has ended; None where that is more than --most gradients."""
    found = {name: converge.CHAIN[name] for name in ("warmup", "thinning", "energy_error", "friction")}
    found["num_samples"] = converge.CHAIN["first"]
    if args.half_step:
        found |= converge.HALF_STEP
    found["num_samples"] += count * converge.CHAIN["more"]
    if args.select:
        found |= SHORT
    elif count and found["warmup"] + found["num_samples"] * found["thinning"] > args.most:
        return None
    return {
        k: max(min(v, 4), round(v * args.budget)) if isinstance(v, int) else v for k, v in found.items()
    }


def run(args: argparse.Namespace, earlier: pd.DataFrame) -> int:
    """All chains that there are not, and more of what does not agree; how many failed."""
    store, data, left = Store(args.output / "runs"), Data(args), list(cells(args, earlier))
    failed = count = 0
    while left and (chosen := settings(args, count)):
        say(f"round {count + 1}: {len(left)} cells, {chosen['num_samples']} draws a chain")
        tasks: list[list[Chain]] = []
        for cell in left:
            images = data(cell["name"], cell["n"], cell["seed"])
            config = {k: v for k, v in cell.items() if k != "name"}
            config |= {"settings": chosen, "data": digest(*map(tensor_bytes, images))}
            tasks.append([])
            for number in range(cell["chains"]):
                own = {**config, "chain": number}
                place = store.path({**own, "settings": {**chosen, "num_samples": 0}}).stem
                tasks[-1].append(Chain(images, own, args.output / "chains" / place))
        failed += compute(
            [chain for some in tasks for chain in some], run_chain, store, Pool.of(args), tell
        )
        again = []
        for cell, some in zip(left, tasks, strict=True):
            if args.select or agree([store.get(chain.config()) for chain in some]):
                for chain in some:
                    shutil.rmtree(chain.folder, ignore_errors=True)
            else:
                again.append(cell)
        left, count = again, count + 1
    if left:
        say(f"{len(left)} cells have not converged after {args.most} gradients a chain")
    return failed


def tell(result: Mapping[str, Any]) -> str:
    return f"{result.get('failure', '')} {result['measures']['seconds']:.0f} s".strip()


# --- command line ----------------------------------------------------------------------------


def make_parser() -> Parser:
    parser = Parser(__doc__)
    add = parser.add_argument_group("data, priors and network").add_argument
    add("--datasets", type=names, default="embedded", help=f"of {', '.join(datasets.NAMES)}, or folders")
    add(
        "--data-dir",
        type=Path,
        default=Path(".cache/data"),
        help="where torchvision's files are, or are put",
    )
    add("-n", type=wholes, default="100", help="images to learn from, one number or several")
    add("--test", type=whole, default=1000, help="unseen images")
    add("--size", type=whole, default=14, help="pixels a side, at least 8")
    add(
        "--priors",
        type=names,
        default="klein-3x3,gaussian,twin,linear,torus-3x3",
        help=f"of {', '.join(PRIORS)}",
    )
    add(
        "--width",
        type=whole,
        default=16,
        help="channels of the first convolution; the second has twice as many",
    )
    add("--last-gain", type=positive, default=4.0, help="of the last layer's Gaussian prior")
    runs_group = parser.add_argument_group("runs")
    add = runs_group.add_argument
    add("--seeds", default="5", help="splits: a count, or a list; images to learn from, starts and noise")
    add("--chains", type=whole, default=4, help="of every cell, at least 2")
    add(
        "--most",
        type=whole,
        default=7000,
        help="gradients of a chain, where its cell does not converge before",
    )
    add_earlier(runs_group)
    add("--select", action="store_true", help="run the candidates of the last layer's gain instead")
    add(
        "--half-step",
        action="store_true",
        help="chains of about .4 of the step instead, 6,000 gradients, beside the others: what of a difference is the sampler's bias",
    )
    add("--budget", type=positive, default=1.0, help="every count of steps is multiplied by it")
    parser.add_argument("--output", type=Path, default=Path("results/posterior"), help="folder of the runs")
    parser.add_argument(
        "--report", type=Path, help="folder for the report, and nothing is run; without it the runs"
    )
    parser.add_argument(
        "--announced",
        type=whole,
        default=0,
        help="comparisons that were announced, if they are more than were run: of the report's p over all of them",
    )
    Pool.add_options(parser)
    parser.add_progress()
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser()
    args = parser.parse_args(argv)
    with parser.ending(args.output) as ending:
        if args.report is not None:
            print(priors_report.write(Store(args.output / "runs"), args.report, args.announced))
            return 0
        check_known(args.priors, PRIORS, "--priors")
        check_size("--size", args.size)
        if args.select and args.half_step:
            raise ValueError("--half-step and --select exclude each other")
        if args.chains < 2:
            raise ValueError(
                f"--chains {args.chains}: give at least 2, whether they agree is what is asked"
            )
        earlier = read_runs(args.earlier)
        args.output.mkdir(parents=True, exist_ok=True)
        write_config(
            args, chain=converge.CHAIN, short=SHORT, gains=GAINS, half_step_chain=converge.HALF_STEP
        )
        return 1 if run(args, earlier) else 0
    return ending.status


if __name__ == "__main__":
    sys.exit(main())
