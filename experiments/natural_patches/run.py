"""What natural 3x3 patches look like: the reading of Carlsson et al. (2008), and the priors that come nearest.

    python -m experiments.natural_patches.run --patches natural-patches-3x3-dct.mat

Describes the patches under five filters, as `topoprior inspect` does, and asks how near the kernels of three shipped priors
come to the densest 30%. Writes report.md, results.json and the pictures of every filter. A core and a minute and a half.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

import topoprior as tp
from experiments.common.document import markdown_table
from experiments.common.options import Parser, check_writable, whole, write_config
from experiments.common.store import write_json
from topoprior.kernels.contrast import dct_coordinates
from topoprior.kernels.describe import describe_homology, describe_kernels, kernel_homology, unit_kernels
from topoprior.kernels.klein import nearest_klein
from topoprior.kernels.patches import densest, read_patches
from topoprior.utils.files import write_atomically


class Filter(NamedTuple):
    """Which patches to look at, and the highest degree of homology to compute of them; 0: none."""

    neighbour: int | None = None
    densest: float | None = None
    near_klein: float | None = None
    max_dim: int = 0

    def __str__(self) -> str:
        """The options of `topoprior inspect` that say the same."""
        given = {
            "--neighbour": self.neighbour,
            "--densest": self.densest,
            "--near-klein": self.near_klein,
        }
        return " ".join(f"{name} {value}" for name, value in given.items() if value is not None)

    def __call__(self, patches: Tensor) -> Tensor:
        if self.neighbour is not None and self.densest is not None:
            patches = patches[densest(dct_coordinates(patches), self.neighbour, self.densest)]
        if self.near_klein is not None:
            patches = patches[nearest_klein(patches)[0] <= self.near_klein]
        return patches


FILTERS = {
    "all": Filter(),
    "primary-circle": Filter(300, 0.1, max_dim=1),
    "three-circles": Filter(15, 0.1, max_dim=1),
    "densest-30": Filter(15, 0.3, max_dim=1),
    "near-klein": Filter(near_klein=0.25, max_dim=2),
}
PRIORS = ("klein-natural-3x3", "klein-3x3", "torus-3x3")
_SHOWN = "near-klein"  # the filter whose picture comes first
_OF_SHOWN = "Patches within .25 of the Klein bottle, at their nearest points."
_NEIGHBOUR, _FRACTION, _NEAREST = 15, 0.3, 1500


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--patches", type=Path, required=True, help=".mat or .npy, as of `topoprior inspect`")
    add("--points", type=whole, default=300, help="of the homology computation")
    parser.add_usual("results/natural-patches", log=False)
    args = parser.parse_args(argv)
    began = time.process_time()
    try:
        check_writable(args.output)
        patches = read_patches(args.patches)
        write_config(args, patches=args.patches.name)
    except (ValueError, ImportError, OSError) as error:
        parser.error(str(error))
    readings = {}
    for name, chosen in FILTERS.items():
        torch.manual_seed(args.seed)
        readings[name] = reading(chosen(patches), chosen.max_dim, args.points, args.output / name)
    results = {
        "file": args.patches.name,
        "seed": args.seed,
        "points": args.points,
        "torch": torch.__version__,
        "filters": readings,
        "left over": nearest_kernels(patches, args.seed),
        "seconds": time.process_time() - began,
    }
    write_json(args.output / "results.json", results)
    text = report(results, args.output)
    write_atomically(args.output / "report.md", text.encode())
    print(text)
    return 0


def reading(patches: Tensor, max_dim: int, points: int, folder: Path) -> dict[str, Any]:
    """What the patches look like, in numbers, and pictures of it in ``folder``."""
    record, diagrams = describe_kernels(patches), None
    units = unit_kernels(patches)[0]
    if max_dim:
        diagrams = kernel_homology(dct_coordinates(units), points=points, max_dim=max_dim)
        record["homology"] = describe_homology(diagrams, points)
    tp.plots.draw_kernels(folder, units, diagrams=diagrams)
    return record


def nearest_kernels(patches: Tensor, seed: int) -> dict[str, float]:
    """What the nearest kernels of every prior leave over, |w - best| / |w|, of some of the densest patches."""
    chosen = patches[densest(dct_coordinates(patches), _NEIGHBOUR, _FRACTION)]
    rows = torch.randperm(len(chosen), generator=torch.Generator().manual_seed(seed))[:_NEAREST]
    kernels = chosen[rows].double()
    kernels = (kernels / kernels.flatten(1).norm(dim=1)[:, None, None]).unsqueeze(1)
    return {
        name: tp.get_prior(name).posterior(kernels.shape, dtype=torch.float64).project_(kernels).item()
        for name in PRIORS
    }


def report(results: Mapping[str, Any], folder: Path) -> str:
    """report.md: a row a filter, the nearest kernels, the pictures that are there."""
    lines = ["# Natural 3x3 patches", ""]
    if (folder / _SHOWN / "latents.png").exists():
        lines += [f"![{_SHOWN}, latents]({_SHOWN}/latents.png)", "", _OF_SHOWN, ""]
    head = ["options", "patches", "energy in the subspace", "distance, median", "of noise"]
    rows = [[*head, "Betti numbers Z/2", "Z/3", "reading"]]
    for name, found in results["filters"].items():
        shown = str(FILTERS[name])
        homology = found.get("homology")
        betti = [str(tuple(homology["betti"][f])) for f in ("Z/2", "Z/3")] if homology else ["", ""]
        row = [
            f"`{shown}`" if shown else "none",
            f"{found['kernels']:,}",
            f"{found['klein_energy']:.1%}",
            f"{found['klein_distance']['median']:.3f}",
            f"{found['klein_distance_of_noise']['median']:.3f}",
            *betti,
            homology["reading"] if homology else "",
        ]
        rows.append(row)
    lines += [
        *markdown_table(rows),
        "",
        f"{results['file']}: every row is `topoprior inspect FILE` with the options given, seed {results['seed']}, "
        f"{results['points']} points for homology. Energy: in the span of the analytic Klein kernels, in the metric of "
        "contrast. Distance: to the nearest analytic Klein kernel, norms 1.",
        "",
        "Betti numbers rule spaces out, they do not prove one. The last filter uses the model: it shows that patches "
        "fill the Klein bottle everywhere, not that they lie on nothing else.",
        "",
        "## Which prior comes nearest",
        "",
        f"What the nearest kernels leave over, |w - best| / |w|, of {_NEAREST:,} patches drawn from the densest "
        f"{_FRACTION:.0%} (neighbour {_NEIGHBOUR}); klein-natural-3x3 was trained on some of them.",
        "",
        *markdown_table(
            [
                ("prior", "left over"),
                *((name, f"{value:.1%}") for name, value in results["left over"].items()),
            ]
        ),
    ]
    for name in results["filters"]:
        pictures = [
            p for p in ("kernels.png", "latents.png", "persistence.png") if (folder / name / p).exists()
        ]
        listed = [line for p in pictures for line in (f"![{name}, {p[:-4]}]({name}/{p})", "")]
        lines += ["", "<details>", f"<summary>{name}</summary>", "", *listed, "</details>"]
    lines += [
        "",
        f"Processor time {results['seconds'] / 60:.1f} minutes, torch {results['torch']}. Command: "
        "`python -m experiments.natural_patches.run --patches FILE`.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
