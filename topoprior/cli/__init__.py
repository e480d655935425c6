"""`topoprior` command line: train a kernel prior, look at one or at kernels, walk over its space, copy it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from topoprior.cli import explore, inspect, train
from topoprior.utils.files import check_writable


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status. Errors of use are one line on stderr and status 2."""
    args = _parser().parse_args(argv)
    try:
        args.run(args)
    except (ValueError, OSError, ImportError) as error:
        print(f"topoprior: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("topoprior: interrupted", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="topoprior", description="Topological weight priors.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    train.add_parser(commands)
    export = commands.add_parser("export", help="copy a shipped or saved prior to a folder")
    export.add_argument("prior", help="name of a shipped prior, or a folder")
    export.add_argument("--output", type=Path, required=True, help="folder to write")
    export.set_defaults(run=_export)
    inspect.add_parser(commands)
    explore.add_parser(commands)
    return parser


def _export(args: argparse.Namespace) -> None:
    from topoprior.priors.registry import get_prior

    prior = get_prior(args.prior)
    save = getattr(prior, "save_pretrained", None)
    if save is None:
        raise ValueError(f"prior: {args.prior!r} has no numbers to save: it is made by its name alone")
    check_writable(args.output, "--output")
    save(args.output)
    print(f"{args.output}: config.json, model.safetensors")
