"""What a job says on its way: lines and bars on stderr, but not with --quiet; and scalars in files, with --log.

Both are chosen by the command line and stand in the environment, so that worker processes know of them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from experiments.common.document import printable
from topoprior.utils.scalars import Scalars

_QUIET, _LOG = "TOPOPRIOR_QUIET", "TOPOPRIOR_LOG"
Write = Callable[[int, Mapping[str, float]], None]


def choose(quiet: bool, log: Path | None) -> None:
    """Of this process and of those that it will start."""
    for name, value in ((_QUIET, "1" if quiet else None), (_LOG, str(log.absolute()) if log else None)):
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value


def is_quiet() -> bool:
    return _QUIET in os.environ


def say(text: str) -> None:
    """A line for the person who waits; above the bar, where there is one."""
    if not is_quiet():
        tqdm.write(printable(text), file=sys.stderr)
        sys.stderr.flush()


def bar(over: Iterable[Any] | None = None, **options: Any) -> Any:
    """tqdm's, on a terminal. Its own variable for this is read when it is imported, which is too early."""
    return tqdm(over, file=sys.stderr, disable=True if is_quiet() else None, **options)


@contextmanager
def scalars(run: str) -> Iterator[Write | None]:
    """What writes the numbers of a run by step, in a folder of its own; None without --log."""
    folder = os.environ.get(_LOG)
    if folder is None:
        yield None
        return
    with Scalars(Path(folder) / run) as log:
        yield log.write


def record(run: str, measures: Mapping[str, Any], step: int = 0) -> None:
    """The numbers that a run ended with."""
    with scalars(run) as write:
        if write is not None:
            numbers = {k: v for k, v in measures.items() if isinstance(v, int | float)}
            write(step, numbers)
