"""Klein-Circles: VAEs whose latent space is a Klein bottle, a torus or the plane, beside the published ones.

    python -m experiments.klein_circles.run                                  # the table: 3 models, 3 seeds, 50 epochs
    python -m experiments.klein_circles.run --data klein --model klein --seeds 10 --epochs 20 --num-images 20000
    python -m experiments.klein_circles.run --data torus --model torus
    python -m experiments.klein_circles.run --report --output experiments/results/klein-circles

Network sizes are the published ones, 900-1024-512-128-32 and back, unless --hidden says otherwise. Every
finished run is kept in OUTPUT/runs and every epoch in OUTPUT/checkpoints, so the same command resumes a job
that was stopped. Writes results.json, report.md and pictures; --report writes the last two again from what is
stored. See --help.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import topoprior as tp
from experiments.common.pictures import png
from experiments.klein_circles.images import NUM_PUBLISHED, PUBLISHED_SEED, SETS, ImageSet, Split, image_set
from experiments.klein_circles.pictures import (
    curves_picture,
    latents_picture,
    picture_data,
    to_bytes,
)
from experiments.klein_circles.report import markdown
from experiments.klein_circles.scores import evaluate
from topoprior.utils.files import write_atomically
from topoprior.vae.training import fit

HIDDEN = (1024, 512, 128, 32)
_DPI = 110
MODELS = {
    "klein": lambda: tp.KleinBottle(),
    "torus": lambda: tp.Torus(2),
    "euclidean": lambda: tp.Euclidean(2),
    "moebius": lambda: tp.MoebiusBand(),
    "projective": lambda: tp.RealProjectiveSpace(2),
    "rotations": lambda: tp.RotationGroup(),
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser()
    arguments = parser.parse_args(argv)
    if arguments.num_images < 1000:
        parser.error(f"--num-images: expected at least 1,000, found {arguments.num_images}")
    if arguments.report:
        path = arguments.output / "results.json"
        if not path.exists():
            parser.error(f"--report: no {path}")
        runs = json.loads(path.read_text(encoding="utf-8"))["runs"]
        print(write_report(runs, image_set(runs[0]["config"]["data"]), arguments.output))
        return
    images = image_set(arguments.data)
    print(f"rendering {arguments.num_images:,} images", file=sys.stderr)
    split = images.split(arguments.num_images, PUBLISHED_SEED)
    runs = []
    try:
        for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
            for model in arguments.model:
                runs.append(one_run(model, seed, images, split, arguments))
    except KeyboardInterrupt:
        print(f"\nstopped; the same command resumes from {arguments.output}", file=sys.stderr)
        sys.exit(130)
    write_json(arguments.output / "results.json", {"runs": runs})
    store_picture_data(runs, images, split, arguments.output)
    print(write_report(runs, images, arguments.output))


def store_picture_data(runs: list[dict[str, Any]], images: ImageSet, split: Split, folder: Path) -> None:
    """What the pictures need of the first run of every model, read off its checkpoint once."""
    for run in first_runs(runs):
        path = folder / "runs" / f"{run['name']}.npz"
        checkpoint = folder / "checkpoints" / f"{run['name']}.pt"
        if path.exists() or not checkpoint.exists():
            continue
        vae = build(run["config"], images, split.train[0].shape[1:])
        vae.load_state_dict(torch.load(checkpoint, map_location="cpu", weights_only=True)["best_state"])
        write_atomically(path, to_bytes(picture_data(vae, images, *split.test)))


def write_report(runs: list[dict[str, Any]], images: ImageSet, folder: Path) -> str:
    """Draws the pictures whose data are stored, others stay as they are; then report.md."""
    if importlib.util.find_spec("matplotlib") is not None:
        write_atomically(folder / "curves.png", png(curves_picture(runs), _DPI))
        for run in first_runs(runs):
            path = folder / "runs" / f"{run['name']}.npz"
            if path.exists():
                model = run["config"]["model"]
                with np.load(path) as data:
                    figure = latents_picture(MODELS[model](), images, dict(data))
                write_atomically(folder / f"latents-{model}.png", png(figure, _DPI))
    report = markdown(runs, images, folder)
    write_atomically(folder / "report.md", report.encode())
    return report


def first_runs(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first run of every model."""
    return list({run["config"]["model"]: run for run in reversed(runs)}.values())


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", nargs="+", choices=MODELS, default=["klein", "torus", "euclidean"])
    add("--data", choices=SETS, default="published")
    add("--seeds", type=int, default=3, help="how many (default 3)")
    add("--first-seed", type=int, default=28)
    add("--epochs", type=int, default=50)
    add("--num-images", type=int, default=NUM_PUBLISHED, help="80 / 10 / 10 of them (default 100,000)")
    add("--batch-size", type=int, default=256)
    add("--learning-rate", type=float, default=1e-3)
    add(
        "--hidden",
        type=int,
        nargs="+",
        default=HIDDEN,
        help="widths of the encoder, reversed for the decoder",
    )
    add("--harmonics", type=int, default=24, help="that the decoder reads")
    add("--scale", choices=("diagonal", "full"), default="diagonal")
    add("--coverage", type=float, default=30.0)
    add("--cold", action="store_true", help="no spectral warm start")
    add("--patience", type=int, default=None, help="stop after so many epochs without improvement")
    add(
        "--precision",
        choices=("float32", "bfloat16"),
        default="float32",
        help="of the networks in training",
    )
    add("--topology-points", type=int, default=400, help="of the bottleneck scores; 0: leave them out")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--output", type=Path, default=Path("experiments/results/klein-circles"))
    add("--report", action="store_true", help="only write report.md and pictures again, from OUTPUT")
    add("--no-progress", action="store_true")
    return parser


# What decides a run's numbers, and so the name of its file.
_DECIDING = [
    "data",
    "epochs",
    "num_images",
    "batch_size",
    "learning_rate",
    "hidden",
    "harmonics",
    "scale",
    "coverage",
    "cold",
    "patience",
    "precision",
    "topology_points",
]


def describe(model: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    config = {name: getattr(arguments, name) for name in _DECIDING}
    return {"model": model, "seed": seed, **config, "hidden": list(config["hidden"])}


def build(config: dict[str, Any], images: ImageSet, shape: Sequence[int]) -> tp.CoveringVAE:
    """The VAE of a run, on the CPU."""
    space = MODELS[config["model"]]()
    full = config["scale"] == "full" and isinstance(space, tp.FlatManifold)
    return tp.CoveringVAE(
        space,
        shape,
        encoder_hidden=config["hidden"],
        decoder_hidden=config["hidden"][::-1],
        num_harmonics=config["harmonics"],
        scale="full" if full else "diagonal",
    )


def one_run(
    model: str, seed: int, images: ImageSet, split: Split, arguments: argparse.Namespace
) -> dict[str, Any]:
    config = describe(model, seed, arguments)
    name = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]
    path = arguments.output / "runs" / f"{name}.json"
    if path.exists():
        run = json.loads(path.read_text(encoding="utf-8"))
        if run["config"] == config:
            print(f"{model}, seed {seed}: saved before", file=sys.stderr)
            return run
    torch.manual_seed(seed)
    shape = split.train[0].shape[1:]
    vae = build(config, images, shape).to(arguments.device)
    checkpoint = arguments.output / "checkpoints" / f"{name}.pt"
    resumed = checkpoint.exists()
    start = time.perf_counter()
    history = fit(
        vae,
        split.train[0],
        validation=split.validation[0],
        epochs=arguments.epochs,
        batch_size=arguments.batch_size,
        learning_rate=arguments.learning_rate,
        warm=not arguments.cold,
        coverage=arguments.coverage,
        patience=arguments.patience,
        precision=torch.bfloat16 if arguments.precision == "bfloat16" else None,
        seed=seed,
        checkpoint=checkpoint,
        progress=not arguments.no_progress,
    )
    seconds = time.perf_counter() - start
    results = evaluate(vae.cpu(), images, split, seed, arguments.topology_points)
    run = {
        "name": name,
        "config": config,
        "results": results,
        "parameters": sum(p.numel() for p in vae.parameters()),
        "warm_start": history.fit,
        "train": history.train,
        "validation": history.validation,
        "seconds": None if resumed else seconds,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": arguments.device,
    }
    write_json(path, run)
    summary = ", ".join(
        f"{key} {value}" for key, value in results.items() if isinstance(value, float | bool)
    )
    print(f"{model}, seed {seed}: {summary}", file=sys.stderr)
    return run


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(value, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
