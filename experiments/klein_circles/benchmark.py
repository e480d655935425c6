"""Training throughput, images a second, beside the reference repository: same network, batches and machine.
With --cost instead, what the spectral warm start adds to a whole training.

    python -m experiments.klein_circles.benchmark --reference PATH     # a checkout of github.com/bekemax/KleinVAE
    python -m experiments.klein_circles.benchmark                      # ours alone
    python -m experiments.klein_circles.benchmark --cost klein
    python -m experiments.klein_circles.benchmark --cost published --epochs 5 --rounds 2

Writes throughput.json, or cost.json, to --output. The two take turns, one short round of training each, so that other work on the machine hits both. The
reference runs its own model, loss, data loader, optimizer and Lightning trainer, without validation, logger and
checkpoints; ours runs `fit` without warm start and validation. A first round of each is not counted.

--cost trains with and without warm start in turns, as `experiments.klein_circles.run` does: "klein" in the setting of the seam-free
check, "published" the published network on all images, where --epochs below 30 make the share of the warm start look
larger than it is. Processor time counts; the wall clock also sees what else the machine does.
"""

from __future__ import annotations

import argparse
import functools
import logging
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

import topoprior as tp
from experiments.common.options import Parser, check_writable, whole, write_config
from experiments.common.store import write_json
from experiments.klein_circles.images import NUM_PUBLISHED, PUBLISHED_SEED, image_set
from experiments.klein_circles.run import HIDDEN
from topoprior.vae.training import fit

# Of --cost, as in the results: images, epochs, batch size, widths of the encoder.
_SETTINGS = {"klein": (15_000, 8, 128, (256, 128)), "published": (NUM_PUBLISHED, 30, 256, HIDDEN)}


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser()
    arguments = parser.parse_args(argv)
    try:
        check(arguments)
        write_config(arguments)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    torch.set_num_threads(arguments.threads)
    if arguments.cost is not None:
        write_json(arguments.output / "cost.json", cost(arguments))
        return
    arguments.batch_size = arguments.batch_size or 1024
    arguments.num_images = arguments.num_images or 8192
    points = image_set("published").sample_points(
        arguments.num_images, torch.Generator().manual_seed(PUBLISHED_SEED)
    )
    images = torch.cat([image_set("published").render(part) for part in points.split(2048)])
    rounds: dict[str, Callable[[], object]] = {
        "ours, float32": ours(images, arguments.batch_size, None),
        "ours, bfloat16": ours(images, arguments.batch_size, torch.bfloat16),
    }
    if arguments.reference is not None:
        rounds["reference"] = reference(arguments.reference, images, arguments.batch_size)
    seconds: dict[str, list[float]] = {name: [] for name in rounds}
    for turn in range(arguments.rounds + 1):
        for name, work in rounds.items():
            start = time.perf_counter()
            work()
            if turn:
                seconds[name].append(time.perf_counter() - start)
        print(f"round {turn} of {arguments.rounds}", file=sys.stderr)
    rates = {name: [arguments.num_images / s for s in values] for name, values in seconds.items()}
    print(table(rates))
    numbers = {"images per second": rates, "batch size": arguments.batch_size}
    write_json(arguments.output / "throughput.json", numbers)


def make_parser() -> Parser:
    parser = Parser(__doc__)
    add = parser.add_argument
    add(
        "--reference",
        type=Path,
        metavar="CHECKOUT",
        help="of the reference repository; without it this package alone",
    )
    add("--batch-size", type=whole, help="images a step; without it 1024, with --cost that of the setting")
    add("--num-images", type=whole, help="of a round, or of a training; without it 8192, or all")
    add("--rounds", type=whole, default=5, help="in which all take turns")
    add(
        "--cost",
        choices=_SETTINGS,
        help="measure what the warm start costs in this setting; without it the rounds",
    )
    add("--epochs", type=whole, help="of a training with --cost; without it those of the setting")
    add("--precision", choices=("float32", "bfloat16"), default="bfloat16", help="with --cost")
    add("--threads", type=whole, default=1, help="of torch")
    parser.add_usual("results/klein-circles-benchmark", log=False)
    return parser


def check(arguments: argparse.Namespace) -> None:
    """Raises ValueError for options that do not go together."""
    reference = arguments.reference
    if arguments.cost is not None and reference is not None:
        raise ValueError("--reference: the reference has no warm start, leave it out with --cost")
    if arguments.cost is None and arguments.epochs is not None:
        raise ValueError("--epochs: only with --cost")
    if reference is not None and not (reference / "src" / "models" / "klein_vae_module.py").is_file():
        raise ValueError(f"--reference {reference}: no src/models/klein_vae_module.py there")
    check_writable(arguments.output)


def table(rates: dict[str, list[float]]) -> str:
    """Medians, and the median of the ratios of neighbouring rounds."""
    lines = ["| | images / s | x reference |", "|---|---|---|"]
    for name, values in rates.items():
        ratio = ""
        if "reference" in rates:
            ratio = (
                f"{statistics.median(a / b for a, b in zip(values, rates['reference'], strict=True)):.2f}"
            )
        lines.append(f"| {name} | {statistics.median(values):,.0f} | {ratio} |")
    return "\n".join(lines)


def cost(arguments: argparse.Namespace) -> dict[str, object]:
    """Times of whole trainings with and without warm start, in turns; prints them and their ratio."""
    num_images, epochs, batch_size, hidden = _SETTINGS[arguments.cost]
    num_images, epochs = arguments.num_images or num_images, arguments.epochs or epochs
    batch_size = arguments.batch_size or batch_size
    images = image_set(arguments.cost)
    split = images.split(num_images, PUBLISHED_SEED)

    def train(start: str, seed: int, x: Tensor, epochs: int) -> tuple[float, float]:
        """Seconds of processor time and of the wall clock."""
        vae = tp.CoveringVAE(images.space, x.shape[1:], encoder_hidden=hidden, decoder_hidden=hidden[::-1])
        before = time.process_time(), time.perf_counter()
        fit(
            vae,
            x,
            validation=split.validation[0],
            epochs=epochs,
            batch_size=batch_size,
            warm=start == "warm",
            precision=torch.bfloat16 if arguments.precision == "bfloat16" else None,
            seed=seed,
            progress=False,
        )
        return time.process_time() - before[0], time.perf_counter() - before[1]

    cpu: dict[str, list[float]] = {"warm": [], "cold": []}
    wall: dict[str, list[float]] = {"warm": [], "cold": []}
    for start in cpu:  # not counted: libraries start up, memory is taken
        train(start, 0, split.train[0][:1000], 1)
    for turn in range(arguments.rounds):
        for start in ("warm", "cold") if turn % 2 == 0 else ("cold", "warm"):
            first, second = train(start, arguments.seed + turn, split.train[0], epochs)
            cpu[start].append(first)
            wall[start].append(second)
            print(f"{start}: {first:.1f} s of processor time, {second:.1f} s", file=sys.stderr)
    for name, seconds in (("processor time", cpu), ("wall clock", wall)):
        print(f"{name}: warm / cold {median_ratio(seconds['warm'], seconds['cold']):.2f}")
    return {
        "data": arguments.cost,
        "num_images": num_images,
        "epochs": epochs,
        "batch size": batch_size,
        "hidden": list(hidden),
        "precision": arguments.precision,
        "cpu seconds": cpu,
        "wall seconds": wall,
    }


def median_ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """The median of the ratios of neighbours: what slows a machine down for a while hits both."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def ours(images: Tensor, batch_size: int, precision: torch.dtype | None) -> Callable[[], object]:
    vae = tp.CoveringVAE(
        tp.KleinBottle(),
        images.shape[1:],
        encoder_hidden=HIDDEN,
        decoder_hidden=HIDDEN[::-1],
        scale="full",
    )
    return functools.partial(
        fit, vae, images, epochs=1, batch_size=batch_size, warm=False, precision=precision, progress=False
    )


def reference(path: Path, images: Tensor, batch_size: int) -> Callable[[], object]:
    """One epoch of the reference's own code on the same images."""
    sys.path.insert(0, str(path.resolve()))
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    import lightning
    from src.models.components.vae import SimpleVAE
    from src.models.klein_vae_module import KleinVAEModule
    from torch.utils.data import DataLoader, TensorDataset

    network = SimpleVAE(images[0].numel(), list(HIDDEN), 2, "full")
    module = KleinVAEModule(
        model=network,
        optimizer=functools.partial(torch.optim.Adam, lr=1e-3, weight_decay=0.0),
        recon_loss=nn.BCELoss(reduction="sum"),
        prior_mean=0.5,
        prior_variance=0.1,
    )
    loader = DataLoader(TensorDataset(images.flatten(1)), batch_size=batch_size, shuffle=True)

    def one_epoch() -> None:
        trainer = lightning.Trainer(
            max_epochs=1,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, loader)

    return one_epoch


if __name__ == "__main__":
    main()
