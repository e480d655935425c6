"""How often a warm start finds the right class: seeds of every data set, on its own space and on wrong ones.

    python -m experiments.klein_circles.certificates kernels --seeds 50 --output OUTPUT
    python -m experiments.klein_circles.certificates moebius torus klein projective rotations --seeds 50 --output OUTPUT
    python -m experiments.klein_circles.certificates wrong --seeds 20 --output OUTPUT
    python -m experiments.klein_circles.certificates --report --output OUTPUT

A line of JSON a seed in OUTPUT/SET.jsonl; seeds that are there are not run again. "kernels" are 1,000 analytic Klein
kernels, the other sets 1,500 sets of run.py. Whether the class is right is read off the true points, which the
search does not see: their neighbours and triangles must be certified too.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import topoprior as tp
from experiments.common.document import markdown_table
from experiments.common.options import Parser, check_known, check_writable, whole, write_config
from experiments.klein_circles.images import SETS as IMAGE_SETS
from experiments.klein_circles.images import image_set
from topoprior.kernels.klein import sample_klein_kernels
from topoprior.topology.certificate import certify
from topoprior.topology.warm import warm_start

Data = tuple[Tensor, Tensor, tp.Covering]  # data, true points, their space


def _kernels(seed: int) -> Data:
    return *sample_klein_kernels(1000), tp.KleinBottle()


def _points(space: tp.Covering, num: int = 1000) -> Callable[[int], Data]:
    """Uniform points in the features of their space."""

    def make(seed: int) -> Data:
        z = space.sample_uniform(torch.Size([num]), torch.float32, torch.device("cpu"))
        return space.embed(z), z, space

    return make


SETS: dict[str, Callable[[int], Data]] = {
    "kernels": _kernels,
    "rotation-matrices": _points(tp.RotationGroup(), 1500),
    "torus-points": _points(tp.Torus(2)),
    "klein-points": _points(tp.KleinBottle()),
    "projective-points": _points(tp.RealProjectiveSpace(2)),
    "3-torus-points": _points(tp.Torus(3), 1500),
    "half-turn-points": _points(tp.HalfTurnManifold(), 1500),
}
# Data of one space offered another.
WRONG: dict[str, tuple[str, tp.Covering]] = {
    "Klein bottle as torus": ("klein-points", tp.Torus(2)),
    "torus as Klein bottle": ("torus-points", tp.KleinBottle()),
    "Klein kernels as torus": ("kernels", tp.Torus(2)),
    "Klein kernels as RP2": ("kernels", tp.RealProjectiveSpace(2)),
    "RP2 as Klein bottle": ("projective-points", tp.KleinBottle()),
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(__doc__)
    parser.add_argument("sets", nargs="*", help=f"of {', '.join([*SETS, 'sets of run.py', 'wrong'])}")
    parser.add_argument("--seeds", type=whole, default=50, help="how many")
    parser.add_usual("results/certificates")
    parser.add_argument("--report", action="store_true", help="print the table of what is there")
    args = parser.parse_args(argv)
    with parser.ending(args.output) as ending:
        check_known(args.sets, [*SETS, *IMAGE_SETS, "wrong"], "sets:")
        check_writable(args.output)
        write_config(args)
        pairs: dict[str, tuple[str, tp.Covering | None]] = {}
        for name in args.sets:
            pairs.update(WRONG if name == "wrong" else {name: (name, None)})
        for seed in range(args.seed, args.seed + args.seeds):
            for label, (data, space) in pairs.items():
                path = args.output / f"{label.replace(' ', '-')}.jsonl"
                if seed not in {run["seed"] for run in _read(path)}:
                    _append(path, {"set": label, "seed": seed, **one(data, seed, space)})
        if args.report:
            print(report(args.output))
    return ending.status


def one(data: str, seed: int, space: tp.Covering | None = None) -> dict[str, Any]:
    """One warm start, on the data's own space if no other is given."""
    torch.manual_seed(seed)
    x, truth, own = make(data, seed)
    space = own if space is None else space
    began = time.process_time()
    start = warm_start(x, space, landmarks=len(x))
    seconds = time.process_time() - began
    found: dict[str, Any] = {**start.fit.numbers, "cost": start.fit.cost, "seconds": seconds}
    if space == own:  # the witness: neighbours among the true points
        points = _at_the_scale_of_latents(truth[start.rows].double(), own)
        witness = certify(own.embed(points), start.latents, own)
        found["right"] = witness.certified
        found["witness"] = witness.objections
    return {**found, "torch": torch.__version__, "isa": torch.backends.cpu.get_cpu_capability()}


def make(name: str, seed: int) -> Data:
    if name in SETS:
        return SETS[name](seed)
    images = image_set(name)
    points = images.sample_points(1500, torch.Generator().manual_seed(seed))
    return images.render(points), points, images.space


def _at_the_scale_of_latents(points: Tensor, space: tp.Covering) -> Tensor:
    """Unit variance along open directions, where data have no scale that a search could see."""
    if not isinstance(space, tp.FlatManifold):
        return points
    across = points @ space.across_basis
    return points + across * (1 / across.std(0) - 1) @ space.across_basis.T


def report(folder: Path) -> str:
    rows: list[Sequence[object]] = [("set", "seeds", "certified", "right", "median seconds", "longest")]
    for path in sorted(folder.glob("*.jsonl")):
        runs = _read(path)
        seconds = [run["seconds"] for run in runs]
        right = [run["right"] for run in runs if "right" in run]
        rows.append(
            (
                path.stem,
                len(runs),
                f"{sum(run['certified'] for run in runs)}",
                f"{sum(right)}" if right else "",
                f"{statistics.median(seconds):.1f}",
                f"{max(seconds):.1f}",
            )
        )
    return "\n".join(markdown_table(rows))


def _read(path: Path) -> list[dict[str, Any]]:
    """All runs; a line that a kill cut short is none."""
    if not path.exists():
        return []
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            found.append(json.loads(line))
    return found


def _append(path: Path, run: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(("\n" if _cut_short(path) else "") + json.dumps(run) + "\n")


def _cut_short(path: Path) -> bool:
    return path.stat().st_size > 0 and not path.read_bytes().endswith(b"\n")


if __name__ == "__main__":
    raise SystemExit(main())
