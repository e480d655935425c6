"""Run a grid of comparisons: data set x training size x prior x start x temperature x seed.

    python -m experiments.priors.sweep --datasets mnist --sizes 50,100 --seeds 3
    python -m experiments.priors.sweep --datasets mnist,fashion-mnist,cifar10=folder/of/images --jobs 2
    python -m experiments.priors.report results/sweep

Every run is one file in OUTPUT/runs, written at once when the run ends and named after its configuration and its data: a
sweep that was stopped goes on where it was, nothing is computed twice, and images or labels that changed are computed again.
A run that fails leaves its reason in OUTPUT/failures and is tried again next time.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.common import options
from experiments.common.engine import Pool, compute, missing
from experiments.common.options import Parser, named_folder, names, positive, whole
from experiments.common.store import Store, digest
from experiments.priors.grid import TUNED, Axes, Job, make_jobs
from experiments.priors.hardware import PRECISIONS, Hardware
from experiments.priors.job import Sources, run_job, tell
from experiments.priors.methods import METHODS, STARTS
from experiments.priors.networks import NETWORKS
from experiments.priors.training import Budget

# Where a data set's training sizes are other than --sizes.
SIZES = (50, 100, 200, 500, 1000)
COLOUR_SIZES = (50, 200, 500, 1000, 5000)
GREY_SHIFTS, COLOUR_SHIFTS = ("rotation-30", "rotation-60"), ("blur-1", "noise-0.1")


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser()
    arguments = parser.parse_args(argv)
    pool = Pool.of(arguments)
    with parser.ending(arguments.output) as ending:
        hardware = Hardware(arguments.device, arguments.precision)
        hardware.check()
        options.check_known(arguments.priors, METHODS, "--priors")
        options.check_known(arguments.starts, STARTS, "--starts")
        options.check_writable(arguments.output)
        folders = dict(map(named_folder, arguments.datasets))
        sources = Sources(str(arguments.data_dir), folders)
        jobs = plan(arguments, sources.digests([*folders, *foreign_sets(arguments).values()]))
        store = Store(arguments.output / "runs")
        if arguments.dry_run:
            print("\n".join(store.path(job.config()).stem for job in missing(jobs, store)))
            return 0
        if hardware.device.type != "cpu":
            pool = Pool()  # a run has the device for itself
        options.write_config(arguments)
        work = functools.partial(run_job, sources=sources, hardware=hardware)
        return 1 if compute(jobs, work, store, pool, tell) else 0
    return ending.status


def plan(arguments: argparse.Namespace, digests: Mapping[str, str]) -> list[Job]:
    """All runs; ``digests`` of the data sets and of the foreign ones."""
    labels = [named_folder(entry)[0] for entry in arguments.datasets]
    foreign = foreign_sets(arguments)
    cells = []
    for label in labels:
        sizes = arguments.sizes or (COLOUR_SIZES if _in_colour(label) else SIZES)
        cells += [(label, size) for size in sizes]

    def further(label: str) -> dict[str, Any]:
        return {
            "test_size": arguments.test_size,
            "foreign": foreign.get(label, ""),
            "foreign_size": arguments.foreign_size,
            "shifts": COLOUR_SHIFTS if _in_colour(label) else GREY_SHIFTS,
            "precision": arguments.precision,
            "curve": arguments.curve,
        }

    axes = Axes(
        cells,
        arguments.priors,
        arguments.starts,
        arguments.temperatures,
        arguments.seeds,
        min(arguments.seeds, arguments.other_seeds),
        arguments.seed,
    )
    budget = Budget(
        arguments.steps, arguments.batch_size, 1.0, arguments.samples, arguments.warmup, arguments.network
    )
    read = {label: digests[label] for label in labels}
    for label, other in foreign.items():
        read[label] = digest(read[label].encode(), digests[other].encode())
    return make_jobs(axes, budget, read, further)


def foreign_sets(arguments: argparse.Namespace) -> dict[str, str]:
    """The out-of-distribution data of every data set that has some."""
    labels = [named_folder(entry)[0] for entry in arguments.datasets]
    if arguments.foreign == "none":
        return {}
    usual = {label: "embedded" if label == "mnist" or _in_colour(label) else "mnist" for label in labels}
    return dict.fromkeys(labels, arguments.foreign) if arguments.foreign else usual


def _in_colour(label: str) -> bool:
    return label.startswith("cifar")


# --- the command line --------------------------------------------------------------------------


def make_parser() -> Parser:
    parser = Parser(__doc__)
    defaults = Budget()
    grid = parser.add_argument_group("grid").add_argument
    grid("--datasets", type=names, default="mnist,fashion-mnist", metavar="LIST",
         help="names, or NAME=FOLDER for a folder with train/<class>/ and test/<class>/")  # fmt: skip
    grid("--data-dir", type=Path, default=Path(".cache/data"), help="where downloads are, or go")
    grid("--sizes", type=options.wholes, metavar="LIST",
         help=f"training images; without it {_commas(SIZES)}, for cifar* {_commas(COLOUR_SIZES)}")  # fmt: skip
    grid("--priors", type=names, default=_commas(m for m in METHODS if m not in _LEFT_OUT), metavar="LIST",
         help="methods")  # fmt: skip
    grid("--starts", type=names, default="own,klein", metavar="LIST", help="where layers start")
    grid("--temperatures", type=_temperatures, default=f"1,{TUNED}", metavar="LIST",
         help=f"factors of the KL, or {TUNED}: the method's own choice")  # fmt: skip
    grid("--seeds", type=whole, default=10, help="of Klein, Gaussian, deterministic")
    grid("--other-seeds", type=whole, default=5, help="of the others")
    grid("--seed", type=options.seed_number, default=0, help="first seed")

    run = parser.add_argument_group("a run, the same for all").add_argument
    run("--network", choices=sorted(NETWORKS), default="small", help="the layers")
    run("--steps", type=whole, default=150, help="of the optimizer")
    run("--batch-size", type=whole, default=defaults.batch_size, help="images a step")
    run("--warmup", type=options.fraction, default=0.0, help="part of the steps in which the KL rises")
    run("--samples", type=whole, default=16, help="posterior samples")
    run("--test-size", type=whole, default=2000, help="test images")
    run(
        "--foreign",
        metavar="NAME",
        help="out-of-distribution data for all, or none; without it each set's usual ones",
    )
    run("--foreign-size", type=whole, default=500, help="images of it, and of shifts")
    run(
        "--curve",
        type=whole,
        default=0,
        metavar="POINTS",
        help="test measures at this many steps on the way",
    )

    machine = parser.add_argument_group("machine").add_argument
    machine("--device", default="cpu", help="cpu, cuda, mps, auto")
    machine("--precision", choices=PRECISIONS, default="float32", help="of the layers")
    machine("--output", type=Path, default=Path("results/sweep"), help="folder")
    machine("--dry-run", action="store_true", help="name the runs that are missing and stop")
    Pool.add_options(parser)
    parser.add_progress()
    return parser


_LEFT_OUT = ("scale-mixture", "blitz")  # blitz-mixture and gaussian are their relatives


def _commas(values: Iterable[Any]) -> str:
    return ",".join(map(str, values))


def _temperatures(text: str) -> list[str]:
    return [part if part == TUNED else f"{positive(part):g}" for part in names(text)]


if __name__ == "__main__":
    sys.exit(main())
