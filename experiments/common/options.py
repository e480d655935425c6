"""Command lines: values checked with one line for what is wrong, defaults shown, what was asked for kept."""

from __future__ import annotations

import argparse
import errno
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from experiments.common import progress
from experiments.common.document import Document, printable
from experiments.common.progress import say as say
from experiments.common.store import versions, write_json
from topoprior.utils import files

_T = TypeVar("_T")


class _Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """The text as it is written, and every option with its default."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or isinstance(action.default, bool) or not action.help:
            return action.help
        if isinstance(action.default, list | tuple):
            return f"{action.help} (default: {', '.join(map(str, action.default)) or 'none'})"
        return super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """``what`` is a module's docstring. An error is one line; the usage is in --help."""

    def __init__(self, what: str | None, **options: Any) -> None:
        description, _, rest = (what or "").partition("\n\n")
        super().__init__(description=description, epilog=rest, formatter_class=_Formatter, **options)
        self._optionals.title = "of this script"

    def add_usual(self, output: str, seed: int = 0, log: bool = True) -> None:
        """The options that every script has. ``output``: under results/, which git ignores. ``log``: of a script that trains."""
        group = self.add_argument_group("results")
        group.add_argument("--output", type=Path, default=Path(output), help="folder of the results")
        group.add_argument(
            "--seed", type=seed_number, default=seed, help="of all that is drawn, or the first of several"
        )
        self.add_progress(log)

    def add_progress(self, log: bool = True) -> None:
        """What is said on the way."""
        group = self.add_argument_group("on the way")
        group.add_argument(
            "--quiet", action="store_true", help="no lines and no bar, but errors and the result"
        )
        if log:
            group.add_argument(
                "--log",
                type=Path,
                metavar="FOLDER",
                help="write what is measured on the way, as CSV and for TensorBoard; without it nothing is",
            )

    def parse_args(self, *given: Any, **named: Any) -> Any:
        """As argparse's; --quiet and --log hold from here on."""
        found = super().parse_args(*given, **named)
        log = getattr(found, "log", None)
        if log is not None:
            try:
                files.check_writable(log, "--log")
            except ValueError as error:
                self.error(str(error))
        progress.choose(getattr(found, "quiet", False), log)
        return found

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {printable(' '.join(message.split()))}\n")

    def ending(self, output: Path) -> Ending:
        """For the work of a script that resumes: ``with parser.ending(output) as ending: ...; return ending.status``."""
        return Ending(self, output)


def report_again(
    what: str | None,
    argv: Sequence[str] | None,
    read: Callable[[Path], _T],
    report: Callable[[_T, Path], Document],
) -> int:
    """The command line of a report that is made from a folder's runs.csv.

    Args:
        read: the file; a ValueError, KeyError or OSError is the error of one line.
        report: what was read, and the folder.
    """
    parser = Parser(what)
    parser.add_argument("results", type=Path, help="a folder with runs.csv")
    parser.add_argument("--output", type=Path, help="folder; without it where the results are")
    arguments = parser.parse_args(argv)
    try:
        found = read(arguments.results / "runs.csv")
    except (ValueError, KeyError, OSError) as error:
        parser.error(f"{arguments.results}: no runs.csv of this experiment ({error})")
    print(report(found, arguments.results).write(arguments.output or arguments.results))
    return 0


class Ending:
    """How work ends: what is wrong with what was given is the parser's error, Ctrl-C a line and status 130."""

    def __init__(self, parser: Parser, output: Path) -> None:
        self.parser, self.output, self.status = parser, output, 0

    def __enter__(self) -> Ending:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
        if isinstance(error, (ValueError, OSError, ImportError)):
            full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
            remedy = "; free space or choose another --output, finished runs are kept" if full else ""
            self.parser.error(f"{error}{remedy}")
        if isinstance(error, KeyboardInterrupt):
            say(f"stopped; the same command resumes from {self.output}")
            self.status = 130
        return self.status == 130


def write_config(arguments: argparse.Namespace, **more: Any) -> None:
    """config.json in the folder of the results: what was asked for, and what answered."""
    asked = {
        key: str(value) if isinstance(value, Path) else value for key, value in vars(arguments).items()
    }
    machine = {"versions": versions(), "cpus": os.cpu_count()}
    write_json(arguments.output / "config.json", {"arguments": asked, **more, **machine})


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


def fraction(text: str) -> float:
    value = 0.0 if text == "0" else positive(text)
    if value > 1:
        raise argparse.ArgumentTypeError(f"{text!r}: give a number from 0 to 1")
    return value


def names(text: str) -> list[str]:
    found = [name.strip() for name in text.split(",")]
    if "" in found or len(set(found)) < len(found):
        raise argparse.ArgumentTypeError(f"{text!r}: give different names, separated by commas")
    return found


def wholes(text: str) -> list[int]:
    return [whole(part.strip()) for part in text.split(",")]


def add_earlier(group: argparse._ActionsContainer) -> None:
    """The option --earlier, which `experiments.common.tables.read_runs` reads."""
    words = "a runs.csv whose runs count as finished; without it none"
    group.add_argument("--earlier", type=Path, metavar="FILE", help=words)


def check_known(found: Iterable[str], known: Iterable[str], option: str) -> None:
    """Raises ValueError for a name that is not known."""
    for name in found:
        if name not in known:
            raise ValueError(f"{option} {name}: choose from {', '.join(known)}")


def seed_list(text: str, first: int) -> list[int]:
    """The seeds of --seeds: "3" is a count from ``first`` on, "0,1,2" are the seeds themselves."""
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


def check_writable(output: Path) -> None:
    """Write a file where the results will be, or in the nearest folder that exists, and remove it."""
    folder = output.absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        raise ValueError(
            f"--output {output}: cannot write to {folder} ({reason}); choose another"
        ) from None
