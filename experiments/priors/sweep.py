"""Run a grid of comparisons: data set x training size x prior x start x temperature x seed.

    python -m experiments.priors.sweep --datasets mnist --sizes 50,100 --seeds 3
    python -m experiments.priors.sweep --datasets mnist,fashion-mnist,cifar10=folder/of/images --jobs 2
    python -m experiments.priors.report results/sweep

Every run is one file in OUTPUT/runs, written at once when the run ends and named after its configuration: a
sweep that was stopped goes on where it was, and nothing is computed twice, neither what is in the summary.json of
an earlier report in OUTPUT. A run that fails leaves its reason
in OUTPUT/failures and is tried again next time. See --help.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import joblib
import torch
from tqdm import tqdm

from experiments.common.store import versions, write_json
from experiments.priors import table as summary
from experiments.priors.grid import TUNED, Axes, Job, job_name, make_jobs
from experiments.priors.hardware import PRECISIONS, Hardware
from experiments.priors.job import Sources, run_job
from experiments.priors.methods import METHODS, STARTS
from experiments.priors.networks import NETWORKS
from experiments.priors.options import Parser, named_folder, names, positive, seed_number, whole
from experiments.priors.training import Budget

BACKENDS = ("loky", "threading", "dask", "ray")
# Where a data set's training sizes are other than --sizes.
SIZES = (50, 100, 200, 500, 1000)
COLOUR_SIZES = (50, 200, 500, 1000, 5000)
GREY_SHIFTS, COLOUR_SHIFTS = ("rotation-30", "rotation-60"), ("blur-1", "noise-0.1")


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser()
    arguments = parser.parse_args(argv)
    try:
        sources = Sources(str(arguments.data_dir), dict(map(named_folder, arguments.datasets)))
        hardware = Hardware(arguments.accelerator, arguments.devices, arguments.precision)
        hardware.check()
        jobs = plan(arguments)
        (arguments.output / "runs").mkdir(parents=True, exist_ok=True)
        (arguments.output / "failures").mkdir(exist_ok=True)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    summarized = known_from_summary(arguments.output)
    missing = [job for job in jobs if job.name not in summarized and not is_done(arguments.output, job)]
    print(f"{len(jobs)} runs, {len(jobs) - len(missing)} of them done", file=sys.stderr)
    if arguments.dry_run:
        print("\n".join(job.name for job in missing))
        return 0
    try:
        failures = run_all(missing, len(jobs), sources, hardware, arguments)
    except ValueError as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        print(f"\nstopped; the same command resumes from {arguments.output}", file=sys.stderr)
        return 130
    if failures:
        print(f"{failures} runs failed: see {arguments.output / 'failures'}", file=sys.stderr)
    return 1 if failures else 0


# --- what there is to do -----------------------------------------------------------------------


def plan(arguments: argparse.Namespace) -> list[Job]:
    labels = [named_folder(entry)[0] for entry in arguments.datasets]
    colour = {label: label.startswith("cifar") for label in labels}
    cells = []
    for label in labels:
        sizes = arguments.sizes or (COLOUR_SIZES if colour[label] else SIZES)
        cells += [(label, size) for size in sizes]
    foreign = {label: "embedded" if label == "mnist" or colour[label] else "mnist" for label in labels}
    if arguments.foreign is not None:
        foreign = dict.fromkeys(labels, "" if arguments.foreign == "none" else arguments.foreign)
    return make_jobs(
        Axes(
            cells,
            _known(arguments.priors, METHODS, "--priors"),
            _known(arguments.starts, STARTS, "--starts"),
            arguments.temperatures,
            arguments.seeds,
            min(arguments.seeds, arguments.other_seeds),
            arguments.seed,
        ),
        Budget(
            arguments.steps,
            arguments.batch_size,
            1.0,
            arguments.samples,
            arguments.warmup,
            arguments.network,
        ),
        test_size=arguments.test_size,
        foreign=foreign,
        foreign_size=arguments.foreign_size,
        shifts={label: COLOUR_SHIFTS if colour[label] else GREY_SHIFTS for label in labels},
        precision=arguments.precision,
        curve=arguments.curve,
    )


def run_file(output: Path, job: Job) -> Path:
    return output / "runs" / f"{job.name}.json"


def is_done(output: Path, job: Job) -> bool:
    """A whole file with this configuration; a damaged one is computed again."""
    try:
        return json.loads(run_file(output, job).read_text(encoding="utf-8"))["config"] == job.config()
    except (OSError, ValueError, KeyError, TypeError):
        return False


def known_from_summary(output: Path) -> set[str]:
    """Names of the runs in the summary of an earlier report: a repository may keep it in place of all the files."""
    if not (output / summary.SUMMARY).is_file():
        return set()
    return {job_name(run["config"]) for run in summary.read_runs(output / summary.SUMMARY)}


# --- doing it ----------------------------------------------------------------------------------


def run_all(
    jobs: Sequence[Job], total: int, sources: Sources, hardware: Hardware, arguments: argparse.Namespace
) -> int:
    """Compute the jobs, write each result as it comes, return how many failed."""
    output, failed = arguments.output, 0
    with tqdm(
        total=total, initial=total - len(jobs), desc="runs", disable=None, smoothing=0.05
    ) as progress:
        for job, result in _results(jobs, sources, hardware, arguments):
            problem = output / "failures" / f"{job.name}.json"
            if "error" in result:
                failed += 1
                write_json(problem, {"config": job.config(), **result})
                tqdm.write(f"{job.name}: {result['error']}", file=sys.stderr)
            else:
                write_json(
                    run_file(output, job), {"config": job.config(), **result, "versions": versions()}
                )
                problem.unlink(missing_ok=True)
            progress.update()
            progress.set_postfix_str(job.name.rpartition("_")[0])
    return failed


def _results(
    jobs: Sequence[Job], sources: Sources, hardware: Hardware, arguments: argparse.Namespace
) -> Iterator[tuple[Job, dict[str, Any]]]:
    """Results in whatever order they come."""
    if not jobs:
        return
    with ExitStack() as stack:
        parallel = _parallel(arguments, hardware, stack)
        yield from parallel(
            joblib.delayed(attempt)(job, sources, hardware, parallel.n_jobs) for job in jobs
        )


def attempt(job: Job, sources: Sources, hardware: Hardware, workers: int = 1) -> tuple[Job, dict[str, Any]]:
    """The result, or why there is none: one run's failure is no reason to lose the others."""
    if workers != 1 and hardware.device.type == "cpu":
        torch.set_num_threads(1)  # two runs at a time are faster than two threads for one
    try:
        return job, run_job(job, sources, hardware)
    except Exception as error:
        return job, {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}


def _parallel(arguments: argparse.Namespace, hardware: Hardware, stack: ExitStack) -> joblib.Parallel:
    """joblib's pool, on the cluster that was asked for."""
    options: dict[str, Any] = {"batch_size": 1, "pre_dispatch": "2*n_jobs"}
    if hardware.device.type != "cpu" or hardware.needs_fabric:
        return joblib.Parallel(1, return_as="generator", **options)  # a run has the hardware for itself
    if arguments.backend == "dask":
        stack.enter_context(_dask_client(arguments))
        stack.enter_context(joblib.parallel_config("dask"))
    elif arguments.backend == "ray":
        _start_ray()
        stack.enter_context(joblib.parallel_config("ray", n_jobs=arguments.jobs or -1))
    else:
        stack.enter_context(
            joblib.parallel_config(arguments.backend, n_jobs=arguments.jobs or os.cpu_count())
        )
    backend, _ = joblib.parallel.get_active_backend()
    kind = "generator_unordered" if backend.supports_return_generator else "list"
    return joblib.Parallel(return_as=kind, **options)


def _dask_client(arguments: argparse.Namespace) -> Any:
    try:
        from distributed import Client
    except ImportError:
        raise ValueError('--backend dask: pip install "topoprior[cluster]"') from None
    if arguments.scheduler:
        return Client(arguments.scheduler)
    return Client(n_workers=arguments.jobs or os.cpu_count(), threads_per_worker=1, dashboard_address=None)


def _start_ray() -> None:
    try:
        from ray.util.joblib import register_ray
    except ImportError:
        raise ValueError('--backend ray: pip install "ray[default]"') from None
    register_ray()


# --- the command line --------------------------------------------------------------------------


def make_parser() -> Parser:
    description, _, epilog = (__doc__ or "").partition("\n\n")
    parser = Parser(
        prog="sweep.py",
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    defaults = Budget()
    grid = parser.add_argument_group("grid")
    grid.add_argument(
        "--datasets", type=names, default="mnist,fashion-mnist", metavar="LIST",
        help="names, or NAME=FOLDER for a folder with train/<class>/ and test/<class>/ (default: %(default)s)",
    )  # fmt: skip
    grid.add_argument(
        "--data-dir", type=Path, default=Path(".cache/data"), help="where downloads are, or go"
    )
    grid.add_argument(
        "--sizes", type=_sizes, metavar="LIST",
        help=f"training images (default: {_commas(SIZES)}; for cifar*: {_commas(COLOUR_SIZES)})",
    )  # fmt: skip
    grid.add_argument("--priors", type=names, default=",".join(m for m in METHODS if m not in _LEFT_OUT),
                      metavar="LIST", help="default: %(default)s")  # fmt: skip
    grid.add_argument(
        "--starts", type=names, default="own,klein", metavar="LIST", help="default: %(default)s"
    )
    grid.add_argument("--temperatures", type=_temperatures, default=f"1,{TUNED}", metavar="LIST",
                      help=f"factors of the KL, or {TUNED}: the method's own choice (default: %(default)s)")  # fmt: skip
    grid.add_argument(
        "--seeds", type=whole, default=10, help="of Klein, Gaussian, deterministic (%(default)s)"
    )
    grid.add_argument("--other-seeds", type=whole, default=5, help="of the others (%(default)s)")
    grid.add_argument("--seed", type=seed_number, default=0, help="first seed (%(default)s)")

    run = parser.add_argument_group("a run, the same for all")
    run.add_argument("--network", choices=sorted(NETWORKS), default="small", help="default: %(default)s")
    run.add_argument("--steps", type=whole, default=150, help="default: %(default)s")
    run.add_argument("--batch-size", type=whole, default=defaults.batch_size, help="default: %(default)s")
    run.add_argument(
        "--warmup", type=_fraction, default=0.0, help="part of the steps in which the KL rises"
    )
    run.add_argument("--samples", type=whole, default=16, help="posterior samples (default: %(default)s)")
    run.add_argument("--test-size", type=whole, default=2000, help="test images (default: %(default)s)")
    run.add_argument("--foreign", metavar="NAME", help="out-of-distribution data for all, or none")
    run.add_argument("--foreign-size", type=whole, default=500, help="default: %(default)s")

    run.add_argument("--curve", type=whole, default=0, metavar="POINTS",
                     help="test measures at this many steps on the way (default: none)")  # fmt: skip

    machine = parser.add_argument_group("machine")
    machine.add_argument(
        "--backend", choices=BACKENDS, default="loky", help="joblib's (default: %(default)s)"
    )
    machine.add_argument("--jobs", type=whole, help="runs at a time (default: all cores)")
    machine.add_argument("--scheduler", help="address of a dask cluster; without it a local one is started")
    machine.add_argument("--accelerator", default="cpu", help="cpu, cuda, mps, auto (default: %(default)s)")
    machine.add_argument("--devices", type=whole, default=1, help="for each run (default: %(default)s)")
    machine.add_argument("--precision", choices=PRECISIONS, default="32-true", help="default: %(default)s")
    machine.add_argument("--output", type=Path, default=Path("results/sweep"), help="default: %(default)s")
    machine.add_argument("--dry-run", action="store_true", help="name the runs that are missing and stop")
    return parser


_LEFT_OUT = ("scale-mixture", "blitz")  # blitz-mixture and gaussian are their relatives


def _commas(values: Iterable[Any]) -> str:
    return ",".join(map(str, values))


def _sizes(text: str) -> list[int]:
    return [whole(part.strip()) for part in text.split(",")]


def _fraction(text: str) -> float:
    value = 0.0 if text == "0" else positive(text)
    if value > 1:
        raise argparse.ArgumentTypeError(f"{text!r}: give a number from 0 to 1")
    return value


def _temperatures(text: str) -> list[str]:
    return [part if part == TUNED else f"{positive(part):g}" for part in names(text)]


def _known(found: Sequence[str], known: Sequence[str], option: str) -> Sequence[str]:
    for name in found:
        if name not in known:
            raise ValueError(f"{option} {name}: choose from {', '.join(known)}")
    return found


if __name__ == "__main__":
    from experiments.priors import sweep  # joblib's workers find `attempt` by the name of its module

    sys.exit(sweep.main())
