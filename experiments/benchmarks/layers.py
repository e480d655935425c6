"""What do Bayesian convolutions cost beside plain ones, here and in other libraries?

    python -m experiments.benchmarks.layers

Every network runs in float32, in channels last, in bfloat16 autocast and compiled whole, where the machine can; ratios are to
nn.Conv2d run in the same way, and to its fastest way. All take turns in one process, so that drifts of the machine hit all alike;
medians are compared. Peers that are not installed (pip install "topoprior[peers]" has them) are named as missing. The network:
conv3x3 64 - pool - conv3x3 128 - pool - conv3x3 256 - average pool - linear, on 32x32x3 inputs; and 18 convolutions of 16
channels on 16x16x3.
Writes results.json, runs.csv and report.md to --output; tables that a call leaves out (--only, --batch-sizes,
--prediction-batches) stay as they are there, so that a run can be made in pieces. With --device cuda the
same on a GPU, compiled networks as CUDA graphs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from experiments.benchmarks import peers, variants
from experiments.benchmarks.costs import Bench
from experiments.benchmarks.report import PICTURE, as_markdown, picture
from experiments.common.options import Parser, check_writable, whole, write_config
from experiments.common.store import write_json
from experiments.common.tables import write_csv
from topoprior.utils.files import write_atomically

PARTS = ("training", "deep", "parameters", "prediction", "layer", "memory")


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser()
    arguments = parser.parse_args(argv)
    if arguments.device.startswith("cuda") and not torch.cuda.is_available():
        print(f"{arguments.device}: not run, torch finds no GPU")
        return
    try:
        check_writable(arguments.output)
        write_config(arguments)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    device = torch.device(arguments.device)
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(arguments.threads)
    found, missing = peers.available(arguments.compiled)
    results = earlier(arguments.output, configuration(arguments))
    results["missing"] = missing
    ways = [way for way in variants.available(device, arguments.compiled) if way.name in arguments.ways]
    bench = Bench(found, ways, arguments, device)
    for part in [part for part in PARTS if part in arguments.only]:
        print(f"{part} ...", flush=True)
        for rows in getattr(bench, part)():
            results[part] = merged(results.get(part, []), rows)
            write(results, arguments.output)  # after each table: an interrupted run has shown something
    print(f"{as_markdown(results)}\nwritten to {arguments.output}")


def earlier(output: Path, config: dict[str, Any]) -> dict[str, Any]:
    """What a run of the same configuration left in the folder."""
    try:
        found = json.loads((output / "results.json").read_text())
    except (OSError, ValueError):
        found = {}
    return found if found.get("config") == config else {"config": config}


def merged(before: list[dict[str, Any]], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Measures of a batch size are one table, which is measured at once; peak memory is measured network by network."""

    def table(row: dict[str, Any]) -> tuple[Any, ...]:
        return row["measure"], row.get("batch"), row["layer"] if "bytes" in row else None

    new = set(map(table, rows))
    return [row for row in before if table(row) not in new] + rows


def write(results: dict[str, Any], output: Path) -> None:
    write_json(output / "results.json", results)
    rows = [row for part in PARTS for row in results.get(part, [])]
    write_csv(output / "runs.csv", pd.DataFrame(rows))
    if results.get("training"):
        write_atomically(output / PICTURE, picture(results))
    write_atomically(output / "report.md", as_markdown(results).encode())


def make_parser() -> Parser:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--threads", type=whole, default=2, help="of torch")
    add("--repeats", type=whole, default=15, help="rounds in which all take turns")
    add("--seconds", type=whole, default=60, help="after which a table's rounds end, three at least")
    add("--batch-sizes", type=whole, nargs="+", default=[64, 8], metavar="N", help="of training steps")
    add(
        "--processor-time",
        action="store_true",
        help="not that of the wall: on a machine that others use, one thread",
    )
    add("--prediction-batches", type=whole, nargs="+", default=[64, 1], metavar="N", help="of predictions")
    add("--processes", type=whole, default=3, help="whose peak memory is measured, for each network")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu, cuda, ...")
    add(
        "--no-compiled",
        dest="compiled",
        action="store_false",
        help="leave out all that torch.compile makes",
    )
    names = [way.name for way in variants.VARIANTS]
    add("--ways", nargs="+", choices=names, default=names, help="to run networks, float32 among them")
    add("--only", nargs="+", choices=PARTS, default=PARTS, help="measure these alone")
    parser.add_usual("results/layers-benchmark", log=False)
    return parser


def configuration(arguments: argparse.Namespace) -> dict[str, Any]:
    versions = {}
    for name in ("torch", "topoprior", "blitz-bayesian-pytorch", "bayesian-torch", "torch-uncertainty"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    on_gpu = arguments.device.startswith("cuda")
    return {
        "device": torch.cuda.get_device_name(arguments.device) if on_gpu else "cpu",
        "machine": platform.machine(),
        "processor": processor(),
        "cpus": os.cpu_count(),
        "threads": arguments.threads,
        "clock": "processor" if arguments.processor_time else "wall",
        "repeats": arguments.repeats,
        "seed": arguments.seed,
        "python": platform.python_version(),
        **versions,
    }


def processor() -> str:
    """Its model, and what it computes bfloat16 with (Linux; elsewhere what Python knows)."""
    try:
        lines = dict(
            line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line
        )
        found = {name.strip(): value.strip() for name, value in lines.items()}
        with_bfloat16 = [flag for flag in ("avx512_bf16", "amx_bf16") if flag in found["flags"].split()]
        return " ".join([found["model name"], *with_bfloat16])
    except (OSError, KeyError):
        return platform.processor()


if __name__ == "__main__":
    main()
