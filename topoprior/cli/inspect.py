"""`topoprior inspect`: what kernels look like, how near the Klein bottle they are, what their homology is."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from topoprior.cli.sources import add_patch_arguments, load_patches
from topoprior.priors.base import WeightPrior
from topoprior.priors.registry import get_prior, load_prior, prior_names
from topoprior.spaces.flat.manifold import FlatManifold
from topoprior.spaces.flat.named import Euclidean, KleinBottle
from topoprior.utils.files import check_writable

_DRAWN = 4000  # kernels of a prior to look at
_SHOWN = 6000  # dots in a picture
_WEIGHTS = (".safetensors", ".pt", ".pth", ".bin")


class Subject(NamedTuple):
    """Kernels (N, k, k); for decoder priors also their latents (N, dim), the space and the prior."""

    kernels: Tensor
    what: str
    record: dict[str, Any]
    latents: Tensor | None = None
    space: FlatManifold | None = None
    prior: Any = None


def add_parser(commands: Any) -> None:
    inspect = commands.add_parser(
        "inspect",
        help="print and draw what a prior, or a file of kernels, is; homology with --homology",
        description="Energy in the Klein subspace, distance to the Klein kernels, homology; pictures.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    inspect.add_argument(
        "prior",
        metavar="PRIOR_OR_KERNELS",
        help="name or folder of a prior; kernels or patches in .npy or .mat; a network's .safetensors or .pt; "
        "a folder of images",
    )
    inspect.add_argument("--homology", action="store_true", help="persistent homology over Z/2 and Z/3")
    inspect.add_argument("--points", type=int, default=300, help="points of the homology computation")
    inspect.add_argument(
        "--max-dim", type=int, default=2, help="highest degree of homology; 1 is much faster"
    )
    inspect.add_argument("--output", type=Path, help="folder to write pictures and report.json to")
    inspect.add_argument("--size", type=int, default=3, help="pixels a side, of images and networks")
    add_patch_arguments(inspect)
    inspect.add_argument(
        "--near-klein", type=float, metavar="DISTANCE",
        help="only kernels at most so far from the analytic Klein kernels",
    )  # fmt: skip
    inspect.add_argument("--seed", type=int, default=0)
    inspect.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    from topoprior.kernels.contrast import from_dct
    from topoprior.kernels.klein import klein_energy, klein_subspace, nearest_klein

    if args.output is not None:
        check_writable(args.output, "--output")
    if args.max_dim not in (1, 2):
        raise ValueError(f"--max-dim: expected 1 or 2, found {args.max_dim}")
    if args.points < 10:
        raise ValueError(f"--points: expected at least 10, found {args.points}")
    torch.manual_seed(args.seed)
    subject = _load(args)
    print(subject.what)
    share = _mean_share(subject.kernels)
    subject = _centered(subject)
    distance, points = nearest_klein(subject.kernels)
    if args.near_klein is not None:
        near = distance <= args.near_klein
        if near.sum() < 100:
            raise ValueError(
                f"--near-klein: expected at least 100 kernels within it, found {int(near.sum())}"
            )
        subject = subject._replace(
            kernels=subject.kernels[near],
            latents=None if subject.latents is None else subject.latents[near],
        )
        distance, points = distance[near], points[near]
    size = subject.kernels.shape[-1]
    noise = from_dct(torch.randn(2000, size**2 - 1))
    record: dict[str, Any] = {
        "what": subject.what,
        **subject.record,
        "kernels": len(subject.kernels),
        "size": size,
        "mean_energy_share": share,
        "klein_energy": klein_energy(subject.kernels).mean().item(),
        "klein_energy_pixels": klein_energy(subject.kernels, "pixels").mean().item(),
        "klein_energy_of_noise": len(klein_subspace(size)) / (size**2 - 1),
        "klein_distance": _quantiles(distance),
        "klein_distance_of_noise": _quantiles(nearest_klein(noise)[0]),
    }
    for line in _sentences(record):
        print(line)
    diagrams = _homology(subject, args, record) if args.homology else None
    if args.output is not None:
        _draw(subject, distance, points, diagrams, record, args.output)


def _load(args: argparse.Namespace) -> Subject:
    path = Path(args.prior)
    if args.prior not in prior_names():
        if path.suffix.lower() in (".npy", ".mat") or (path.is_dir() and _has_images(path)):
            patches, record = load_patches(path, args)
            kept = f", {record['densest']} densest" if "densest" in record else ""
            return Subject(
                patches, f"{record['patches']} patches{kept}, {_times(patches)}: {path.name}", record
            )
        if path.suffix.lower() in _WEIGHTS:
            from topoprior.kernels.networks import harvest_kernels

            found = harvest_kernels(path, args.size, center=False)
            what = f"{len(found.kernels)} kernels of {len(found.layers)} layers: {path.name}"
            return Subject(found.kernels, what, {"layers": found.layers, "dropped": found.dropped})
    prior = load_prior(path) if path.is_dir() and args.prior not in prior_names() else get_prior(args.prior)
    return _of_prior(prior, args.size)


def _of_prior(prior: WeightPrior, size: int) -> Subject:
    decode = getattr(prior, "decode", None)
    if decode is None:  # no latents: kernels of one input, as the prior draws them
        if not prior.serves((_DRAWN, 1, size, size)):
            raise ValueError(f"--size: {prior!r} has no {size}x{size} kernels")
        kernels = prior.sample((_DRAWN, 1, size, size))[:, 0]
        return Subject(kernels.float(), f"{prior!r}: {_DRAWN} kernels drawn", {})
    space = getattr(prior, "covering", None)
    if space is None:
        space = Euclidean(prior.dim)  # type: ignore[attr-defined]
        latents = torch.randn(_DRAWN, space.dim)
    else:
        latents = space.sample_uniform(torch.Size([_DRAWN]), torch.float32, torch.device("cpu"))
    with torch.no_grad():
        kernels = decode(latents)
    if kernels.dim() != 3 or kernels.shape[1] != kernels.shape[2]:
        raise ValueError(f"{prior!r}: expected square kernels, found {tuple(kernels.shape[1:])}")
    return Subject(kernels, repr(prior), {}, latents, space, prior)


def _centered(subject: Subject) -> Subject:
    """Kernels mean-free and of contrast 1; flat ones are left out."""
    from topoprior.kernels.contrast import contrast

    size = contrast(subject.kernels)
    kept = size > 1e-6 * size.max()
    kernels = subject.kernels[kept] / size[kept, None, None]
    kernels = kernels - kernels.mean((1, 2), keepdim=True)
    return subject._replace(
        kernels=kernels, latents=None if subject.latents is None else subject.latents[kept]
    )


def _mean_share(kernels: Tensor) -> float:
    """The share of the energy that is the kernels' means'."""
    energy = kernels.square().sum().item()
    return kernels[0].numel() * kernels.mean((1, 2)).square().sum().item() / max(energy, 1e-300)


def _homology(subject: Subject, args: argparse.Namespace, record: dict[str, Any]) -> dict[int, Any]:
    from topoprior.kernels.contrast import dct_coordinates
    from topoprior.topology.homology import betti_numbers, betti_reading, persistence

    # A prior is judged as it decodes: means away, but amplitudes as they are, in pixels' distances.
    if subject.prior is not None:
        with torch.no_grad():
            cloud = subject.prior.decode(subject.latents).flatten(1)
    else:
        cloud = dct_coordinates(subject.kernels)
    diagrams = {
        field: persistence(cloud, field=field, num_points=args.points, max_dim=args.max_dim)
        for field in (2, 3)
    }
    numbers = {field: betti_numbers(bars) for field, bars in diagrams.items()}
    for field, found in numbers.items():
        print(f"Betti numbers over Z/{field}: {found}")
    reading = betti_reading(numbers[2], numbers[3])
    print(f"these are {reading}; numbers rule spaces out, they do not prove one")
    bars = {
        field: [sorted(((float(b), float(d)) for b, d in part if math.isfinite(d)), key=lambda p: p[0] - p[1])[:8]
                for part in found]
        for field, found in diagrams.items()
    }  # fmt: skip
    record["homology"] = {
        "points": args.points,
        "betti": {f"Z/{field}": found for field, found in numbers.items()},
        "reading": reading,
        "longest_bars": {f"Z/{field}": parts for field, parts in bars.items()},
    }
    return diagrams


def _sentences(record: dict[str, Any]) -> list[str]:
    near, noise = record["klein_distance"], record["klein_distance_of_noise"]
    return [
        f"energy of the means: {record['mean_energy_share']:.1%}; what follows is without them",
        f"energy in the Klein subspace: {record['klein_energy']:.1%} in the metric of contrast, "
        f"{record['klein_energy_pixels']:.1%} of pixels (noise: {record['klein_energy_of_noise']:.1%})",
        f"distance to the nearest Klein kernel, norms 1: median {near['median']:.3f}, a tenth below "
        f"{near['10%']:.3f}, a tenth above {near['90%']:.3f} (noise: median {noise['median']:.3f})",
    ]


def _quantiles(x: Tensor) -> dict[str, float]:
    values = torch.quantile(x.double()[:1_000_000], torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64))
    return dict(zip(("10%", "median", "90%"), values.tolist(), strict=True))


def _draw(
    subject: Subject, distance: Tensor, points: Tensor, diagrams: dict[int, Any] | None,
    record: dict[str, Any], folder: Path,
) -> None:  # fmt: skip
    from topoprior import plots
    from topoprior.utils.files import write_atomically

    folder.mkdir(parents=True, exist_ok=True)
    theta1, theta2 = points[:, 0] * math.pi, points[:, 1] * 2 * math.pi
    panels = {
        r"orientation $\theta_1$ of the nearest Klein kernel": theta1.remainder(math.pi),
        r"ridge ($\pm$1) or edge (0): $\cos\theta_2$": theta2.cos(),
        "distance to it": distance,
    }
    cyclic = list(panels)[:1]
    if subject.prior is not None and subject.space is not None:
        grid = plots.kernel_grid(
            subject.prior.decode, subject.space, title=f"kernels over {subject.space!r}"
        )
        where, space = subject.latents, subject.space
        title = "latents of the prior"
    else:
        grid = plots.kernel_map(subject.kernels, points, title="means of the kernels nearest to each point")
        where, space = points, KleinBottle()
        title = "the nearest points of the Klein bottle"
    assert where is not None
    plots.save(grid, folder / "kernels.png")
    chosen = torch.randperm(len(where))[:_SHOWN]
    shown = {name: values[chosen] for name, values in panels.items()}
    plots.save(
        plots.latent_scatter(where[chosen], shown, space, cyclic=cyclic, title=title),
        folder / "latents.png",
    )
    names = ["kernels.png", "latents.png"]
    if diagrams is not None:
        betti = record["homology"]["betti"]
        titles = {field: f"over Z/{field}: Betti numbers {betti[f'Z/{field}']}" for field in diagrams}
        plots.save(plots.persistence_picture(diagrams, titles=titles), folder / "persistence.png")
        names.append("persistence.png")
    write_atomically(folder / "report.json", (json.dumps(record, indent=2) + "\n").encode())
    print(f"{folder}: {', '.join([*names, 'report.json'])}")


def _has_images(folder: Path) -> bool:
    from topoprior.kernels.patches import IMAGE_SUFFIXES

    if (folder / "config.json").exists() or (folder / "model.safetensors").exists():
        return False
    return any(p.suffix.lower() in IMAGE_SUFFIXES for p in folder.rglob("*"))


def _times(kernels: Tensor) -> str:
    return "x".join(map(str, kernels.shape[1:]))
