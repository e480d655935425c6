"""Kernels for `topoprior train-prior` and `inspect`: their options, checked by name, and where they come from."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

_LEAST = 100
NEIGHBOUR = 15  # whose distance says how dense it is


class Data(NamedTuple):
    """Kernels (N, k, k) of mean energy 1, in random order; options of the prior; what to put on record."""

    kernels: Tensor
    options: dict[str, float]
    record: dict[str, Any]


def add_patch_arguments(group: Any) -> None:
    group.add_argument(
        "--contrast", type=float, metavar="FRACTION",
        help="patches: keep those of the highest contrast; default .2 of each image, all of a file",
    )  # fmt: skip
    group.add_argument(
        "--neighbour",
        type=int,
        default=NEIGHBOUR,
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
        from topoprior.kernels.networks import harvest_kernels

        found = harvest_kernels(
            args.from_network, args.size, threshold=args.threshold, center=not args.keep_means
        )
        record = {"layers": found.layers, "dropped": found.dropped, "mean_fraction": found.mean_fraction}
        # The means that were taken away are what the prior's beta is for.
        options = {} if args.keep_means else {"mean_fraction": min(0.9, found.mean_fraction)}
        return _shuffled(found.kernels, options, record)
    if args.kernels == "klein":
        from topoprior.kernels.klein import sample_klein_kernels

        return Data(sample_klein_kernels(args.num, args.size)[0], {}, {})
    return _shuffled(_read_kernels(Path(args.kernels)), {}, {})


def load_patches(path: Path, args: argparse.Namespace) -> tuple[Tensor, dict[str, Any]]:
    """Patches (N, k, k) of contrast 1 after the density filter, and what is left of how many."""
    from topoprior.kernels.contrast import dct_coordinates
    from topoprior.kernels.patches import densest, read_patches

    check_patch_arguments(args)
    patches = read_patches(path, args.size, keep=args.contrast)
    record = {"patches": len(patches)}
    if args.densest is not None and args.neighbour >= len(patches):
        raise ValueError(
            f"--neighbour: expected less than the {len(patches)} patches, found {args.neighbour}"
        )
    if args.densest is not None:
        points = dct_coordinates(patches)
        patches = patches[densest(points, args.neighbour, args.densest, within=args.within)]
        record["densest"] = len(patches)
    return patches, record


def check_patch_arguments(args: argparse.Namespace) -> None:
    """Errors by the names of the options, before any work."""
    for name in ("contrast", "densest"):
        value = getattr(args, name)
        if value is not None and not 0 < value <= 1:
            raise ValueError(f"--{name}: expected a fraction in (0, 1], found {value}")
    if args.neighbour < 1:
        raise ValueError(f"--neighbour: expected at least 1, found {args.neighbour}")
    if args.within is not None and not 0 < args.within < math.inf:
        raise ValueError(f"--within: expected a positive distance, found {args.within}")
    if args.densest is None:
        if args.within is not None:
            raise ValueError("--within: there is nothing to rank without --densest")
        if args.neighbour != NEIGHBOUR:
            raise ValueError("--neighbour: there is nothing to rank without --densest")


def even_cover(patches: Tensor, num: int) -> Tensor:
    """``num`` patches, each the farthest from those before it."""
    from topoprior.kernels.contrast import dct_coordinates
    from topoprior.topology.homology import farthest_points

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
    from topoprior.kernels.patches import read_npy

    if not path.is_file():
        raise ValueError(f"--kernels: {path} is neither 'klein' nor a file")
    array = read_npy(path, "--kernels")
    kernels = torch.from_numpy(np.asarray(array, dtype=np.float32))
    if kernels.dim() == 4 and kernels.shape[1] == 1:
        kernels = kernels.squeeze(1)
    if kernels.dim() != 3 or kernels.shape[1] != kernels.shape[2]:
        raise ValueError(f"--kernels: expected shape (N, k, k) or (N, 1, k, k), found {tuple(array.shape)}")
    if not torch.isfinite(kernels).all():
        raise ValueError("--kernels: the file contains NaN or infinite values")
    return kernels
