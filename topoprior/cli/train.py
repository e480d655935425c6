"""`topoprior train-prior`: kernels of a source, a VAE on a space, its decoder as a prior."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from topoprior.cli.options import RECORD, add_common, add_output, at_least, check_output, positive, say
from topoprior.cli.sources import add_sources
from topoprior.priors.decoded.training import train_prior
from topoprior.spaces.flat.manifold import FlatManifold
from topoprior.spaces.flat.named import (
    Circle,
    Euclidean,
    HalfTurnManifold,
    HantzscheWendt,
    KleinBottle,
    Torus,
)
from topoprior.utils.files import check_writable, write_atomically
from topoprior.utils.scalars import Scalars

SPACES: dict[str, Callable[[int], FlatManifold]] = {
    "klein": lambda dim: KleinBottle(),
    "torus": Torus,
    "circle": lambda dim: Circle(),
    "half-turn": lambda dim: HalfTurnManifold(),
    "hantzsche-wendt": lambda dim: HantzscheWendt(),
    "euclidean": Euclidean,
}
_COMMAND = "train-prior"
_ABOUT = ("data", "licence", "authors")
_OF_DIMENSION = ("torus", "euclidean")


def with_source(argv: Sequence[str]) -> list[str]:
    """The arguments, with the source "klein" where none is named."""
    named = len(argv) > 1 and (not argv[1].startswith("-") or argv[1] in ("-h", "--help"))
    return [_COMMAND, "klein", *argv[1:]] if argv and argv[0] == _COMMAND and not named else list(argv)


def add_parser(commands: Any) -> None:
    train = commands.add_parser(
        _COMMAND,
        help="train a kernel prior and save it as config.json + model.safetensors",
        description="Train a CoveringVAE on kernels; save its decoder as a prior that layers can load.",
    )
    sources = train.add_subparsers(
        required=True, metavar="SOURCE", title="sources of kernels, each with options of its own"
    )
    for parser in add_sources(sources):
        add_output(parser)
        _add_about(parser)
        _add_training(parser)
        add_common(parser)
        parser.set_defaults(run=run)


def _add_about(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what the checkpoint says of itself")
    group.add_argument("--data", metavar="TEXT", help="what the kernels are; default the source")
    group.add_argument(
        "--licence", metavar="NAME", help="of the numbers, such as apache-2.0; default unsaid"
    )
    group.add_argument("--authors", metavar="NAMES", help="of the prior; default unsaid")


def _add_training(parser: argparse.ArgumentParser) -> None:
    model = parser.add_argument_group("model")
    model.add_argument("--covering", choices=SPACES, default="klein", help="latent space")
    model.add_argument(
        "--latent-dim", type=at_least(1), help="of the torus and of Euclidean space; default 2"
    )
    model.add_argument(
        "--harmonics", type=at_least(1), help="that the decoder reads, on closed spaces; default 24"
    )
    model.add_argument(
        "--tolerance", type=positive,
        help="by how much the relative error may grow for a decoder with fewer harmonics; default .001",
    )  # fmt: skip
    training = parser.add_argument_group("training")
    training.add_argument("--epochs", type=at_least(1), default=60, help="passes over the kernels")
    training.add_argument("--batch-size", type=at_least(1), default=128, help="kernels a step")
    training.add_argument("--learning-rate", type=positive, default=3e-3, help="of Adam")
    training.add_argument(
        "--restarts", type=at_least(1), default=1,
        help="train so often, keep the best on a tenth held out for that",
    )  # fmt: skip
    training.add_argument(
        "--patience", type=at_least(1),
        help="stop after so many epochs without improvement on a tenth held out for that; default never",
    )  # fmt: skip
    training.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="to train on")
    training.add_argument(
        "--checkpoint", type=Path, metavar="FOLDER",
        help="save every epoch there, and go on from there after a kill, to the same prior; default none",
    )  # fmt: skip
    training.add_argument("--no-progress", action="store_true", help="no progress bar")
    training.add_argument(
        "--log", type=Path, metavar="FOLDER",
        help="write the loss of every epoch there, as CSV and for TensorBoard; default none",
    )  # fmt: skip


def run(args: argparse.Namespace) -> None:
    check_output(args)
    if args.checkpoint is not None:
        check_writable(args.checkpoint, "--checkpoint")
    if args.log is not None:
        check_writable(args.log, "--log")
    if args.latent_dim is not None and args.covering not in _OF_DIMENSION:
        raise ValueError("--latent-dim: is for --covering torus or euclidean only")
    space = SPACES[args.covering](args.latent_dim or 2)
    torch.manual_seed(args.seed)
    data = args.load(args)
    with nullcontext() if args.log is None else Scalars(args.log) as scalars:
        prior, record = train_prior(
            data.kernels,
            space,
            harmonics=args.harmonics,
            tolerance=args.tolerance,
            epochs=args.epochs,
            batch_size=args.batch_size,
            learning_rate=args.learning_rate,
            restarts=args.restarts,
            patience=args.patience,
            device=None if args.device == "auto" else args.device,
            checkpoint=args.checkpoint,
            progress=not (args.no_progress or args.quiet),
            log=None if scalars is None else scalars.write,
            options=data.options,
        )
    arguments = {
        # A file's name says enough; where it was is nobody's business.
        name: Path(value).name if isinstance(value, str | Path) else value
        for name, value in vars(args).items()
        if name not in ("run", "load", "checkpoint", "log", *_ABOUT)
    }
    record = {"arguments": arguments, **data.record, **record}
    prior.save_pretrained(  # type: ignore[attr-defined]
        args.output, data=args.data or data.what, licence=args.licence, authors=args.authors
    )
    write_atomically(args.output / RECORD, (json.dumps(record, indent=2) + "\n").encode())
    say(
        args,
        [
            f"{args.output}: {prior}",
            f"negative ELBO on held-out kernels: {record['test_negative_elbo']:.3f} nats",
            f"relative error on held-out kernels: VAE {record['test_relative_error']:.3%}, "
            f"prior's decoder {record['test_relative_error_of_prior']:.3%}",
        ],
    )
