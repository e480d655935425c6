"""`topoprior inspect`: what kernels look like, how near the Klein bottle they are, what their homology is."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from topoprior import plots
from topoprior.cli.options import add_common, at_least, positive, say
from topoprior.cli.sources import PATCH_OPTIONS, add_patch_arguments, load_patches
from topoprior.kernels.contrast import dct_coordinates
from topoprior.kernels.describe import describe_homology, describe_kernels, kernel_homology, unit_kernels
from topoprior.kernels.klein import nearest_klein
from topoprior.kernels.networks import SUFFIXES, harvest_kernels
from topoprior.priors.base import WeightPrior
from topoprior.priors.registry import get_prior, load_prior, prior_names
from topoprior.spaces.flat.manifold import FlatManifold
from topoprior.utils.files import CONFIG, MODEL, check_writable, write_atomically

_DRAWN = 4000  # kernels of a prior to look at
_LEAST = 100  # kernels near the Klein bottle
_SIZE = 3


class Subject(NamedTuple):
    """Kernels (N, k, k); for decoder priors also their latents (N, dim), the space and the prior."""

    kernels: Tensor
    what: str
    record: dict[str, Any]
    latents: Tensor | None = None
    space: FlatManifold | None = None
    prior: Any = None

    def of(self, kernels: Tensor, kept: Tensor) -> Subject:
        """Those ``kept``, as ``kernels``."""
        return self._replace(kernels=kernels, latents=None if self.latents is None else self.latents[kept])


def add_parser(commands: Any) -> None:
    inspect = commands.add_parser(
        "inspect",
        help="print and draw what a prior, or a file of kernels, is; homology with --homology",
        description="Energy in the Klein subspace, distance to the Klein kernels, homology; pictures.",
    )
    inspect.add_argument(
        "prior",
        metavar="PRIOR_OR_KERNELS",
        help="name or folder of a prior; kernels or patches in .npy or .mat; a network's .safetensors or .pt; "
        "a folder of images",
    )
    homology = inspect.add_argument_group("homology")
    homology.add_argument("--homology", action="store_true", help="persistent homology over Z/2 and Z/3")
    homology.add_argument("--points", type=at_least(10), default=300, help="kernels that it is computed of")
    homology.add_argument(
        "--max-dim", type=int, choices=(1, 2), default=2, help="highest degree; 1 is much faster"
    )
    which = inspect.add_argument_group("which kernels")
    which.add_argument(
        "--size", type=at_least(2), help="pixels a side, of images, networks and drawn weights; default 3"
    )
    which.add_argument(
        "--near-klein", type=positive, metavar="DISTANCE",
        help="only those at most so far from the analytic Klein kernels; default all",
    )  # fmt: skip
    add_patch_arguments(inspect.add_argument_group("patches"))
    inspect.add_argument_group("output").add_argument(
        "--output", type=Path, help="folder to write pictures and report.json to; default none"
    )
    add_common(inspect)
    inspect.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    if args.output is not None:
        check_writable(args.output, "--output")
    torch.manual_seed(args.seed)
    subject = _load(args)
    say(args, subject.what)
    if args.near_klein is not None:
        subject = _near(subject, args.near_klein)
    record = {"what": subject.what, **subject.record, **describe_kernels(subject.kernels, seed=args.seed)}
    say(args, _sentences(record))
    subject = subject.of(*unit_kernels(subject.kernels))
    diagrams = None
    if args.homology:
        # A prior is judged as it decodes: means away, but amplitudes as they are, in pixels' distances.
        with torch.no_grad():
            cloud = (
                dct_coordinates(subject.kernels)
                if subject.prior is None
                else subject.prior.decode(subject.latents).flatten(1)
            )
        diagrams = kernel_homology(cloud, points=args.points, max_dim=args.max_dim)
        record["homology"] = describe_homology(diagrams, args.points)
        for field, numbers in record["homology"]["betti"].items():
            say(args, f"Betti numbers over {field}: {tuple(numbers)}")
        reading = record["homology"]["reading"]
        say(args, f"these are {reading}; numbers rule spaces out, they do not prove one")
    if args.output is not None:
        decode = None if subject.prior is None else subject.prior.decode
        pictures = plots.draw_kernels(
            args.output,
            subject.kernels,
            latents=subject.latents,
            space=subject.space,
            decode=decode,
            diagrams=diagrams,
        )
        write_atomically(args.output / "report.json", (json.dumps(record, indent=2) + "\n").encode())
        say(args, f"{args.output}: {', '.join([*pictures, 'report.json'])}")


def _load(args: argparse.Namespace) -> Subject:
    path, known = Path(args.prior), args.prior in prior_names()
    kind = path.suffix.lower()
    saved = path.is_dir() and any((path / name).exists() for name in (CONFIG, MODEL))
    if not known and (kind in (".npy", ".mat") or (path.is_dir() and not saved)):
        patches, record = load_patches(path, args)
        kept = f", {record['densest']} densest" if "densest" in record else ""
        times = "x".join(map(str, patches.shape[1:]))
        return Subject(patches, f"{record['patches']} patches{kept}, {times}: {path.name}", record)
    for name in PATCH_OPTIONS:
        if getattr(args, name) is not None:
            raise ValueError(f"--{name}: is for patches, of .npy, .mat or a folder of images")
    if not known and kind in SUFFIXES:
        found = harvest_kernels(path, args.size or _SIZE, center=False)
        what = f"{len(found.kernels)} kernels of {len(found.layers)} layers: {path.name}"
        return Subject(found.kernels, what, {"layers": found.layers, "dropped": found.dropped})
    return _of_prior(load_prior(path) if saved and not known else get_prior(args.prior), args.size)


def _of_prior(prior: WeightPrior, size: int | None) -> Subject:
    decode = getattr(prior, "decode", None)
    if decode is None:  # no latents: kernels of one input, as the prior draws them
        shape = (_DRAWN, 1, size or _SIZE, size or _SIZE)
        if not prior.serves(shape):
            raise ValueError(f"--size: {prior!r} has no {shape[2]}x{shape[3]} kernels")
        return Subject(prior.sample(shape)[:, 0].float(), f"{prior!r}: {_DRAWN} kernels drawn", {})
    space = prior.covering  # type: ignore[attr-defined]
    if space.rank:
        latents = space.sample_uniform(torch.Size([_DRAWN]), torch.float32, torch.device("cpu"))
    else:
        latents = torch.randn(_DRAWN, space.dim)
    with torch.no_grad():
        kernels = decode(latents)
    found = tuple(kernels.shape[1:])
    if len(found) != 2 or found[0] != found[1]:
        raise ValueError(f"{prior!r}: expected square kernels, found {found}")
    if size is not None and size != found[0]:
        raise ValueError(f"--size: {prior!r} decodes {found[0]}x{found[0]} kernels, found {size}")
    return Subject(kernels, repr(prior), {}, latents, space, prior)


def _near(subject: Subject, most: float) -> Subject:
    """Those at most so far from the analytic Klein kernels."""
    units, kept = unit_kernels(subject.kernels)
    near = nearest_klein(units)[0] <= most
    if near.sum() < _LEAST:
        raise ValueError(
            f"--near-klein: expected at least {_LEAST} kernels within it, found {int(near.sum())}"
        )
    chosen = kept.nonzero()[:, 0][near]
    return subject.of(subject.kernels[chosen], chosen)


def _sentences(record: dict[str, Any]) -> list[str]:
    near, noise = record["klein_distance"], record["klein_distance_of_noise"]
    return [
        f"energy of the means: {record['mean_energy_share']:.1%}; what follows is without them",
        f"energy in the Klein subspace: {record['klein_energy']:.1%} in the metric of contrast, "
        f"{record['klein_energy_pixels']:.1%} of pixels (noise: {record['klein_energy_of_noise']:.1%})",
        f"distance to the nearest Klein kernel, norms 1: median {near['median']:.3f}, a tenth below "
        f"{near['10%']:.3f}, a tenth above {near['90%']:.3f} (noise: median {noise['median']:.3f})",
    ]
