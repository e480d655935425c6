"""`topoprior export`: a prior as a folder."""

from __future__ import annotations

import argparse
from typing import Any

from topoprior.cli.options import add_common, add_output, check_output, say
from topoprior.priors.registry import get_prior
from topoprior.utils.files import CONFIG, MODEL


def add_parser(commands: Any) -> None:
    export = commands.add_parser("export", help="copy a shipped or saved prior to a folder")
    export.add_argument("prior", help="name of a shipped prior, or a folder")
    add_output(export)
    add_common(export, seed=False)
    export.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    prior = get_prior(args.prior)
    save = getattr(prior, "save_pretrained", None)
    if save is None:
        raise ValueError(f"prior: {args.prior!r} has no numbers to save: it is made by its name alone")
    check_output(args)
    save(args.output)
    say(args, f"{args.output}: {CONFIG}, {MODEL}")
