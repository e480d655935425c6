"""The command line of compare_priors.py: what may be asked for, and one line for what may not."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import NoReturn

from experiments.priors import data as datasets
from experiments.priors.methods import METHODS
from experiments.priors.training import Budget

SMALLEST_IMAGE = 8


class Parser(argparse.ArgumentParser):
    """An error is one line; the usage, which argparse would print before it, is in --help."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())}\n")


def make_parser() -> Parser:
    parser = Parser(
        prog="compare_priors.py",
        description="Train one small CNN with several weight priors and compare accuracy and calibration.",
        epilog="The same command resumes a job that was stopped: finished runs are kept in OUTPUT/runs.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    data = parser.add_argument_group("data")
    data.add_argument(
        "--dataset", default="embedded", metavar="NAME|FOLDER",
        help=f"{', '.join(datasets.NAMES)}, or a folder with train/<class>/ and test/<class>/",
    )  # fmt: skip
    data.add_argument(
        "--data-dir", type=Path, default=Path(".cache/data"), help="where downloads are, or go"
    )
    data.add_argument(
        "--train-size", type=whole, help="training images, a stratified subset drawn by the seed"
    )
    data.add_argument("--test-size", type=whole, help="test images, likewise")
    data.add_argument("--image-size", type=whole, help=f"resize images, at least {SMALLEST_IMAGE}")

    compared = parser.add_argument_group("what is compared")
    compared.add_argument(
        "--priors", type=names, default="klein,gaussian,blitz,deterministic", metavar="LIST",
        help=f"comma-separated: {', '.join(METHODS)}, a prior of topoprior, or the folder of a prior "
        "checkpoint; differences are between the first and each other one",
    )  # fmt: skip
    compared.add_argument(
        "--seeds", default="3", metavar="COUNT|LIST", help="how many, or which: 3 or 0,1,2"
    )
    compared.add_argument(
        "--seed", type=seed_number, default=0, help="first seed, where --seeds is a count"
    )

    training_group = parser.add_argument_group("training, the same for all")
    defaults = Budget()
    training_group.add_argument("--steps", type=whole, default=defaults.steps)
    training_group.add_argument("--batch-size", type=whole, default=defaults.batch_size)
    training_group.add_argument(
        "--temperature", type=positive, default=defaults.temperature, help="factor of the KL; 1 is Bayes"
    )
    training_group.add_argument(
        "--learning-rate", type=positive, help="for all methods, instead of each one's tuned rate"
    )
    training_group.add_argument(
        "--samples", type=whole, default=defaults.samples, help="posterior samples for predictions"
    )
    training_group.add_argument(
        "--device", default="auto", help="cpu, cuda, ...; auto: cuda if there is one"
    )

    output = parser.add_argument_group("results")
    output.add_argument("--output", type=Path, default=Path("results/compare_priors"), help="folder")
    output.add_argument("--fresh", action="store_true", help="recompute runs that are already there")
    return parser


def whole(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: give a whole number, at least 1")
    return int(text)


def seed_number(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"{text!r}: give a whole number from 0 to 2^32 - 1")
    return int(text)


def positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}: give a positive number")
    return value


def names(text: str) -> list[str]:
    found = [name.strip() for name in text.split(",")]
    if "" in found or len(set(found)) < len(found):
        raise argparse.ArgumentTypeError(f"{text!r}: give different names, separated by commas")
    return found


def seed_list(text: str, first: int) -> list[int]:
    """The seeds of --seeds: "3" is a count from `first` on, "0,1,2" are the seeds themselves."""
    try:
        if "," not in text:
            count = whole(text)
            return list(range(first, first + count))
        seeds = [seed_number(part.strip()) for part in text.split(",") if part.strip()]
    except argparse.ArgumentTypeError as error:
        raise ValueError(f"--seeds: {error}, or a list such as 0,1,2") from None
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"--seeds {text!r}: give different whole numbers, such as 0,1,2")
    return seeds


def named_folder(text: str) -> tuple[str, str]:
    """A data set's label and where it is: "cifar10=some/folder", or a name for both."""
    label, _, folder = text.partition("=")
    return label, folder or label
