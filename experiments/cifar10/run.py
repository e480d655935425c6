"""CIFAR-10 with networks that people use: nn.Conv2d, and most probable points under weight priors, from 500 images to all.

    python -m experiments.cifar10.run --dataset cifar10 --select                      # rates, on validation images
    python -m experiments.cifar10.run --dataset cifar10 --seeds 5                     # 500, 1,000 and 5,000 images
    python -m experiments.cifar10.run --dataset cifar10 --sizes 45000 --width 64      # all of them
    python -m experiments.cifar10.report results/cifar10                              # from runs.csv alone

Claim     experiments/results/cifar10/README.md says what was expected, beforehand, and what was found.
Protocol  5,000 of the training images choose, 45,000 are learned from; AdamW for 1,000 sqrt(n) images, up and down on a line;
          flips and shifts; convolutions in bfloat16 where the processor multiplies in it, weights, priors and logits in float32;
          batch statistics made again for the weights that predict; rates chosen once, at 500 images, among four candidates a method.
Hardware  one core with AMX: 30 s a run at 1,000 images, 80 s at 5,000, some 8 minutes with all and width 64; 2 to 5 times that without.

A method on a draw of n images is a run, kept in OUTPUT/runs, and goes on from where it was stopped. Seeds draw the images and the
start; --members adds networks with other starts on the images of a seed, whose mean predictions are the ensembles of the report.
Where the runs are gone, --earlier goes on from a runs.csv; an ensemble cannot grow from it, as it wants the members' predictions.
OUTPUT/networks has the weights of the last step, torch.save's; OUTPUT/logits all predictions.
"""

from __future__ import annotations

import argparse
import copy
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.cifar10 import images as sets
from experiments.cifar10 import table
from experiments.cifar10.corruptions import KINDS, SEVERITIES
from experiments.cifar10.images import Array, Images
from experiments.cifar10.laplace import LastLayer
from experiments.cifar10.measures import judge_parts
from experiments.cifar10.methods import CHOSEN, METHODS, RATES, numbers
from experiments.cifar10.networks import NETWORKS, Classifier
from experiments.cifar10.training import Training, best_precision, saved_bytes
from experiments.common import data as datasets
from experiments.common.engine import Pool, compute
from experiments.common.options import (
    Parser,
    add_earlier,
    check_known,
    check_writable,
    named_folder,
    names,
    positive,
    say,
    seed_list,
    whole,
    wholes,
    write_config,
)
from experiments.common.store import Store
from experiments.common.tables import read_runs, same

EFFORT = 1000  # images are seen for every root of an image to learn from: 45 passes at 500, 14 at 5,000, 5 at 45,000
SELECTION = {"n": 500, "seed": 100}  # where rates are chosen


@dataclass(frozen=True)
class Cell:
    """One method on one draw of images; ``folder`` is that of all results."""

    images: Images
    settled: dict[str, Any]
    folder: Path
    device: str

    def config(self) -> dict[str, Any]:
        return self.settled


def run(cell: Cell) -> dict[str, Any]:
    """Train, fit a temperature on validation images, judge by test images (but in a selection); keep logits and weights."""
    config, images = cell.settled, cell.images
    stem = Store(cell.folder / "runs").path(config).stem
    device, saved = torch.device(cell.device), cell.folder / "unfinished" / f"{stem}.pt"
    learn = images.subset(config["n"], config["seed"])
    training = Training(config, learn, saved, device)
    training.run()
    nets = training.networks()
    logits: dict[str, dict[str, Tensor]] = {}
    more: dict[str, dict[str, float]] = {"last": {}, "average": {}}
    for weights, net in nets.items():
        head = copy.deepcopy(net.head).cpu().requires_grad_(False)
        features = {part: training.features(net, x) for part, x in looked_at(config, images).items()}
        logits[weights] = {part: head(x) for part, x in features.items()}
        if weights == "last" and config["role"] == "reported":
            law = LastLayer(training.features(net, learn[0]), head)
            best = law.best_precision(features["validation"], torch.from_numpy(images.validation[1]))
            logits["laplace"] = {part: law.logits(x, best) for part, x in features.items()}
            more |= {"laplace": {"prior precision": best}, "last": corruptions(training, net, images)}
    weighed = saved_bytes(nets["last"].state_dict())
    about = {**numbers(training.net), "checkpoint kB": len(weighed) / 1000, "steps": training.steps}
    about |= {"core seconds": training.seconds, "bfloat16": float(best_precision(device) == torch.bfloat16)}
    table.keep(cell.folder / "logits" / f"{stem}.npz", logits)
    if config["role"] == "reported":
        table.write_file(cell.folder / "networks" / f"{stem}.pt", weighed)
    saved.unlink(missing_ok=True)
    return {
        table.WEIGHTS[weights]: {**judge_parts(parts, images), **more[weights], **about}
        for weights, parts in logits.items()
    }


def looked_at(config: Mapping[str, Any], images: Images) -> dict[str, Array]:
    """Bytes by part: a selection has validation images alone."""
    parts = {"validation": images.validation[0]}
    if config["role"] == "reported":
        parts |= {"test": images.test[0], "foreign": images.foreign}
    return {part: x for part, x in parts.items() if len(x)}


def corruptions(training: Training, net: Classifier, images: Images) -> dict[str, float]:
    """Accuracy by kind and severity, and its mean."""
    x, answers = images.corrupted
    if not len(answers):
        return {}
    found = {}
    for (kind, of_kind), severity in product(zip(KINDS, x, strict=True), range(SEVERITIES)):
        logits = net.head(training.features(net, of_kind[severity]).to(training.device))
        found[f"{kind} {severity + 1}"] = float((logits.argmax(1).cpu().numpy() == answers).mean())
    return {**found, "corrupted/Acc": float(np.mean(list(found.values())))}


# --- which runs ------------------------------------------------------------------------------


def configs(args: argparse.Namespace, images: Images) -> Iterator[dict[str, Any]]:
    """Seed by seed, size by size, all methods side by side: what is stopped early is the whole comparison with fewer seeds."""
    data, width = images.digest(), args.width or NETWORKS[args.network][1]
    have = len(images.learn[1])
    role = "side" if args.side else "selection" if args.select else "reported"
    judged = role == "reported"  # by test images
    seeds = seed_list(args.seeds, args.seed) if judged else [SELECTION["seed"]]
    sizes = args.sizes if judged else [min(SELECTION["n"], have)]
    members = args.members if judged else 1
    for seed, n, member, method in product(seeds, sizes, range(members), args.methods):
        if n > have:
            raise ValueError(f"--sizes {n}: give at most {have}, of the images to learn from")
        foreign = {"foreign": len(images.foreign)} if judged else {}
        candidates = args.side or (METHODS[method].candidates() if args.select else [CHOSEN[method]])
        for rates in candidates:
            yield {
                "role": role, "dataset": Path(args.dataset[0]).name,
                "network": args.network, "width": width, "method": method, "n": n, "seed": seed, "member": member,
                **rates, "weight_decay": rates["weight_decay"] * _steps(args, SELECTION["n"]) / _steps(args, n),
                "images_seen": _seen(args, n), "batch": _batch(n), "classes": images.classes,
                "corrupted": len(images.corrupted[1]), **foreign, "data": data,
            }  # fmt: skip


def _seen(args: argparse.Namespace, n: int) -> int:
    return round(args.effort * math.sqrt(n))


def _batch(n: int) -> int:
    return 64 if n <= 1000 else 128


def _steps(args: argparse.Namespace, n: int) -> int:
    """A decay that was chosen for some steps is made weaker where there are more: a weight without a gradient shrinks alike."""
    return max(1, _seen(args, n) // _batch(n))


def tell(result: Mapping[str, Any]) -> str:
    m = result["measures"]
    part = "" if "cls/Acc" in m else "validation "
    return f"accuracy {m[part + 'cls/Acc']:.4f}, NLL {m[part + 'cls/NLL']:.3f}, {m['core seconds']:.0f} s of a core"


# --- command line ----------------------------------------------------------------------------


def make_parser() -> Parser:
    parser = Parser(__doc__)
    data = parser.add_argument_group("data")
    data.add_argument(
        "--dataset",
        type=named_folder,
        default="cifar10",
        help=f"of {', '.join(datasets.NAMES)}, or a folder with train/<class>/ and test/<class>/, or NAME=FOLDER",
    )
    data.add_argument(
        "--data-dir",
        type=Path,
        default=Path(".cache/data"),
        help="where torchvision's files are, or are put, and pixels of a large folder are kept",
    )
    data.add_argument(
        "--corrupted", type=whole, default=300, help="test images that are also judged corrupted"
    )
    data.add_argument("--sizes", type=wholes, default=[500, 1000, 5000], help="images to learn from")
    data.add_argument("--seeds", default="3", help="draws of images: how many from --seed on, or a list")
    data.add_argument(
        "--members", type=whole, default=1, help="networks on the images of a seed, an ensemble"
    )
    model = parser.add_argument_group("networks")
    model.add_argument("--network", default="narrow", help=f"of {', '.join(NETWORKS)}")
    model.add_argument(
        "--width", type=whole, help="of the first convolution; without it the network's usual one"
    )
    model.add_argument(
        "--methods",
        type=names,
        help=f"of {', '.join(METHODS)}; without it all",
    )
    model.add_argument(
        "--effort", type=positive, default=EFFORT, help="images are seen for every root of n"
    )
    model.add_argument("--select", action="store_true", help="run the candidates of the rates instead")
    model.add_argument(
        "--side",
        type=_candidate,
        action="append",
        metavar="RATE,LATENTS,DECAY,TEMPERATURE",
        help="run this candidate where rates are chosen, to see what it does; once or several times, nothing is chosen by it; without it none",
    )
    model.add_argument("--device", default="cpu", help="cpu or cuda")
    add_earlier(parser)
    Pool.add_options(parser)
    parser.add_usual("results/cifar10")
    return parser


def _candidate(text: str) -> dict[str, float]:
    """Of argparse: "0.006,0.03,3,0.1"."""
    try:
        found = dict(zip(RATES, map(float, text.split(",")), strict=True))
    except ValueError:
        found = {}
    if not (
        found and all(0 <= v < math.inf for v in found.values()) and found["lr"] and found["latent_lr"]
    ):
        raise argparse.ArgumentTypeError(
            f"{text!r}: give the rate, the rate of latents, the decay and the temperature, as 0.006,0.03,3,0.1"
        )
    return found


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser()
    args = parser.parse_args(argv)
    with parser.ending(args.output) as ending:
        args.methods = args.methods or list(METHODS)
        check_known(args.methods, METHODS, "--methods")
        check_known([args.network], NETWORKS, "--network")
        check_writable(args.output)
        earlier = read_runs(args.earlier)
        images = sets.read(args.dataset[1], args.data_dir, args.corrupted)
        wanted = list(configs(args, images))
        write_config(args, chosen=dict(CHOSEN))
        store = Store(args.output / "runs")
        every = [
            Cell(images, config, args.output, args.device)
            for config in wanted
            if not same(earlier, config).any()
        ]
        failed = compute(every, run, store, Pool.of(args), tell)
        say(f"runs: {table.write(store, args.output, images, earlier)}")
        if failed:
            return 1
    return ending.status


if __name__ == "__main__":
    sys.exit(main())
