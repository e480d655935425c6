"""Where kernels come from: the options of every source, and kernels (N, k, k) read by them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from topoprior.cli.options import at_least, below_one, fraction, positive
from topoprior.kernels.contrast import dct_coordinates
from topoprior.kernels.klein import sample_klein_kernels
from topoprior.kernels.networks import harvest_kernels
from topoprior.kernels.patches import densest, read_npy, read_patches
from topoprior.topology.homology import farthest_points

_NEIGHBOUR = 15  # whose distance says how dense it is
_SIZE = 3  # pixels a side
_MOST = 20_000  # kernels of a network: train-prior takes some two minutes on them, one thread


class Data(NamedTuple):
    """Kernels (N, k, k), what they are, options of the prior, what to put on record."""

    kernels: Tensor
    what: str
    options: dict[str, float]
    record: dict[str, Any]


def add_sources(parsers: Any) -> list[argparse.ArgumentParser]:
    """A parser a source; each sets ``load``, which takes the arguments and returns :class:`Data`."""
    klein = parsers.add_parser("klein", help="analytic Klein kernels; the source if none is named")
    group = klein.add_argument_group("kernels")
    group.add_argument("--num", type=at_least(100), default=10_000, help="how many")
    group.add_argument("--size", type=at_least(2), default=_SIZE, help="pixels a side")
    klein.set_defaults(load=_klein)

    own = parsers.add_parser("kernels", help="kernels of your own")
    own.add_argument("kernels", type=Path, metavar="FILE", help=".npy, shape (N, k, k) or (N, 1, k, k)")
    own.set_defaults(load=_own)

    patches = parsers.add_parser("patches", help="natural patches of images")
    patches.add_argument("patches", type=Path, metavar="PATH", help=".mat, .npy, or a folder of images")
    group = patches.add_argument_group("patches")
    add_patch_arguments(group)
    group.add_argument("--size", type=at_least(2), help="pixels a side, of images; default 3")
    group.add_argument(
        "--even", type=at_least(100), metavar="N", help="N that cover those left evenly; default all"
    )
    patches.set_defaults(load=_patches)

    network = parsers.add_parser("network", help="kernels of a trained network")
    network.add_argument(
        "network",
        metavar="WEIGHTS",
        help=".safetensors, .pt with tensors only, or a torchvision model's name",
    )
    group = network.add_argument_group("kernels")
    group.add_argument("--size", type=at_least(2), default=_SIZE, help="pixels a side")
    group.add_argument(
        "--threshold", type=below_one, default=0.1, help="drop kernels below this times their layer's"
    )
    group.add_argument("--keep-means", action="store_true", help="do not center kernels")
    group.add_argument(
        "--num",
        type=at_least(100),
        default=_MOST,
        help="at most so many, drawn at random where there are more",
    )
    network.set_defaults(load=_network)
    return [klein, own, patches, network]


def add_patch_arguments(group: Any) -> None:
    group.add_argument(
        "--contrast", type=fraction, metavar="FRACTION",
        help="keep those of the highest contrast; default .2 of each image, all of a file",
    )  # fmt: skip
    group.add_argument(
        "--densest", type=fraction, metavar="FRACTION", help="keep the densest fraction; default all"
    )
    group.add_argument(
        "--neighbour", type=at_least(1), metavar="K",
        help=f"density is 1 / distance to the K-th; default {_NEIGHBOUR}",
    )  # fmt: skip
    group.add_argument(
        "--within", type=positive, metavar="RADIUS",
        help="rank densities among patches within this distance (on the unit sphere); default all",
    )  # fmt: skip


PATCH_OPTIONS = ("contrast", "densest", "neighbour", "within")


def load_patches(path: Path, args: argparse.Namespace) -> tuple[Tensor, dict[str, Any]]:
    """Patches (N, k, k) of contrast 1 after the density filter, and what is left of how many."""
    for name in ("within", "neighbour"):
        if args.densest is None and getattr(args, name) is not None:
            raise ValueError(f"--{name}: there is nothing to rank without --densest")
    if args.size is not None and not path.is_dir():
        raise ValueError("--size: is for images; a file says its own")
    patches = read_patches(path, args.size or _SIZE, keep=args.contrast)
    record = {"patches": len(patches)}
    if args.densest is not None:
        neighbour = args.neighbour or _NEIGHBOUR
        if neighbour >= len(patches):
            raise ValueError(
                f"--neighbour: expected less than the {len(patches)} patches, found {neighbour}"
            )
        chosen = densest(dct_coordinates(patches), neighbour, args.densest, within=args.within)
        patches = patches[chosen]
        record["densest"] = len(patches)
    return patches, record


def _klein(args: argparse.Namespace) -> Data:
    what = f"{args.num:,} analytic Klein kernels of {args.size}x{args.size} pixels."
    return Data(sample_klein_kernels(args.num, args.size)[0], what, {}, {})


def _own(args: argparse.Namespace) -> Data:
    array = read_npy(args.kernels, "kernels")
    with np.errstate(all="ignore"):  # what float32 does not hold is found by train_prior
        kernels = torch.from_numpy(np.asarray(array, dtype=np.float32))
    if kernels.dim() == 4 and kernels.shape[1] == 1:
        kernels = kernels.squeeze(1)
    if kernels.dim() != 3 or kernels.shape[1] != kernels.shape[2]:
        raise ValueError(
            f"kernels: {args.kernels}: expected shape (N, k, k) or (N, 1, k, k), found {tuple(array.shape)}"
        )
    return Data(kernels, f"{len(kernels):,} kernels of {args.kernels.name}.", {}, {})


def _patches(args: argparse.Namespace) -> Data:
    patches, record = load_patches(args.patches, args)
    if args.even is not None:
        patches = patches[farthest_points(dct_coordinates(patches), args.even)]
        record["even"] = len(patches)
    # Amplitude is the prior's own: patches of contrast 1 are scaled to norm 1.
    unit = patches / patches.flatten(1).norm(dim=1)[:, None, None]
    return Data(unit, f"{len(unit):,} patches of {args.patches.name}.", {}, record)


def _network(args: argparse.Namespace) -> Data:
    found = harvest_kernels(args.network, args.size, threshold=args.threshold, center=not args.keep_means)
    record = {"layers": found.layers, "dropped": found.dropped, "mean_fraction": found.mean_fraction}
    # The means that were taken away are what the prior's beta is for.
    options = {} if args.keep_means else {"mean_fraction": min(0.9, found.mean_fraction)}
    count, kernels = len(found.kernels), found.kernels
    if count > args.num:
        kernels = kernels[torch.randperm(count)[: args.num]]
        record["drawn"] = args.num
    many = f"{len(kernels):,} of {count:,}" if len(kernels) < count else f"{count:,}"
    return Data(kernels, f"{many} kernels of {Path(args.network).name}.", options, record)
