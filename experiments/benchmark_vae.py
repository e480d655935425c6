"""Training throughput, images a second, beside the reference repository: same network, batches and machine.

    python experiments/benchmark_vae.py --reference PATH     # a checkout of github.com/bekemax/KleinVAE
    python experiments/benchmark_vae.py                      # ours alone

The two take turns, one short round of training each, so that other work on the machine hits both. The
reference runs its own model, loss, data loader, optimizer and Lightning trainer, without validation, logger and
checkpoints; ours runs `fit` without warm start and validation. A first round of each is not counted.
"""

from __future__ import annotations

import argparse
import functools
import json
import logging
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a script sees only its own folder

import torch
from torch import Tensor, nn

import topoprior as tp
from experiments.klein_circles import HIDDEN
from experiments.klein_circles_data import PUBLISHED_SEED, image_set
from topoprior.checkpoints import write_atomically
from topoprior.vae_training import fit


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--reference", type=Path, help="checkout of the reference repository")
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--num-images", type=int, default=8192, help="in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, help="also write the numbers to this json file")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    points = image_set("published").sample_points(
        arguments.num_images, torch.Generator().manual_seed(PUBLISHED_SEED)
    )
    images = torch.cat([image_set("published").render(part) for part in points.split(2048)])
    rounds: dict[str, Callable[[], object]] = {
        "ours, float32": ours(images, arguments.batch_size, None),
        "ours, bfloat16": ours(images, arguments.batch_size, torch.bfloat16),
    }
    if arguments.reference is not None:
        if not (arguments.reference / "src" / "models" / "klein_vae_module.py").is_file():
            parser.error(f"--reference {arguments.reference}: no src/models/klein_vae_module.py there")
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
    if arguments.output is not None:
        record = {
            "images per second": rates,
            "batch size": arguments.batch_size,
            "threads": arguments.threads,
            "machine": platform.processor() or platform.machine(),
            "torch": torch.__version__,
        }
        write_atomically(arguments.output, (json.dumps(record, indent=1) + "\n").encode())


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
