"""Compare weight priors: the same small 3x3 CNN with Klein-bottle, Gaussian, BLiTZ or plain convolutions.

    python -m experiments.priors.compare
    python -m experiments.priors.compare --dataset mnist --train-size 1000 --seeds 10

All methods get the same data, batches, steps and network. Every finished run is kept in OUTPUT/runs, so
the same command resumes a job that was stopped.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from experiments.common import data as datasets
from experiments.common import options
from experiments.common.document import plain_table
from experiments.common.engine import Pool, compute
from experiments.common.folders import LARGEST_SIDE
from experiments.common.metrics import METRICS
from experiments.common.options import Parser, positive, say, whole
from experiments.common.store import Run, Store, digest
from experiments.common.tables import as_rows, differences, means, signed
from experiments.priors import networks, report, table
from experiments.priors.grid import Job
from experiments.priors.hardware import Hardware
from experiments.priors.job import Sources, run_job, tell
from experiments.priors.methods import METHODS, Method, get_method, prior_digest
from experiments.priors.training import Budget

SMALLEST_IMAGE = 8
_COLUMNS = (*METRICS, "KL / image", "parameters", "train seconds")


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser()
    arguments = parser.parse_args(argv)
    with parser.ending(arguments.output) as ending:
        hardware = Hardware(arguments.device)
        hardware.check()
        seeds = options.seed_list(arguments.seeds, arguments.seed)
        methods = [choose_method(name, arguments) for name in arguments.priors]
        options.check_writable(arguments.output)
        sources = Sources(str(arguments.data_dir))
        (read,) = sources.digests([arguments.dataset], arguments.image_size).values()
        check_networks(methods, sources, read, arguments)
        jobs = [make_job(method, seed, read, arguments) for seed in seeds for method in methods]
        store = Store(arguments.output / "runs")
        options.write_config(arguments)
        if arguments.fresh:
            for job in jobs:
                store.drop(job.config())
        work = functools.partial(run_job, sources=sources, hardware=hardware)
        if compute(jobs, work, store, Pool(), tell):
            return 1
        write_results(jobs, store, arguments.output)
    return ending.status


def choose_method(name: str, arguments: argparse.Namespace) -> Method:
    method = get_method(name)
    if arguments.learning_rate is not None:
        method = replace(method, settings=replace(method.settings, learning_rate=arguments.learning_rate))
    return method


def make_job(method: Method, seed: int, read: str, arguments: argparse.Namespace) -> Job:
    """``read``: the digest of the data set."""
    return Job(
        dataset=arguments.dataset,
        train_size=arguments.train_size,
        method=method.name,
        start="own",
        temperature=f"{arguments.temperature:g}",
        seed=seed,
        settings=method.settings,
        budget=Budget(arguments.steps, arguments.batch_size, arguments.temperature, arguments.samples),
        data=digest(read.encode(), prior_digest(method.name).encode()),
        test_size=arguments.test_size,
        image_size=arguments.image_size,
    )


def check_networks(
    methods: Sequence[Method], sources: Sources, read: str, arguments: argparse.Namespace
) -> None:
    """Build each network once: a prior may not fit 3x3 kernels."""
    sizes = arguments.train_size, arguments.test_size
    data = sources.load(
        arguments.dataset, *sizes, seed=arguments.seed, image_size=arguments.image_size, digest=read
    )
    channels, height, width = data.train_images.shape[1:]
    if min(height, width) < SMALLEST_IMAGE:
        raise ValueError(f"images are {height}x{width}; use --image-size {SMALLEST_IMAGE} or more")
    for method in methods:
        try:
            networks.build(method, channels, len(data.classes))
        except ValueError as error:
            raise ValueError(f"--priors {method.name}: {error}") from None


def write_results(jobs: Sequence[Job], store: Store, output: Path) -> None:
    """runs.csv, report.md and pictures; the table to the terminal."""
    runs = [Run(job.config(), store.get(job.config()) or {}, {}) for job in jobs]
    results = table.of_runs(runs)
    results = results.assign(variant=results["method"])
    first, *others = dict.fromkeys(results["variant"])
    path = report.write(results, runs, output, _COLUMNS, first)
    say("")
    columns = {c: means(results, "variant", "start", c).iloc[:, 0] for c in _COLUMNS}
    print(plain_table(as_rows(pd.DataFrame(columns).rename_axis("method"))))
    rows = [["difference", *METRICS]]
    for other in others:
        found = [differences(results, first, other, "variant", m, ["dataset"]).iloc[0] for m in METRICS]
        rows.append([f"{first} - {other}", *(signed(f["mean"], f["half_width"]) for f in found)])
    if others:
        print(f"\nPaired differences, seed by seed\n{plain_table(rows)}")
    seeds = results["seed"].nunique()
    print(f"\nMean over {seeds} seed(s) ± half the 95% interval. Report: {ascii(str(path))[1:-1]}")


def make_parser() -> Parser:
    parser = Parser(__doc__, prog="python -m experiments.priors.compare")
    data = parser.add_argument_group("data").add_argument
    data("--dataset", default="embedded", metavar="NAME|FOLDER",
         help=f"{', '.join(datasets.NAMES)}, or a folder with train/<class>/ and test/<class>/")  # fmt: skip
    data("--data-dir", type=Path, default=Path(".cache/data"), help="where downloads are, or go")
    data(
        "--train-size",
        type=whole,
        help="training images, a stratified subset drawn by the seed; without it all",
    )
    data("--test-size", type=whole, help="test images, likewise; without it all")
    data(
        "--image-size",
        type=whole,
        help=f"resize images to so many pixels a side, at least {SMALLEST_IMAGE}; without it as they are, in a folder as most are, at most {LARGEST_SIDE}",
    )

    compared = parser.add_argument_group("what is compared").add_argument
    compared("--priors", type=options.names, default="klein,gaussian,blitz,deterministic", metavar="LIST",
             help=f"comma-separated: {', '.join(METHODS)}, a prior of topoprior, or the folder of a prior "
             "checkpoint; differences are between the first and each other one")  # fmt: skip
    compared("--seeds", default="3", metavar="COUNT|LIST", help="how many, or which: 3 or 0,1,2")
    compared("--seed", type=options.seed_number, default=0, help="first seed, where --seeds is a count")

    training, defaults = parser.add_argument_group("training, the same for all").add_argument, Budget()
    training("--steps", type=whole, default=defaults.steps, help="of the optimizer")
    training("--batch-size", type=whole, default=defaults.batch_size, help="images a step")
    training(
        "--temperature", type=positive, default=defaults.temperature, help="factor of the KL; 1 is Bayes"
    )
    training("--learning-rate", type=positive, help="for all methods; without it each one's tuned rate")
    training("--samples", type=whole, default=defaults.samples, help="posterior samples for predictions")
    training("--device", default="auto", help="cpu, cuda, ...; auto: cuda if there is one")

    output = parser.add_argument_group("results").add_argument
    output("--output", type=Path, default=Path("results/compare"), help="folder")
    output("--fresh", action="store_true", help="recompute runs that are already there")
    parser.add_progress()
    return parser


if __name__ == "__main__":
    sys.exit(main())
