"""How often a warm start finds the right class: seeds of every data set, on its own space and on wrong ones.

    python -m experiments.klein_circles.certificates kernels --seeds 50 --output OUTPUT
    python -m experiments.klein_circles.certificates moebius torus klein projective rotations --seeds 50 --output OUTPUT
    python -m experiments.klein_circles.certificates wrong --seeds 20 --output OUTPUT
    python -m experiments.klein_circles.certificates --output OUTPUT

A file a seed in OUTPUT/runs; what is there is not run again, and always report.md and runs.csv say all of it (from runs.csv where the
files are gone). "kernels" are
1,000 analytic Klein kernels, the other sets 1,500 images of run.py. Whether the class is right is read off the true
points, which the search does not see: the map of their neighbours and triangles must be certified too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor

import topoprior as tp
from experiments.common.document import Document
from experiments.common.options import Parser, check_known, check_writable, whole, write_config
from experiments.common.palette import colour
from experiments.common.pictures import png
from experiments.common.store import Store, digest, tensor_bytes
from experiments.common.tables import frame, write_csv
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
    args = parser.parse_args(argv)
    with parser.ending(args.output) as ending:
        check_known(args.sets, [*SETS, *IMAGE_SETS, "wrong"], "sets:")
        check_writable(args.output)
        write_config(args)
        store = Store(args.output / "runs")
        pairs: dict[str, tuple[str, tp.Covering | None]] = {}
        for name in args.sets:
            pairs.update(WRONG if name == "wrong" else {name: (name, None)})
        for seed in range(args.seed, args.seed + args.seeds):
            for label, (name, space) in pairs.items():
                data = make(name, seed)
                config = {"set": label, "seed": seed, "processor": torch.backends.cpu.get_cpu_capability()}
                config["data"] = digest(tensor_bytes(data[0]))
                if store.get(config) is None:
                    store.put(config, {"measures": one(data, space)})
        if runs := list(store):
            table = (
                frame(runs).drop(columns="data").assign(torch=[run.versions.get("torch") for run in runs])
            )
            write_csv(args.output / "runs.csv", table)
        if (args.output / "runs.csv").is_file():
            report(pd.read_csv(args.output / "runs.csv")).write(args.output)
    return ending.status


def one(data: Data, space: tp.Covering | None = None) -> dict[str, Any]:
    """One warm start, on the data's own space if no other is given."""
    x, truth, own = data
    space = own if space is None else space
    began = time.process_time()
    start = warm_start(x, space, landmarks=len(x))
    seconds = time.process_time() - began
    found: dict[str, Any] = {**start.fit.numbers, "cost": start.fit.cost, "seconds": seconds}
    if space == own:  # the witness: neighbours among the true points
        points = _at_the_scale_of_latents(truth[start.rows].double(), own)
        witness = certify(own.embed(points), start.latents, own)
        found["right"] = witness.certified
        found["witness"] = "; ".join(witness.objections)
    return found


def make(name: str, seed: int) -> Data:
    """Seeds torch's global random state, from which the search goes on."""
    torch.manual_seed(seed)
    if name in SETS:
        return SETS[name](seed)
    images = image_set(name)
    points = images.sample_points(1500, torch.Generator().manual_seed(seed))
    return images.render(points), points, images.space


def _at_the_scale_of_latents(points: Tensor, space: tp.Covering) -> Tensor:
    """Unit variance along open directions, where data have no scale that a search could see."""
    if not isinstance(space, tp.FlatManifold) or space.rank == space.dim:
        return points
    across = points @ space.across_basis
    return points + across * (1 / across.std(0) - 1) @ space.across_basis.T


def picture(table: pd.DataFrame) -> bytes:
    """A dot a seed: how many triangles its fit tears, and what it costs; the wrong spaces below."""
    from matplotlib.figure import Figure

    names = sorted(table["set"].unique(), key=lambda name: (name in WRONG, name))
    figure = Figure(figsize=(8.3, 0.3 * len(names) + 0.8), layout="constrained")
    torn, cost = figure.subplots(1, 2, sharey=True)
    for row, name in enumerate(names):
        some = table[table["set"] == name]
        shade = colour("torus" if name in WRONG else "gaussian")
        height = -row + 0.5 * (torch.linspace(0, 1, len(some)) - 0.5).numpy()  # seeds one above the other
        for axis, value in ((cost, some["cost"]), (torn, some["defects"])):
            axis.plot(value, height, ".", markersize=4, color=shade)
    cost.axvline(0.1, color="0.55", linewidth=1, zorder=0)
    cost.set(xscale="log", xlabel="cost of the fit, below .1 where certified")
    cost.set_xticks([0.02, 0.05, 0.1, 0.2], [".02", ".05", ".1", ".2"])
    torn.set(xscale="symlog", xlim=(-0.5, None), xlabel="torn triangles, none where certified")
    torn.set_xticks([0, 1, 10, 100], ["0", "1", "10", "100"])
    torn.set_yticks([-row for row in range(len(names))], names)
    for axis in (torn, cost):
        axis.minorticks_off()
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.tick_params(axis="y", length=0)
    return png(figure)


def report(table: pd.DataFrame) -> Document:
    """The picture, a row a set and processor, then runs not certified on their own space, or certified on another."""
    page = Document("Certified warm starts")
    page.picture(
        "seeds.png",
        picture(table),
        "A dot a seed; blue: on the right space, pink: on a wrong one. What a fit costs does not tell the two apart, torn triangles do; the "
        "pink dot without any is refused for its folds.",
    )
    page.text(
        "Certified: no torn triangle, all loops, not folded, at a cost below .1. Right: by the true points. Folded: share of the "
        "neighbours on the space that are far apart in the data, over fits without torn triangles whose loops reach all of "
        "the space's. Processor: the instructions that torch uses. Processor time of the search in seconds, one thread, torch "
        f"{', '.join(sorted(table['torch'].dropna().astype(str).unique()))}."
    )
    head = ("set", "processor", "seeds", "certified", "right", "folded", "seconds, median", "longest")
    rows: list[Sequence[object]] = [head]
    for (name, processor), some in table.groupby(["set", "processor"], sort=False):
        whole_maps = some[(some["defects"] == 0) & some["onto"].astype(bool)]["folded"]
        right = some["right"].dropna() if "right" in some else []
        rows.append(
            (
                name,
                processor,
                len(some),
                int(some["certified"].sum()),
                int(sum(right)) if len(right) else "",
                f"{whole_maps.min():.4f} to {whole_maps.max():.4f}" if len(whole_maps) else "",
                f"{some['seconds'].median():.1f}",
                f"{some['seconds'].max():.1f}",
            )
        )
    page.table(rows)
    wrong = table["set"].isin(WRONG)
    page.heading("Wrong spaces that are certified, and right ones that are not")
    bad = table[wrong == table["certified"].astype(bool)]
    listed = [(r["set"], r["seed"], f"{r['cost']:.3f}", r["objections"]) for _, r in bad.iterrows()]
    if listed:
        page.table([("set", "seed", "cost", "objections"), *listed])
    else:
        page.text("None.")
    return page


if __name__ == "__main__":
    raise SystemExit(main())
