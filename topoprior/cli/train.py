"""`topoprior train-prior`: kernels from four sources, a VAE on a space, its decoder as a prior."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from topoprior.cli.sources import (
    NEIGHBOUR,
    add_patch_arguments,
    check_patch_arguments,
    load_kernels,
)
from topoprior.priors.decoded.training import _to_prior, _train
from topoprior.spaces.flat.manifold import FlatManifold
from topoprior.spaces.flat.named import (
    Circle,
    Euclidean,
    HalfTurnManifold,
    HantzscheWendt,
    KleinBottle,
    Torus,
)
from topoprior.utils.files import check_writable

_MOST_WAVES = 1_000_000  # that a search for the lowest harmonics may look at: seconds, and little memory

SPACES: dict[str, Callable[[int], FlatManifold]] = {
    "klein": lambda dim: KleinBottle(),
    "torus": lambda dim: Torus(dim),
    "circle": lambda dim: Circle(),
    "half-turn": lambda dim: HalfTurnManifold(),
    "hantzsche-wendt": lambda dim: HantzscheWendt(),
    "euclidean": lambda dim: Euclidean(dim),
}


# Of options that not every source and space has: another value was given on purpose.
_DEFAULTS: dict[str, Any] = {
    "contrast": None,
    "neighbour": NEIGHBOUR,
    "densest": None,
    "within": None,
    "even": None,
    "threshold": 0.1,
    "keep_means": False,
    "num": 10_000,
    "size": 3,
    "latent_dim": 2,
    "harmonics": 24,
    "tolerance": 1e-3,
}


def add_parser(commands: Any) -> None:
    train = commands.add_parser(
        "train-prior",
        help="train a kernel prior and save it as config.json + model.safetensors",
        description="Train a CoveringVAE on kernels; save its decoder as a prior that layers can load.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    train.add_argument("--output", type=Path, required=True, help="folder to write")

    source = train.add_argument_group("kernels (one of the first three)").add_mutually_exclusive_group()
    source.add_argument(
        "--kernels",
        default="klein",
        help="'klein' (analytic), or a .npy file, shape (N, k, k) or (N, 1, k, k)",
    )
    source.add_argument("--patches", type=Path, help="natural patches: .mat, .npy, or a folder of images")
    source.add_argument(
        "--from-network",
        metavar="WEIGHTS",
        help="kernels of a network: .safetensors, .pt with tensors only, or a torchvision model's name",
    )
    more = train.add_argument_group("which of them")
    more.add_argument(
        "--size", type=int, default=_DEFAULTS["size"], help="pixels a side (files say theirs)"
    )
    more.add_argument("--num", type=int, default=_DEFAULTS["num"], help="how many analytic kernels")
    add_patch_arguments(more)
    more.add_argument("--even", type=int, metavar="N", help="N patches that cover those left evenly")
    more.add_argument(
        "--threshold",
        type=float,
        default=_DEFAULTS["threshold"],
        help="network: drop kernels below this times their layer's",
    )
    more.add_argument("--keep-means", action="store_true", help="network: do not center kernels")

    model = train.add_argument_group("model and training")
    model.add_argument("--covering", choices=SPACES, default="klein", help="latent space")
    model.add_argument(
        "--latent-dim",
        type=int,
        default=_DEFAULTS["latent_dim"],
        help="of the torus and of Euclidean space",
    )
    model.add_argument(
        "--harmonics", type=int, default=_DEFAULTS["harmonics"], help="harmonics that the decoder reads"
    )
    model.add_argument(
        "--tolerance",
        type=float,
        default=_DEFAULTS["tolerance"],
        help="by how much the relative error may grow for a decoder with fewer harmonics",
    )
    model.add_argument("--epochs", type=int, default=60)
    model.add_argument("--batch-size", type=int, default=128)
    model.add_argument("--learning-rate", type=float, default=3e-3)
    model.add_argument(
        "--restarts", type=int, default=1, help="train so often, keep the best on a tenth held out for that"
    )
    model.add_argument(
        "--patience",
        type=int,
        help="stop after so many epochs without improvement on a tenth held out for that; default never",
    )
    model.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="to train on")
    model.add_argument(
        "--checkpoint",
        type=Path,
        metavar="FOLDER",
        help="save every epoch there; the same command after a kill goes on to the same prior",
    )
    model.add_argument("--seed", type=int, default=0)
    model.add_argument("--no-progress", action="store_true", help="no progress bar")
    train.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    from topoprior.utils import files as checkpoints
    from topoprior.vae.training import negative_elbo

    check_writable(args.output, "--output")
    _check(args)
    space = SPACES[args.covering](args.latent_dim)
    _check_harmonics(space, args)
    torch.manual_seed(args.seed)
    kernels, options, source = load_kernels(args)
    held_out = max(1, len(kernels) // 10)
    data, test = kernels[held_out:], kernels[:held_out]
    trials = [_train(space, data, args, restart) for restart in range(args.restarts)]
    vae, history = min(trials, key=lambda trial: min(trial[1].validation or [math.inf]))
    vae.cpu()
    with torch.no_grad():
        vae_error = ((vae(test) - test).norm() / test.norm()).item()
        prior = _to_prior(vae, space, data, args, options)
        # What is left of held-out kernels that the prior, with amplitudes of its own, comes nearest to.
        posterior = prior.posterior((len(test), 1, *test.shape[1:]), dtype=torch.float64)
        prior_error = posterior.project_(test[:, None].double()).item()
    record = {
        "arguments": {
            # A file's name says enough; where it was is nobody's business.
            key: Path(value).name if isinstance(value, str | Path) else value
            for key, value in vars(args).items()
            if key not in ("run", "checkpoint")
        },
        "torch": torch.__version__,
        **source,
        "num_train": len(data),
        "num_test": len(test),
        "test_negative_elbo": negative_elbo(vae, test),
        "test_relative_error": vae_error,
        "test_relative_error_of_prior": prior_error,
        "validation_negative_elbo_of_restarts": [min(h.validation) for _, h in trials if h.validation],
        "warm_start_residual": history.residual,
    }
    prior.save_pretrained(args.output)
    checkpoints.write_atomically(
        args.output / "training.json", (json.dumps(record, indent=2) + "\n").encode()
    )
    print(f"{args.output}: {prior}")
    print(f"negative ELBO on held-out kernels: {record['test_negative_elbo']:.3f} nats")
    print(f"relative error on held-out kernels: VAE {vae_error:.3%}, prior's decoder {prior_error:.3%}")


def _check(args: argparse.Namespace) -> None:
    """Numbers in range, and no option that would be ignored; errors by the names of the options."""
    least = {"num": 100, "size": 2, "even": 100}
    for name in (
        "num", "size", "even", "harmonics", "epochs", "batch_size", "latent_dim", "restarts", "patience",
    ):  # fmt: skip
        value, bound = getattr(args, name), least.get(name, 1)
        if value is not None and value < bound:
            raise ValueError(f"--{name.replace('_', '-')}: expected at least {bound}, found {value}")
    for name in ("tolerance", "learning_rate"):
        if not 0 < getattr(args, name) < math.inf:
            raise ValueError(
                f"--{name.replace('_', '-')}: expected a positive number, found {getattr(args, name)}"
            )
    if not 0 <= args.threshold < 1:
        raise ValueError(f"--threshold: expected a number in [0, 1), found {args.threshold}")
    patches, network = args.patches is not None, args.from_network is not None
    analytic = not patches and not network and args.kernels == "klein"
    _refuse(args, ("contrast", "neighbour", "densest", "within", "even"), patches, "--patches")
    _refuse(args, ("threshold", "keep_means"), network, "--from-network")
    _refuse(args, ("num",), analytic, "analytic kernels")
    images = patches and args.patches.suffix.lower() not in (".mat", ".npy")
    _refuse(args, ("size",), analytic or network or images, "analytic kernels, images or a network")
    wide = args.covering in ("torus", "euclidean")
    _refuse(args, ("latent_dim",), wide, "--covering torus or euclidean")
    _refuse(args, ("harmonics",), args.covering != "euclidean", "spaces that have harmonics")
    flat = args.covering in ("klein", "torus", "circle") and args.latent_dim < 3
    _refuse(args, ("tolerance",), flat, "closed spaces of dimension 1 and 2")
    if patches:
        check_patch_arguments(args)
    if args.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device: expected auto or cpu, as there is no cuda here, found cuda")
    if args.checkpoint is not None:
        check_writable(args.checkpoint, "--checkpoint")


def _refuse(args: argparse.Namespace, names: tuple[str, ...], applies: bool, what: str) -> None:
    for name in names:
        if not applies and getattr(args, name) != _DEFAULTS[name]:
            raise ValueError(f"--{name.replace('_', '-')}: is for {what} only")


def _check_harmonics(space: FlatManifold, args: argparse.Namespace) -> None:
    """The lowest harmonics are found among all waves of a box, which grows with the power of the dimension."""
    if not space.rank:
        return
    # A ball of this radius holds so many lattice points; harmonics of a quotient are averages of several.
    ball = math.pi ** (space.rank / 2) / math.gamma(space.rank / 2 + 1)
    reach = max(2, math.ceil((space.num_sheets * args.harmonics / ball) ** (1 / space.rank)))
    waves = (2 * reach + 1) ** space.rank
    if waves > _MOST_WAVES:
        raise ValueError(
            f"--harmonics, --latent-dim: expected a search among at most {_MOST_WAVES:,} waves, found {waves:,} for "
            f"{args.harmonics:,} harmonics on {space!r}; choose fewer harmonics or dimensions"
        )
