"""What the commands share: errors of one line, help with defaults, types that check their range, folders to write."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from topoprior.utils.files import CONFIG, MODEL, check_writable

RECORD = "training.json"


class _Help(argparse.HelpFormatter):
    """Every option says its default, where there is one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text = action.help or ""
        silent = action.default in (None, argparse.SUPPRESS) or isinstance(action.default, bool)
        return text if silent or "default" in text else f"{text} (default: %(default)s)"


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"formatter_class": _Help, "allow_abbrev": False, **kwargs})

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {' '.join(message.split())} ({self.prog} --help says more)\n")


def at_least(bound: int) -> Callable[[str], int]:
    """The type of a whole number that is at least ``bound``."""

    def number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"expected a whole number, found {text[:40]!r}") from None
        if value < bound:
            raise argparse.ArgumentTypeError(f"expected at least {bound}, found {value}")
        return value

    return number


def positive(text: str) -> float:
    return _number(text, lambda x: 0 < x < math.inf, "a positive number")


def fraction(text: str) -> float:
    """A share that is kept."""
    return _number(text, lambda x: 0 < x <= 1, "a fraction in (0, 1]")


def below_one(text: str) -> float:
    return _number(text, lambda x: 0 <= x < 1, "a number in [0, 1)")


def _number(text: str, holds: Callable[[float], bool], expected: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not holds(value):
        raise argparse.ArgumentTypeError(f"expected {expected}, found {text[:40]}")
    return value


def add_common(parser: argparse.ArgumentParser, seed: bool = True) -> None:
    group = parser.add_argument_group("this command")
    if seed:
        group.add_argument("--seed", type=int, default=0, help="of torch's random numbers")
    group.add_argument("--quiet", action="store_true", help="print nothing but errors")


def add_output(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("output")
    group.add_argument("--output", type=Path, required=True, help="folder to write")
    group.add_argument("--overwrite", action="store_true", help="replace the prior that is there")


def check_output(args: argparse.Namespace) -> None:
    """Refuse a folder that holds a prior, or cannot be written to, before the work."""
    check_writable(args.output, "--output")
    there = [name for name in (CONFIG, MODEL, RECORD) if (args.output / name).exists()]
    if there and not args.overwrite:
        raise ValueError(f"--output: {args.output} holds {', '.join(there)}; --overwrite replaces them")


def say(args: argparse.Namespace, lines: Sequence[str] | str) -> None:
    """Print, in characters that any terminal takes, unless --quiet."""
    for line in [lines] if isinstance(lines, str) else lines:
        if not args.quiet:
            print(line.encode(errors="backslashreplace").decode())


def renamed(error: Exception, names: Sequence[str]) -> str:
    """The message of an error of the library, whose arguments are options here."""
    text = " ".join(str(error).split())
    name = text.split(":")[0]
    return f"--{name.replace('_', '-')}{text[len(name) :]}" if name in names else text
