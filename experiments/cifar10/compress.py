"""Kernels stored smaller: what is left of the accuracy of networks that were trained by experiments.cifar10.run.

    python -m experiments.cifar10.compress --dataset cifar10-jpeg=FOLDER --output results/cifar10 --sizes 45000
    python -m experiments.cifar10.report results/cifar10                          # has the table

It reads the networks that are in OUTPUT/networks and writes OUTPUT/compression.csv.

Plain kernels in 8 bits (a scale an output channel), as combinations of r kernels that are the network's own (its principal ones),
and both; points of the Klein bottle with z on a grid of 256 x 256, and with amplitudes in 8 bits too. Nothing is trained again but
batch statistics. Bytes are those of the kernels with scales and bases, without batch normalization and the last layer.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

import topoprior as tp
from experiments.cifar10 import images as sets
from experiments.cifar10.images import Images
from experiments.cifar10.measures import judge_parts
from experiments.cifar10.networks import Classifier
from experiments.cifar10.training import Training
from experiments.common.options import Parser, named_folder, say, seed_list, wholes
from experiments.common.store import Run, Store, rounded
from experiments.common.tables import write_csv

FILE = "compression.csv"
LEVELS = 127  # of 8 bits with a sign
_FLOAT = 4  # bytes
_GRID = 256  # places a coordinate of the unit square


def in_8_bits(x: Tensor) -> tuple[Tensor, int]:
    """Rounded to multiples of a scale for every row of the first dimension, and bytes: one a number and four a scale."""
    scale = x.flatten(1).abs().amax(1).clamp_min(torch.finfo(x.dtype).tiny) / LEVELS
    scale = scale.reshape(-1, *[1] * (x.dim() - 1))
    return (x / scale).round() * scale, x.numel() + _FLOAT * len(x)


def principal(kernels: Sequence[Tensor], rank: int) -> Tensor:
    """(rank, size), orthonormal: what a combination of so many kernels leaves of all is as much as can be (no mean is taken off)."""
    rows = torch.cat([kernel.flatten(2).flatten(0, 1) for kernel in kernels]).double()
    return torch.linalg.eigh(rows.T @ rows).eigenvectors[:, -rank:].T.to(kernels[0].dtype)


def plain(net: Classifier, rank: int | None, bits: bool) -> int:
    """Replace the kernels of ``net`` and say their bytes."""
    layers = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    basis = principal([layer.weight for layer in layers], rank) if rank else None
    size = 0 if basis is None else _FLOAT * basis.numel()
    for layer in layers:
        x = layer.weight.data if basis is None else layer.weight.data.flatten(2) @ basis.T
        found, used = in_8_bits(x) if bits else (x, _FLOAT * x.numel())
        layer.weight.data = (
            (found if basis is None else found @ basis).reshape(layer.weight.shape).contiguous()
        )
        size += used
    return size


def points(net: Classifier, latents: bool, amplitudes: bool) -> int:
    """The same of points of a Klein bottle."""
    size = 0
    for layer in (m for m in net.modules() if isinstance(m, tp.BayesConv2d)):
        parts = dict(layer.weight_posterior.named_parameters())
        z = parts["z"].data
        if latents:
            # the last place, 1, is another lift of a point that has 0 there
            z.copy_((tp.KleinBottle().project(z) * _GRID).round() / _GRID)
        size += z.numel() * (1 if latents else _FLOAT)
        for x in (parts["alpha"].data, parts["beta"].data):
            found, used = in_8_bits(x) if amplitudes else (x, _FLOAT * x.numel())
            x.copy_(found)
            size += used
    return size


Form = Callable[[Classifier], int]
FORMS: Mapping[str, Mapping[str, Form]] = {
    "nn.Conv2d": {
        "float32": lambda net: plain(net, None, False),
        "8 bits": lambda net: plain(net, None, True),
        **{f"{r} kernels of its own": lambda net, r=r: plain(net, r, False) for r in (6, 4)},  # type: ignore[misc]
        **{f"{r} kernels of its own, 8 bits": lambda net, r=r: plain(net, r, True) for r in (6, 4)},  # type: ignore[misc]
    },
    "klein": {
        "float32": lambda net: points(net, False, False),
        "z in 8 bits": lambda net: points(net, True, False),
        "8 bits": lambda net: points(net, True, True),
    },
}


def rows(run: Run, state: Path, images: Images) -> Iterator[dict[str, Any]]:
    """One a form of the kernels."""
    config = run.config
    training = Training(config, images.subset(config["n"], config["seed"]), None, torch.device("cpu"))
    training.net.load_state_dict(torch.load(state, weights_only=True))
    for form, store in FORMS[config["method"]].items():
        net = copy.deepcopy(training.net)
        with torch.no_grad():
            size = store(net)
        training.renew_statistics(net)
        parts = {"validation": images.validation[0], "test": images.test[0]}
        logits = {part: net.head(training.features(net, x)).detach() for part, x in parts.items()}
        yield {**config, "form": form, "kernel bytes": size, **judge_parts(logits, images)}


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(__doc__)
    parser.add_argument(
        "--dataset", type=named_folder, default="cifar10", help="as of experiments.cifar10.run"
    )
    parser.add_argument(
        "--data-dir",
        type=Path,
        default=Path(".cache/data"),
        help="where torchvision's files are, and pixels of a large folder",
    )
    parser.add_argument(
        "--sizes", type=wholes, default=[45000], help="networks that learned from so many images"
    )
    parser.add_argument("--seeds", default="1", help="how many from --seed on, or a list")
    parser.add_usual("results/cifar10", log=False)
    args = parser.parse_args(argv)
    with parser.ending(args.output) as ending:
        seeds = seed_list(args.seeds, args.seed)
        store = Store(args.output / "runs")
        states = {args.output / "networks" / f"{store.path(run.config).stem}.pt": run for run in store}
        wanted = {
            state: run
            for state, run in states.items()
            if state.is_file()
            and run.config["n"] in args.sizes
            and run.config["seed"] in seeds
            and run.config["method"] in FORMS
        }
        if not wanted:
            sizes = ", ".join(map(str, args.sizes))
            raise ValueError(f"--output {args.output}: no trained network of {sizes} images in networks/")
        images = sets.read(args.dataset[1], args.data_dir, 0)
        found = [row for state, run in wanted.items() for row in rows(run, state, images)]
        write_csv(args.output / FILE, pd.DataFrame([rounded(row) for row in found]))
        say(f"{len(found)} rows: {args.output / FILE}")
    return ending.status


if __name__ == "__main__":
    sys.exit(main())
