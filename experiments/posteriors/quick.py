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
import json
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import topoprior as tp
from experiments.common import data as datasets
from experiments.common.document import plain_table
from experiments.common.engine import Pool, compute
from experiments.common.metrics import evaluate
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
from experiments.posteriors import quick_report
from experiments.posteriors.controls import PRIORS
from experiments.posteriors.methods import Problem
from experiments.posteriors.setting import Images, network, stack

SAMPLED, POINT, PLAIN, BLITZ = "sampled", "MAP", "nn.Conv2d", "BLiTZ, mean field"
USUAL = (100, 500)  # images to learn from, unseen images
#: A chain, and when chains agree: the 99 percent quantile of r-hat over the predictions for the first unseen images.
CHAIN: dict[str, Any] = {
    "warmup": 1500, "thinning": 40, "energy_error": 5e-4, "friction": 0.3, "first": 40, "more": 25, "r_hat": 1.1, "judges": 100
}  # fmt: skip
#: Adam, and when it has converged: ``window`` steps lower the objective by less than ``gain`` nats an image.
DESCENT = {"lr": 0.01, "window": 250, "gain": 0.01, "draws": 64}


# --- what is trained -------------------------------------------------------------------------


def sampled(problem: Problem, net: nn.Module, folder: Path, chains: int, most: int) -> dict[str, Any]:
    """A first round of draws, then more of them until the chains agree, or ``most`` gradients a chain are spent."""
    unseen, thinning, warmup = problem.unseen, CHAIN["thinning"], min(CHAIN["warmup"], most // 3)
    count = min(CHAIN["first"], max(4, (most - warmup) // thinning))
    while True:
        gradients = warmup + count * thinning
        samples = tp.sample_posterior(
            net, problem.data, method="baoab", num_chains=chains, num_samples=count, seed=problem.seed, progress=False,
            folder=folder, warmup=warmup, thinning=thinning, energy_error=CHAIN["energy_error"], friction=CHAIN["friction"],
        )  # fmt: skip
        kept = len(samples.stats["energy"])
        few = samples.predict(unseen[: CHAIN["judges"]])
        agreement = tp.inference.diagnose(few.unflatten(0, (kept, -1)), samples.stats)
        r_hat = agreement.r_hat.flatten().quantile(0.99).item()
        found = {
            "r-hat": r_hat,
            "ESS": agreement.ess.median().item(),
            "gradients": gradients,
            "chains": kept,
        }
        if r_hat <= CHAIN["r_hat"] or gradients + CHAIN["more"] * thinning > most:
            break
        count += CHAIN["more"]
    found["converged"] = float(r_hat <= CHAIN["r_hat"] and kept == chains)
    return {"predictions": samples.predict(unseen).mean(0), **found}


def descend(
    objective: Callable[[], Tensor], parameters: Iterable[nn.Parameter], most: int
) -> dict[str, float]:
    """Adam until a window of steps gains little."""
    optimizer = torch.optim.Adam(parameters, DESCENT["lr"])
    window, steps, before = int(DESCENT["window"]), 0, float("inf")
    while steps < most:
        mean = 0.0
        for _ in range(window):
            optimizer.zero_grad()
            loss = objective()
            loss.backward()
            optimizer.step()
            mean += float(loss.detach()) / window
        steps += window
        if before - mean < DESCENT["gain"]:
            return {"gradients": steps, "converged": 1.0}
        before = mean
    return {"gradients": steps, "converged": 0.0}


def point(problem: Problem, net: nn.Module, most: int) -> dict[str, Any]:
    """The most probable point: minus the log joint in whitened coordinates, an image."""
    x, y = problem.data
    found = descend(lambda: tp.elbo_loss(net(x), y, net, len(x)), net.parameters(), most)
    return {"predictions": tp.predict(net, problem.unseen, 1).mean(0), **found}


def plain(problem: Problem, net: nn.Module, most: int) -> dict[str, Any]:
    """No prior: the cross entropy alone."""
    x, y = problem.data
    found = descend(lambda: F.cross_entropy(net(x), y), net.parameters(), most)
    with torch.no_grad():
        return {"predictions": net(problem.unseen).softmax(1), **found}


def blitz(problem: Problem, shape: Mapping[str, Any], most: int) -> dict[str, Any]:
    """BLiTZ's layers with its defaults: cross entropy + KL / images; the mean of ``DESCENT["draws"]`` passes."""
    from blitz.modules import BayesianConv2d, BayesianLinear
    from blitz.utils import variational_estimator

    x, y = problem.data
    layers = stack(lambda i, o: BayesianConv2d(i, o, (3, 3), padding=1), BayesianLinear, **shape)
    net = variational_estimator(nn.Sequential)(*layers)
    found = descend(
        lambda: F.cross_entropy(net(x), y) + net.nn_kl_divergence() / len(x), net.parameters(), most
    )
    with torch.no_grad():
        passes = [net(problem.unseen).softmax(1) for _ in range(int(DESCENT["draws"]))]
        kl = float(net.nn_kl_divergence()) / len(x)
    return {"predictions": torch.stack(passes).mean(0), "KL / image": kl, **found}


def run(cell: Cell) -> dict[str, Any]:
    """One method on one split; the chains that it came from are removed."""
    images, config, folder = cell.images, cell.settled, cell.folder
    torch.manual_seed(config["seed"])
    began = time.process_time()
    prior, _, what = config["method"].rpartition(", ")
    shape = {name: config[name] for name in ("size", "channels", "classes", "widths")}
    made = PRIORS[prior].make() if prior in PRIORS else "gaussian"
    problem = Problem(images, made, config["last_gain"], config["seed"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what matters of it is in the measures
        if config["method"] == PLAIN:
            net = nn.Sequential(*stack(lambda i, o: nn.Conv2d(i, o, 3, padding=1), nn.Linear, **shape))
            found = plain(problem, net, config["most"])
        elif config["method"] == BLITZ:
            found = blitz(problem, shape, config["most"])
        else:
            net = network(made, config["last_gain"], "delta", **shape)
            if what == SAMPLED:
                found = sampled(problem, net, folder, config["chains"], config["most"])
            else:
                found = point(problem, net, config["most"])
    shutil.rmtree(folder, ignore_errors=True)
    predictions = found.pop("predictions").double()
    measures = {**evaluate(predictions, images[3]), **found, "core seconds": time.process_time() - began}
    return {"measures": measures}


# --- which runs ------------------------------------------------------------------------------


def make_config(
    arguments: argparse.Namespace, method: str, seed: int, images: Images, classes: int
) -> dict[str, Any]:
    return {
        "method": method, "dataset": arguments.dataset, "seed": seed, "n": len(images[1]), "test": len(images[3]),
        "size": arguments.image_size, "channels": images[0].shape[1], "classes": classes,
        "widths": [arguments.width, 2 * arguments.width], "last_gain": arguments.last_gain, "chains": arguments.chains,
        "most": arguments.most, "sampler": CHAIN, "descent": DESCENT, "data": digest(*map(tensor_bytes, images)),
    }  # fmt: skip


def read(arguments: argparse.Namespace, seed: int) -> tuple[Images, int]:
    """The images of a split, with mean 0 and standard deviation 1 over those to learn from; the number of classes."""
    where = (arguments.dataset, arguments.data_dir)
    asked = (arguments.train_size, arguments.test_size)
    train, test = (
        min(usual, count) if size is None else size
        for size, usual, count in zip(asked, USUAL, datasets.counts(*where), strict=True)
    )
    found = datasets.load(
        *where, image_size=arguments.image_size, train_size=train, test_size=test, seed=seed
    )
    mean, std = found.train_images.mean(), found.train_images.std().clamp_min(1e-6)
    x, unseen = ((part - mean) / std for part in (found.train_images, found.test_images))
    return (x, found.train_labels, unseen, found.test_labels), len(found.classes)


@dataclass(frozen=True)
class Cell:
    """One method on one split: what it learns from, all that decides its numbers, where its chains are kept."""

    images: Images
    settled: dict[str, Any]
    folder: Path

    def config(self) -> dict[str, Any]:
        return self.settled


def cells(arguments: argparse.Namespace) -> list[Cell]:
    """The longest first: what is left at the end is short, and no processor waits."""
    methods = [f"{prior}, {SAMPLED}" for prior in arguments.priors]
    methods += [f"{prior}, {POINT}" for prior in arguments.priors] + [PLAIN, BLITZ]
    splits = {seed: read(arguments, seed) for seed in seed_list(arguments.seeds, arguments.seed)}
    found = []
    for method, (seed, (images, classes)) in product(methods, splits.items()):
        config = make_config(arguments, method, seed, images, classes)
        found.append(
            Cell(images, config, arguments.output / "chains" / f"{digest(json.dumps(config).encode())}")
        )
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
        if arguments.image_size < 8:
            raise ValueError(
                f"--image-size {arguments.image_size}: give at least 8, the network halves it twice"
            )
        check_writable(arguments.output)
        store = Store(arguments.output / "runs")
        write_config(arguments, sampler=CHAIN, descent=DESCENT)
        every = cells(arguments)
        failed = compute(every, run, store, Pool.of(arguments), tell)
        table = quick_report.table_of([(cell.config(), store.get(cell.config())) for cell in every])
        if not len(table):
            return 1
        path = quick_report.write(table, arguments)
        print(plain_table(quick_report.summary(table)))
        say(f"report: {path}")
        if failed:
            return 1
    return ending.status


if __name__ == "__main__":
    sys.exit(main())
