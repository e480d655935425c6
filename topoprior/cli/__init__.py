"""`topoprior` command line: train a kernel prior, look at one or at kernels, walk over its space, copy it."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from typing import Any

from topoprior.cli import explore, export, inspect, train
from topoprior.cli.options import Parser, renamed
from topoprior.utils.version import __version__


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status. Errors are one line on stderr and status 2."""
    names: Sequence[str] = ()
    try:
        args = _parser().parse_args(train.with_source(sys.argv[1:] if argv is None else argv))
        names = list(vars(args))
        with warnings.catch_warnings():
            warnings.showwarning = _warned
            args.run(args)
    except SystemExit as over:  # of the parser, which has said why
        return over.code if isinstance(over.code, int) else 0
    except (ValueError, OSError, ImportError, MemoryError) as error:
        print(f"topoprior: {renamed(error, names) or type(error).__name__}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("topoprior: interrupted", file=sys.stderr)
        return 130
    return 0


def _warned(message: Warning | str, *_: Any, **__: Any) -> None:
    """A warning is a line, as an error is."""
    print(f"topoprior: {' '.join(str(message).split())}", file=sys.stderr)


def _parser() -> Parser:
    parser = Parser(prog="topoprior", description="Topological weight priors.")
    parser.add_argument("--version", action="version", version=f"topoprior {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", title="commands")
    for command in (train, inspect, explore, export):
        command.add_parser(commands)
    return parser
