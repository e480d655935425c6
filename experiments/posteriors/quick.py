"""Compare weight priors in minutes, each brought to a stated convergence: sampled posteriors, most probable points, others.

    python experiments/compare_priors.py
    python experiments/compare_priors.py --dataset FOLDER --train-size 200 --seeds 5

A small network with Bayesian layers throughout learns from a few images. For every prior its posterior is sampled: Langevin chains,
each from a draw of the prior, go on until their predictions agree. Beside it stand the most probable point of the same
posterior, the same network of plain layers, and mean-field variational inference with BLiTZ; these descend until that gains little.
Every split of the data is a run, kept in OUTPUT/runs; chains are kept while they run, so the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from experiments.common import data as datasets
from experiments.common.document import plain_table
from experiments.common.engine import Pool, compute
from experiments.common.options import (
    Parser,
    check_known,
    check_writable,
    names,
    positive,
    say,
    seed_list,
    whole,
    write_config,
)
from experiments.common.store import Store, digest, tensor_bytes
from experiments.posteriors import converge, quick_report
from experiments.posteriors.controls import PRIORS
from experiments.posteriors.converge import BLITZ, PLAIN, POINT, SAMPLED, Cell, run
from experiments.posteriors.setting import Images, check_size, num_classes, split

USUAL = (100, 500)  # images to learn from, unseen images


# --- which runs ------------------------------------------------------------------------------


def make_config(arguments: argparse.Namespace, method: str, seed: int, images: Images) -> dict[str, Any]:
    return {
        "method": method, "dataset": arguments.dataset, "seed": seed, "n": len(images[1]), "test": len(images[3]),
        "size": arguments.image_size, "channels": images[0].shape[1], "classes": num_classes(images),
        "widths": [arguments.width, 2 * arguments.width], "last_gain": arguments.last_gain, "chains": arguments.chains,
        "most": arguments.most, "sampler": converge.CHAIN, "descent": converge.DESCENT, "data": digest(*map(tensor_bytes, images)),
    }  # fmt: skip


def sizes(arguments: argparse.Namespace) -> list[int]:
    """How many images to learn from, and unseen ones."""
    asked = (arguments.train_size, arguments.test_size)
    have = datasets.counts(arguments.dataset, arguments.data_dir)
    return [
        min(usual, count) if size is None else size
        for size, usual, count in zip(asked, USUAL, have, strict=True)
    ]


def cells(arguments: argparse.Namespace, store: Store) -> list[Cell]:
    """The longest first: what is left at the end is short, and no processor waits."""
    methods = [f"{prior}, {SAMPLED}" for prior in arguments.priors]
    methods += [f"{prior}, {POINT}" for prior in arguments.priors] + [PLAIN, BLITZ]
    seeds, (train, test) = seed_list(arguments.seeds, arguments.seed), sizes(arguments)
    size = {"size": arguments.image_size, "n": train, "test": test}
    splits = {seed: split(arguments.dataset, arguments.data_dir, seed=seed, **size) for seed in seeds}
    found = []
    for method, (seed, images) in product(methods, splits.items()):
        config = make_config(arguments, method, seed, images)
        found.append(Cell(images, config, arguments.output / "chains" / store.path(config).stem))
    return found


def tell(result: Mapping[str, Any]) -> str:
    m = result["measures"]
    return f"NLL {m['cls/NLL']:.3f}, {'' if m['converged'] else 'not '}converged, {m['core seconds']:.0f} s of a core"


# --- command line ----------------------------------------------------------------------------


def make_parser() -> Parser:
    parser = Parser(__doc__)
    data = parser.add_argument_group("data")
    data.add_argument(
        "--dataset",
        default="embedded",
        help=f"of {', '.join(datasets.NAMES)}, or a folder with train/<class>/ and test/<class>/",
    )
    data.add_argument(
        "--data-dir",
        type=Path,
        default=Path(".cache/data"),
        help="where torchvision's files are, or are put",
    )
    data.add_argument("--image-size", type=whole, default=14, help="pixels a side, at least 8")
    data.add_argument(
        "--train-size",
        type=whole,
        help=f"images to learn from, drawn by the seed; without it {USUAL[0]}, or all where there are fewer",
    )
    data.add_argument(
        "--test-size",
        type=whole,
        help=f"unseen images; without it {USUAL[1]}, or all where there are fewer",
    )
    data.add_argument(
        "--seeds", default="3", help="splits: how many from --seed on, or a list such as 0,1,2"
    )
    model = parser.add_argument_group("network and inference")
    model.add_argument(
        "--priors",
        type=names,
        default=["klein-3x3", "gaussian"],
        help=f"of the convolutions: {', '.join(PRIORS)}",
    )
    model.add_argument(
        "--width",
        type=whole,
        default=16,
        help="channels of the first convolution; the second has twice as many",
    )
    model.add_argument("--last-gain", type=positive, default=4.0, help="of the last layer's Gaussian prior")
    model.add_argument("--chains", type=whole, default=4, help="of a posterior, at least 2")
    model.add_argument(
        "--most",
        type=whole,
        default=7000,
        help="gradients of a chain or a descent, where it does not converge before",
    )
    Pool.add_options(parser)
    parser.add_usual("results/compare_priors")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser()
    arguments = parser.parse_args(argv)
    with parser.ending(arguments.output) as ending:
        check_known(arguments.priors, PRIORS, "--priors")
        if arguments.chains < 2:
            raise ValueError("--chains 1: give at least 2, whether they agree is what is asked")
        check_size("--image-size", arguments.image_size)
        check_writable(arguments.output)
        store = Store(arguments.output / "runs")
        write_config(arguments, sampler=converge.CHAIN, descent=converge.DESCENT)
        every = cells(arguments, store)
        failed = compute(every, run, store, Pool.of(arguments), tell)
        table = quick_report.table_of([(cell.config(), store.get(cell.config())) for cell in every])
        if len(table):
            path = quick_report.write(table, arguments)
            print(plain_table(quick_report.summary(table)))
            say(f"report: {path}")
        if failed:
            return 1
    return ending.status


if __name__ == "__main__":
    sys.exit(main())
