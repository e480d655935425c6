"""`topoprior train-prior`: kernels from four sources, a VAE on a space, its decoder as a prior."""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from topoprior import coverings, spaces

# Kernels to simplify the trained decoder on: enough to cover a surface, and seconds of work.
_SIMPLIFY = 3000
_LEAST = 100

SPACES: dict[str, Callable[[int], coverings.FlatManifold]] = {
    "klein": lambda dim: coverings.KleinBottle(),
    "torus": lambda dim: coverings.Torus(dim),
    "circle": lambda dim: coverings.Circle(),
    "half-turn": lambda dim: spaces.HalfTurnManifold(),
    "hantzsche-wendt": lambda dim: spaces.HantzscheWendt(),
    "euclidean": lambda dim: coverings.Euclidean(dim),
}


class Data(NamedTuple):
    """Kernels (N, k, k) of mean energy 1, in random order; options of the prior; what to put on record."""

    kernels: Tensor
    options: dict[str, float]
    record: dict[str, Any]


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
    more.add_argument("--size", type=int, default=3, help="pixels a side (files say theirs)")
    more.add_argument("--num", type=int, default=10_000, help="how many analytic kernels")
    add_patch_arguments(more)
    more.add_argument("--even", type=int, metavar="N", help="N patches that cover those left evenly")
    more.add_argument(
        "--threshold", type=float, default=0.1, help="network: drop kernels below this times their layer's"
    )
    more.add_argument("--keep-means", action="store_true", help="network: do not center kernels")

    model = train.add_argument_group("model and training")
    model.add_argument("--covering", choices=SPACES, default="klein", help="latent space")
    model.add_argument("--latent-dim", type=int, default=2, help="of the torus and of Euclidean space")
    model.add_argument("--harmonics", type=int, default=24, help="harmonics that the decoder reads")
    model.add_argument(
        "--tolerance",
        type=float,
        default=1e-3,
        help="by how much the relative error may grow for a decoder with fewer harmonics",
    )
    model.add_argument("--epochs", type=int, default=60)
    model.add_argument("--batch-size", type=int, default=128)
    model.add_argument("--learning-rate", type=float, default=3e-3)
    model.add_argument(
        "--restarts", type=int, default=1, help="train so often, keep the best on a tenth held out for that"
    )
    model.add_argument("--seed", type=int, default=0)
    model.add_argument("--no-progress", action="store_true", help="no progress bar")
    train.set_defaults(run=run)


def add_patch_arguments(group: Any) -> None:
    group.add_argument(
        "--contrast", type=float, metavar="FRACTION",
        help="patches: keep those of the highest contrast; default .2 of each image, all of a file",
    )  # fmt: skip
    group.add_argument(
        "--neighbour",
        type=int,
        default=15,
        metavar="K",
        help="patches: density is 1 / distance to the K-th",
    )
    group.add_argument(
        "--densest", type=float, metavar="FRACTION", help="patches: keep the densest fraction; default all"
    )
    group.add_argument(
        "--within", type=float, metavar="RADIUS",
        help="patches: rank densities among patches within this distance (on the unit sphere), not among all",
    )  # fmt: skip


def run(args: argparse.Namespace) -> None:
    from topoprior import checkpoints
    from topoprior.vae_training import negative_elbo

    check_writable(args.output)
    for name in ("num", "harmonics", "epochs", "batch_size", "latent_dim", "restarts"):
        if getattr(args, name) < 1:
            raise ValueError(
                f"--{name.replace('_', '-')}: expected at least 1, found {getattr(args, name)}"
            )
    if not args.tolerance > 0:
        raise ValueError(f"--tolerance: expected a positive number, found {args.tolerance}")
    torch.manual_seed(args.seed)
    kernels, options, source = load_kernels(args)
    space = SPACES[args.covering](args.latent_dim)
    held_out = max(1, len(kernels) // 10)
    data, test = kernels[held_out:], kernels[:held_out]
    trials = [_train(space, data, args) for _ in range(args.restarts)]
    vae, history = min(trials, key=lambda trial: min(trial[1].validation or [math.inf]))
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
            if key != "run"
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


def _train(space: coverings.FlatManifold, data: Tensor, args: argparse.Namespace) -> tuple[Any, Any]:
    """One VAE and its history; among several the best is chosen by a tenth of the data that it does not see."""
    from topoprior.vae import CoveringVAE
    from topoprior.vae_training import fit

    vae = CoveringVAE(
        space,
        data.shape[1:],
        encoder_hidden=(128, 128),
        decoder_hidden=() if space.rank else (32, 32),
        num_harmonics=args.harmonics,
        likelihood="gaussian",
    )
    validation = len(data) // 10 if args.restarts > 1 else 0
    history = fit(
        vae,
        data[validation:],
        validation=data[:validation] if validation else None,
        epochs=args.epochs,
        batch_size=args.batch_size,
        learning_rate=args.learning_rate,
        progress=not args.no_progress,
    )
    return vae, history


def _to_prior(
    vae: Any, space: Any, data: Tensor, args: argparse.Namespace, options: dict[str, float]
) -> Any:
    from topoprior.decoder_prior import DecoderPrior
    from topoprior.latent_priors import EuclideanDecoderPrior

    if not space.rank:
        return EuclideanDecoderPrior.from_vae(vae, **options)
    prior = DecoderPrior.from_decoder(
        vae.decode, space, data.shape[1:], num_harmonics=args.harmonics + 1, **options
    )
    return prior.simplified(data[:_SIMPLIFY], tolerance=args.tolerance) if space.dim < 3 else prior


def load_kernels(args: argparse.Namespace) -> Data:
    """What ``--kernels``, ``--patches`` or ``--from-network`` ask for."""
    if args.patches is not None:
        patches, record = load_patches(args.patches, args)
        if args.even is not None:
            patches = even_cover(patches, args.even)
            record["even"] = len(patches)
        # Amplitude is the prior's own: patches of contrast 1 are scaled to norm 1.
        patches = patches / patches.flatten(1).norm(dim=1)[:, None, None]
        return _shuffled(patches, {}, record)
    if args.from_network is not None:
        from topoprior.harvest import harvest_kernels

        found = harvest_kernels(
            args.from_network, args.size, threshold=args.threshold, center=not args.keep_means
        )
        record = {"layers": found.layers, "dropped": found.dropped, "mean_fraction": found.mean_fraction}
        # The means that were taken away are what the prior's beta is for.
        options = {} if args.keep_means else {"mean_fraction": min(0.9, found.mean_fraction)}
        return _shuffled(found.kernels, options, record)
    if args.kernels == "klein":
        from topoprior.kernels import sample_klein_kernels

        return Data(sample_klein_kernels(args.num, args.size)[0], {}, {})
    return _shuffled(_read_kernels(Path(args.kernels)), {}, {})


def load_patches(path: Path, args: argparse.Namespace) -> tuple[Tensor, dict[str, Any]]:
    """Patches (N, k, k) of contrast 1 after the density filter, and what is left of how many."""
    from topoprior.patches import dct_coordinates, densest, read_patches

    patches = read_patches(path, args.size, keep=args.contrast)
    record = {"patches": len(patches)}
    if args.densest is not None:
        points = dct_coordinates(patches)
        patches = patches[densest(points, args.neighbour, args.densest, within=args.within)]
        record["densest"] = len(patches)
    return patches, record


def even_cover(patches: Tensor, num: int) -> Tensor:
    """``num`` patches, each the farthest from those before it."""
    from topoprior.homology import farthest_points
    from topoprior.patches import dct_coordinates

    if num < _LEAST:
        raise ValueError(f"--even: expected at least {_LEAST}, found {num}")
    return patches[farthest_points(dct_coordinates(patches), num)]


def _shuffled(kernels: Tensor, options: dict[str, float], record: dict[str, Any]) -> Data:
    if len(kernels) < _LEAST:
        raise ValueError(f"kernels: expected at least {_LEAST}, found {len(kernels)}")
    kernels = kernels[torch.randperm(len(kernels))].float()
    energy = kernels.square().sum((1, 2)).mean().item()
    if not energy or not math.isfinite(energy):
        raise ValueError("kernels: expected finite numbers, not all zero")
    return Data(kernels / math.sqrt(energy), options, record)


def _read_kernels(path: Path) -> Tensor:
    if not path.is_file():
        raise ValueError(f"--kernels: {path} is neither 'klein' nor a file")
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError):
        array = None
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
        raise ValueError(f"--kernels: {path} is not a .npy file of numbers")
    kernels = torch.from_numpy(np.asarray(array, dtype=np.float32))
    if kernels.dim() == 4 and kernels.shape[1] == 1:
        kernels = kernels.squeeze(1)
    if kernels.dim() != 3 or kernels.shape[1] != kernels.shape[2]:
        raise ValueError(f"--kernels: expected shape (N, k, k) or (N, 1, k, k), found {tuple(array.shape)}")
    if not torch.isfinite(kernels).all():
        raise ValueError("--kernels: the file contains NaN or infinite values")
    return kernels


def check_writable(folder: Path) -> None:
    """Refuse before the work, not after it."""
    existing = next(p for p in [folder.absolute(), *folder.absolute().parents] if p.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise ValueError(f"--output: cannot write to {existing}; choose another folder")
