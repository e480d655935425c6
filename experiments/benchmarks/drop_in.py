"""What happens to somebody who swaps a layer in: every library with its defaults, in recipes that train nn.Conv2d.

    python -m experiments.benchmarks.drop_in --layers "nn.Conv2d,klein-3x3,BLiTZ"
    python -m experiments.benchmarks.drop_in --data mnist:1000,cifar10-jpeg=FOLDER:5000 --data-dir DATA
    python -m experiments.benchmarks.drop_in --report
    python -m experiments.benchmarks.drop_in --earlier experiments/results/drop-in/runs.csv

A row is a data set, a network and a recipe (an optimizer with its learning rate and schedule). In a row all layers get the
same batches and the same number of steps, and nothing is tuned. The loss is what every library documents, cross entropy
+ KL / N. Predictions are the mean of 16 draws. Where a network has batch normalization, its statistics are made again
after training, over four draws a batch; with layers of topoprior every draw has its own, as its documentation says.

Seeds from 100 on are for choosing defaults: "klein-3x3 init_scale=0.01 latent_lr=0.03" is a candidate. The report has
them in a table of their own. Finished runs are files in OUTPUT/runs: the same command goes on where it stopped. Where these
are gone, --earlier goes on from a runs.csv: rows of the same configuration are not run again and stay in the report.
Numbers of equal seeds differ a little between processors, so the report compares runs of one processor.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

import topoprior as tp
from experiments.benchmarks import drop_in_report
from experiments.benchmarks.recipes import NETWORKS, RECIPES, make_optimizer
from experiments.benchmarks.swapped import LAYERS, Swapped, make
from experiments.benchmarks.tasks import TASKS, Classes
from experiments.common import data as datasets
from experiments.common.options import (
    Parser,
    add_earlier,
    check_known,
    check_writable,
    names,
    say,
    seed_list,
    whole,
)
from experiments.common.progress import bar
from experiments.common.store import Store, digest, tensor_bytes
from experiments.common.tables import read_runs, same

SAMPLES = 16
NORM_DATA = 256  # training images that the statistics of a draw are made from
_CLASSIFIERS = [name for name in NETWORKS if name not in TASKS]


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--data", type=names, default=["embedded"], help="NAME, NAME:TRAIN_SIZE or LABEL=FOLDER:TRAIN_SIZE")
    add("--data-dir", type=Path, default=Path("data"), help="where torchvision's files are")
    add("--networks", type=names, default=_CLASSIFIERS, help="of " + ", ".join(NETWORKS))
    add("--recipes", type=names, default=list(RECIPES), help="optimizers with their learning rates")
    add("--layers", type=names, default=list(LAYERS), help="libraries and priors; priors with options")
    add("--width", type=whole, default=16, help="channels of the plain network's first convolution")
    add("--side", type=whole, default=16, help="images are resized to this height and width")
    add("--steps", type=whole, default=200, help="of training")
    add("--batch-size", type=whole, default=64, help="of training")
    add("--test-size", type=whole, default=500, help="test images, chosen by the seed")
    add("--seeds", default="3", help="how many from --seed on, or a list such as 0,1,2")
    add("--report", action="store_true", help="train nothing: a report of all finished runs")
    add_earlier(parser)
    parser.add_usual("results/drop-in")
    arguments = parser.parse_args(argv)
    store = Store(arguments.output / "runs")
    with parser.ending(arguments.output) as ending:
        check_writable(arguments.output)
        earlier = read_runs(arguments.earlier)
        if not arguments.report:
            train_all(arguments, store, earlier)
    if ending.status:
        sys.exit(ending.status)
    table = drop_in_report.joined(earlier, store)
    if table.empty:
        parser.error(f"--output {arguments.output}: no finished runs")
    drop_in_report.write(table, arguments.output)


def train_all(arguments: argparse.Namespace, store: Store, earlier: pd.DataFrame) -> None:
    """The grid: all rows of a seed and a layer, before the next layer, the next seed, the next data set."""
    seeds = seed_list(arguments.seeds, arguments.seed)
    check_known(arguments.networks, NETWORKS, "--networks")
    check_known(arguments.recipes, RECIPES, "--recipes")
    layers: dict[str, Swapped] = {}
    for name in arguments.layers:
        try:
            layers[name] = make(name)
        except ImportError as error:
            say(f"left out: {name}: not installed ({error})")
    total = (
        len(arguments.data) * len(seeds) * len(layers) * len(arguments.networks) * len(arguments.recipes)
    )
    with bar(total=total, desc="runs") as progress:
        for text in arguments.data:
            for seed in seeds:
                label, images = load(text, arguments, seed)
                read = (images.train_images, images.train_labels, images.test_images, images.test_labels)
                content = digest(*map(tensor_bytes, read))
                for name, layer in layers.items():
                    for network in arguments.networks:
                        for recipe in arguments.recipes:
                            config = {
                                "data set": label, "network": network, "recipe": recipe, "layer": name, "seed": seed,
                                "steps": arguments.steps, "batch": arguments.batch_size, "width": arguments.width, "side": arguments.side,
                                "tests": arguments.test_size, "defaults": layer.defaults_in(recipe), "data": content,
                            }  # fmt: skip
                            if store.get(config) is None and not same(earlier, config).any():
                                store.put(config, {"measures": one_run(layer, images, config)})
                            progress.update()


def load(text: str, arguments: argparse.Namespace, seed: int) -> tuple[str, datasets.ImageData]:
    """The label of a set, and the images that a seed chooses."""
    where, _, size = text.partition(":")
    label, _, folder = where.partition("=")
    train = whole(size) if size else None
    images = datasets.load(
        folder or label,
        arguments.data_dir,
        image_size=arguments.side,
        train_size=train,
        test_size=arguments.test_size,
        seed=seed,
    )
    return f"{label} {size}".strip(), images


def one_run(layer: Swapped, images: datasets.ImageData, config: dict[str, Any]) -> dict[str, float]:
    """Train and test one network. Equal seeds give equal batches, whatever the layers draw.

    A loss that is not finite ends it, and the predictions are those of nothing.
    """
    torch.manual_seed(config["seed"])
    task = TASKS.get(config["network"], Classes())
    build, outputs = NETWORKS[config["network"]], task.outputs(len(images.classes))
    channels = images.train_images.shape[1]
    net = layer.peer.container(*build(layer.peer.convolution, channels, outputs, config["width"]))
    (x, y), (tests, answers) = task.data(images)
    # the mean over positions is minimized, so the KL is divided by their number as well
    positions = y[0].numel()
    batches = torch.Generator().manual_seed(config["seed"])
    optimizer, schedule = make_optimizer(config["recipe"], net, layer.groups, config["steps"])
    start = time.perf_counter()
    for _ in range(config["steps"]):
        rows = torch.randint(len(x), (min(config["batch"], len(x)),), generator=batches)
        optimizer.zero_grad()
        output = net(x[rows])
        data_term = task.loss(output, y[rows])
        if not data_term.isfinite():  # some libraries' layers raise at the next pass
            lost = torch.full((1, len(tests), *output.shape[1:]), torch.nan)
            return {**task.measures(lost, answers), "cross entropy": torch.nan, "KL / N": torch.nan}
        (data_term + layer.kl(net) / (len(x) * positions)).backward()
        optimizer.step()
        schedule.step()
    seconds = time.perf_counter() - start
    with torch.no_grad():
        kl = float(layer.kl(net)) / layer.temperature
    samples = SAMPLES if layer.draws else 1
    if any(isinstance(module, nn.BatchNorm2d) for module in net.modules()):
        tp.update_bn(
            net, [(part,) for part in x.split(config["batch"])], num_samples=4 if layer.draws else 1
        )
    some = x[torch.randperm(len(x), generator=batches)[:NORM_DATA]]
    return {
        **task.measures(draws(layer, net, tests, samples, some), answers),
        "cross entropy": float(data_term.detach()),
        "KL / N": kl / len(x),
        "seconds": seconds,
    }


@torch.no_grad()
def draws(layer: Swapped, net: nn.Module, x: Tensor, samples: int, norm_data: Tensor) -> Tensor:
    """What the network returns under draws: `tp.sample_outputs`, or as many passes of the network."""
    if layer.ours:
        return tp.sample_outputs(net, x, samples, max_batch=200, bn_loader=[(norm_data,)])
    net.eval()
    return torch.cat([torch.stack([net(part) for _ in range(samples)]) for part in x.split(200)], 1)


if __name__ == "__main__":
    main()
