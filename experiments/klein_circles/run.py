"""Klein-Circles: VAEs whose latent space is a Klein bottle, a torus or the plane, beside the published ones.

    python -m experiments.klein_circles.run                                  # the table: 3 models, 3 seeds, 50 epochs
    python -m experiments.klein_circles.run --data klein --model klein --seeds 10 --epochs 20 --num-images 20000
    python -m experiments.klein_circles.run --data torus --model torus

Network sizes are the published ones, 900-1024-512-128-32 and back, unless --hidden says otherwise. Every
finished run is kept in OUTPUT/runs and every epoch in OUTPUT/checkpoints, so the same command resumes a job
that was stopped. Writes runs.csv, report.md and pictures.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import topoprior as tp
from experiments.common.options import Parser, say, whole, write_config
from experiments.common.pictures import png
from experiments.common.progress import Write, scalars
from experiments.common.store import Run, Store, digest, tensor_bytes
from experiments.common.tables import frame, write_csv
from experiments.klein_circles.images import NUM_PUBLISHED, PUBLISHED_SEED, SETS, ImageSet, Split, image_set
from experiments.klein_circles.pictures import curves_picture, latents_picture, picture_data
from experiments.klein_circles.report import report
from experiments.klein_circles.scores import evaluate
from topoprior.topology.fit import Fit
from topoprior.vae.training import History, fit

HIDDEN = (1024, 512, 128, 32)
MODELS = {
    "klein": lambda: tp.KleinBottle(),
    "torus": lambda: tp.Torus(2),
    "euclidean": lambda: tp.Euclidean(2),
    "moebius": lambda: tp.MoebiusBand(),
    "projective": lambda: tp.RealProjectiveSpace(2),
    "rotations": lambda: tp.RotationGroup(),
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser()
    arguments = parser.parse_args(argv)
    if arguments.num_images < 1000:
        parser.error(f"--num-images: expected at least 1,000, found {arguments.num_images}")
    with parser.ending(arguments.output) as ending:
        arguments.output.mkdir(parents=True, exist_ok=True)
        write_config(arguments)
        images = image_set(arguments.data)
        say(f"rendering {arguments.num_images:,} images")
        split = images.split(arguments.num_images, PUBLISHED_SEED)
        runs = run_all(images, split, arguments)
        write_csv(arguments.output / "runs.csv", frame(runs))
        pictures = {"curves.png": png(curves_picture(runs))}
        for model in arguments.model:
            first = next(run for run in runs if run.config["model"] == model)
            vae = trained(first.config, split, arguments)
            if vae is not None:
                figure = latents_picture(vae.covering, images, picture_data(vae, images, *split.test))
                pictures[f"latents-{model}.png"] = png(figure)
        page = report(runs, images, pictures)
        page.write(arguments.output)
        print(page.markdown())
    return ending.status


def run_all(images: ImageSet, split: Split, arguments: argparse.Namespace) -> list[Run]:
    """Every model with a seed, then with the next one."""
    store, runs = Store(arguments.output / "runs"), []
    read = digest(*(tensor_bytes(tensor) for part in split for tensor in part))
    total, began = arguments.seeds * len(arguments.model), time.monotonic()
    for seed in range(arguments.seed, arguments.seed + arguments.seeds):
        for model in arguments.model:
            config = {**describe(model, seed, arguments), "data": read}
            result = store.get(config)
            again = "saved before" if result else ""
            if result is None:
                result = one_run(config, images, split, arguments)
                store.put(config, result)
            runs.append(Run(config, store.get(config) or result, {}))
            left = (time.monotonic() - began) / len(runs) * (total - len(runs)) / 60
            elbo = result["measures"]["negative ELBO"]
            say(
                f"[{len(runs)}/{total}, {left:.0f} min left] {model}, seed {seed}: negative ELBO {elbo:.2f} {again}"
            )
    return runs


def trained(config: dict[str, Any], split: Split, arguments: argparse.Namespace) -> tp.CoveringVAE | None:
    """The model of a run, from its checkpoint, which has nothing left to do; None where that is gone."""
    if not checkpoint(config, arguments).exists():
        return None
    vae = build(config, split.train[0].shape[1:])
    train(vae, config, split, arguments)
    return vae


def checkpoint(config: dict[str, Any], arguments: argparse.Namespace) -> Path:
    return arguments.output / "checkpoints" / f"{Store(arguments.output).path(config).stem}.pt"


def make_parser() -> Parser:
    parser = Parser(__doc__)
    add = parser.add_argument_group("what is compared").add_argument
    add("--model", nargs="+", choices=MODELS, default=["klein", "torus", "euclidean"], help="latent spaces")
    add("--data", choices=SETS, default="published", help="the image set")
    add("--seeds", type=whole, default=3, help="how many")
    add("--num-images", type=whole, default=NUM_PUBLISHED, help="80 / 10 / 10 of them")
    add("--topology-points", type=int, default=400, help="of the bottleneck scores; 0: leave them out")
    add = parser.add_argument_group("training").add_argument
    add("--epochs", type=whole, default=50, help="of a training")
    add("--batch-size", type=whole, default=256, help="images a step")
    add("--learning-rate", type=float, default=1e-3, help="of Adam")
    add("--coverage", type=float, default=30.0, help="weight of the term that spreads the latents")
    add("--cold", action="store_true", help="no spectral warm start")
    add("--patience", type=whole, help="stop after so many epochs that improve nothing; without it never")
    add(
        "--precision",
        choices=("float32", "bfloat16"),
        default="float32",
        help="of the networks in training",
    )
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu, cuda, ...")
    add = parser.add_argument_group("networks").add_argument
    add(
        "--hidden",
        type=whole,
        nargs="+",
        default=list(HIDDEN),
        help="widths of the encoder, reversed for the decoder",
    )
    add("--harmonics", type=whole, default=24, help="that the decoder reads")
    add("--scale", choices=("diagonal", "full"), default="diagonal", help="of the posterior")
    parser.add_usual("results/klein-circles", seed=28)
    return parser


# What decides a run's numbers, and so the name of its file.
_DECIDING = [
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
    return {"images": arguments.data, "model": model, "seed": seed, **config}


def build(config: dict[str, Any], shape: Sequence[int]) -> tp.CoveringVAE:
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


def train(
    vae: tp.CoveringVAE,
    config: dict[str, Any],
    split: Split,
    arguments: argparse.Namespace,
    log: Write | None = None,
) -> History:
    """Train, from the checkpoint if there is one."""
    path = checkpoint(config, arguments)
    path.parent.mkdir(parents=True, exist_ok=True)
    return fit(
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
        seed=config["seed"],
        checkpoint=path,
        progress=not arguments.quiet,
        log=log,
    )


def one_run(
    config: dict[str, Any], images: ImageSet, split: Split, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Train and measure."""
    torch.manual_seed(config["seed"])
    vae = build(config, split.train[0].shape[1:]).to(arguments.device)
    resumed, start = checkpoint(config, arguments).exists(), time.perf_counter()
    with scalars(Store(arguments.output).path(config).stem) as log:
        history = train(vae, config, split, arguments, log)
    seconds = time.perf_counter() - start
    results = evaluate(vae.cpu(), images, split, config["seed"], arguments.topology_points)
    loops = results.pop("loops", None)
    return {
        "measures": {
            **results,
            "certified": None if history.objections is None else history.certified,
            "warm start mismatch": None if history.fit is None else Fit.of(history.fit).mismatch,
            "parameters": sum(p.numel() for p in vae.parameters()),
            "minutes": None if resumed else seconds / 60,
        },
        "loops": loops,
        "warm_start": history.fit,
        "objections": history.objections,
        "train": history.train,
        "validation": history.validation,
    }


if __name__ == "__main__":
    sys.exit(main())
