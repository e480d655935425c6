"""Compare weight priors: the same small 3x3 CNN with Klein-bottle, Gaussian, BLiTZ or plain convolutions.

    python experiments/compare_priors.py
    python experiments/compare_priors.py --dataset mnist --train-size 1000 --seeds 10

All methods get the same data, batches, steps and network. Every finished run is kept in OUTPUT/runs, so
the same command resumes a job that was stopped. See --help.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from experiments.common.statistics import Interval
from experiments.common.store import versions, write_json
from experiments.priors import networks
from experiments.priors import quick_report as report
from experiments.priors.data import ImageData
from experiments.priors.methods import Method, get_method
from experiments.priors.options import SMALLEST_IMAGE, make_parser, seed_list
from experiments.priors.runs import KERNELS_DRAWN, load, run_grid
from topoprior.utils.files import write_atomically


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser()
    arguments = parser.parse_args(argv)
    try:
        arguments.seeds = seed_list(arguments.seeds, arguments.seed)
        methods = [choose_method(name, arguments) for name in arguments.priors]
        device = choose_device(arguments.device)
        check_writable(arguments.output)
        data = load(arguments, arguments.seeds[0])
        check_networks(methods, data)
    except ValueError as error:  # also DataError and CheckpointError
        parser.error(str(error))
    try:
        runs = run_grid(methods, data, arguments, device)
        write_results(methods, runs, data, arguments)
    except OSError as error:
        parser.error(f"{error}; free space or choose another --output, finished runs are kept")
    except KeyboardInterrupt:
        print(f"\nstopped; the same command resumes from {arguments.output}", file=sys.stderr)
        sys.exit(130)


# Checks, all of them before anything is written


def choose_method(name: str, arguments: argparse.Namespace) -> Method:
    method = get_method(name)
    if arguments.learning_rate is not None:
        settings = replace(method.settings, learning_rate=arguments.learning_rate)
        method = replace(method, settings=settings)
    return method


def choose_device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError):  # torch raises any of these
        raise ValueError(f"--device {name}: not on this machine; use --device auto or cpu") from None
    return device


def check_writable(output: Path) -> None:
    """Write a file where the results will be, or in the nearest folder that exists, and remove it."""
    folder = output.absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        raise ValueError(
            f"--output {output}: cannot write to {folder} ({reason}); choose another"
        ) from None


def check_networks(methods: Sequence[Method], data: ImageData) -> None:
    """Build each network once: a prior may not fit 3x3 kernels."""
    channels, height, width = data.train_images.shape[1:]
    if min(height, width) < SMALLEST_IMAGE:
        raise ValueError(f"images are {height}x{width}; use --image-size {SMALLEST_IMAGE} or more")
    for method in methods:
        try:
            networks.build(method, channels, len(data.classes))
        except ValueError as error:
            raise ValueError(f"--priors {method.name}: {error}") from None


# Results


def write_results(
    methods: Sequence[Method], runs: list[dict[str, Any]], data: ImageData, arguments: argparse.Namespace
) -> None:
    """config.json, results.json, report.md and pictures, each written at once; the table to the terminal."""
    output: Path = arguments.output
    channels, height, width = data.train_images.shape[1:]
    config = {
        "arguments": {
            name: str(value) if isinstance(value, Path) else value
            for name, value in vars(arguments).items()
        },
        "settings": {method.name: str(method.settings) for method in methods},
        "train_images": len(data.train_images),
        "test_images": len(data.test_images),
        "image_shape": f"{channels}x{height}x{width}",
        "versions": versions(),
        "threads": torch.get_num_threads(),
        "cpus": os.cpu_count(),
    }
    table, differences = report.summarize(runs), report.paired_differences(runs)
    write_json(output / "config.json", config)
    write_json(
        output / "results.json",
        {
            "runs": [{k: v for k, v in run.items() if k != "first_kernels"} for run in runs],
            "summary": as_json(table),
            "differences": as_json(differences),
        },
    )
    torch.manual_seed(arguments.seeds[0])
    shape = (KERNELS_DRAWN, channels, 3, 3)
    prior = {method.name: method.sample_prior(shape).flatten(0, 1)[:KERNELS_DRAWN] for method in methods}
    posterior = {run["method"]: torch.tensor(run["first_kernels"]) for run in runs[: len(methods)]}
    write_atomically(output / "kernels.png", report.kernels_picture(prior, posterior))
    write_atomically(output / "reliability.png", report.reliability_picture(runs))
    write_atomically(output / "report.md", report.markdown(config, runs).encode())

    print(report.plain(report.rows(table, "method")))
    if differences:
        print("\nPaired differences, seed by seed")
        print(report.plain(report.rows(differences, "difference")))
    print(
        f"\nMean over {len(arguments.seeds)} seed(s) ± half the 95% interval. Report: {output / 'report.md'}"
    )


def as_json(table: dict[str, dict[str, Interval]]) -> dict[str, Any]:
    return {name: {c: value._asdict() for c, value in entry.items()} for name, entry in table.items()}


if __name__ == "__main__":
    main()
