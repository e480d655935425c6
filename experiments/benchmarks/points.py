"""What do points in whitened coordinates cost beside plain weights, in training and in a chain?

    python -m experiments.benchmarks.points --output results/points
    python -m experiments.benchmarks.points --only chain --size 14 --widths 16,32

Variants take turns in one process, a thread; processor time, so that others on the machine count little. Medians.
Training: conv3x3 64 - pool - 128 - pool - 256 - average pool - linear on 32x32x3, batch 64, cross entropy + -log p, Adam. Chain:
convolutions 16-32-64 on 100 images of 28x28 (--size, --widths), channels last, all of it Bayesian; the plain gradient has the same Gaussian prior term. Writes points.json
and points.md.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

import topoprior as tp
from experiments.common.document import markdown_table
from experiments.common.options import Parser, check_writable, whole, wholes, write_config
from experiments.common.store import versions, write_json
from topoprior.inference.hmc import Point, noise
from topoprior.inference.potential import NetworkPotential, categorical
from topoprior.inference.tuning import Tuning
from topoprior.utils.files import write_atomically

PLAIN = "plain weights"
PRIORS = ("klein-3x3", "gaussian")
PARTS = ("chain", "float32", "bfloat16")
_NUM_DATA = 50_000

Runs = dict[str, Callable[[], object]]


def medians(runs: Runs, repeats: int) -> dict[str, float]:
    """Milliseconds of processor time of every run, taken in turns, each round from another one on; two rounds before."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    names = list(runs)
    for i in range(repeats + 2):
        first = i % len(names)
        for name in names[first:] + names[:first]:
            began = time.process_time()
            runs[name]()
            times[name].append(1e3 * (time.process_time() - began))
    return {name: statistics.median(t[2:]) for name, t in times.items()}


def training(repeats: int, half: bool, batch: int = 64) -> dict[str, float]:
    """A whole step; ``half``: under autocast to bfloat16, channels last."""
    layout = torch.channels_last if half else torch.contiguous_format
    x = torch.randn(batch, 3, 32, 32).contiguous(memory_format=layout)
    y = torch.randint(10, (batch,))

    def step(prior: str) -> Callable[[], object]:
        sizes = ((3, 64), (64, 128), (128, 256))
        convs: list[nn.Module] = [
            nn.Conv2d(i, o, 3, padding=1)
            if prior == PLAIN
            else tp.BayesConv2d(i, o, 3, padding=1, prior=prior, posterior="delta")
            for i, o in sizes
        ]
        net = nn.Sequential(
            convs[0], nn.ReLU(), nn.MaxPool2d(2), convs[1], nn.ReLU(), nn.MaxPool2d(2), convs[2], nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 10),
        )  # fmt: skip
        net = net.to(memory_format=layout)
        optimizer = torch.optim.Adam(net.parameters(), 1e-3)

        def run() -> None:
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                output = net(x)
            nll = F.cross_entropy(output.float(), y)
            (nll if prior == PLAIN else nll + tp.kl_divergence(net) / _NUM_DATA).backward()
            optimizer.step()

        return run

    return medians({name: step(name) for name in (PLAIN, *PRIORS)}, repeats)


def chain(repeats: int, size: int, widths: Sequence[int], examples: int = 100) -> dict[str, float]:
    """A gradient of the energy; and, as "step of ...", a whole step of BAOAB. Images of ``size`` pixels a side."""
    # Strides that say channels last, which one channel leaves open: pooling is much faster, for plain weights too.
    x = torch.empty_strided((examples, 1, size, size), (size**2, 1, size, 1)).normal_()
    y = torch.randint(10, (examples,))
    runs: Runs = {}
    for prior in PRIORS:
        layers: list[nn.Module] = []
        for i, o in pairwise([1, *widths]):
            conv = tp.BayesConv2d(i, o, 3, padding=1, prior=prior, posterior="delta")
            layers += [conv, nn.MaxPool2d(2), nn.LeakyReLU(0.1)]
        features = widths[-1] * (size >> len(widths)) ** 2
        net = nn.Sequential(*layers, nn.Flatten(), tp.BayesLinear(features, 10, posterior="delta"))
        net.requires_grad_(False)
        potential = NetworkPotential(net, (x, y), categorical)
        q = potential.space.flatten({name: p.detach() for name, p in net.named_parameters()})
        sampler, tuning = tp.inference.BAOAB(), Tuning(potential.space, 0, 1e-4, q)
        generator = torch.Generator().manual_seed(0)
        v = potential.space.tangent(q, noise(generator, q) / tuning.mass.sqrt())
        point = Point(q, *potential(q))
        runs[prior] = lambda potential=potential, q=q: potential(q)  # type: ignore[misc]
        runs[f"step of {prior}"] = lambda a=(potential, tuning, point, v, generator), s=sampler: s.step(*a)  # type: ignore[misc]
    plain = tp.to_deterministic(net).requires_grad_(True)
    weights = list(plain.parameters())

    def gradient() -> None:
        energy = F.cross_entropy(plain(x), y, reduction="sum") + 0.5 * sum(
            w.square().sum() for w in weights
        )
        torch.autograd.grad(energy, weights)

    return medians({PLAIN: gradient, **runs}, repeats)


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser()
    args = parser.parse_args(argv)
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)
    try:
        if args.size >> len(args.widths) < 1:
            raise ValueError(
                f"--size {args.size}: {len(args.widths)} convolutions halve it, so give at least {2 ** len(args.widths)}"
            )
        check_writable(args.output)
        write_config(args)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    parts = {
        "chain": ("gradient of a chain", lambda: chain(4 * args.repeats, args.size, args.widths)),
        "float32": ("training step, float32", lambda: training(args.repeats, False)),
        "bfloat16": (
            "training step, bfloat16 autocast, channels last",
            lambda: training(args.repeats, True),
        ),
    }
    rows, found = [["processor time", "milliseconds", "beside plain weights"]], {}
    for words, part in (parts[name] for name in args.only):
        times = found[words] = part()
        rows += [
            [f"{words}: {name}", f"{ms:.1f}", f"{ms / times[PLAIN]:.3f}"] for name, ms in times.items()
        ]
        rows += [
            [f"5,000 {name}", f"{5000 * ms:.0f}", ""]
            for name, ms in times.items()
            if name.startswith("step of")
        ]
        text = "\n".join(markdown_table(rows)) + "\n"
        try:  # after each part: an interrupted run has shown something
            write_json(
                args.output / "points.json",
                {"repeats": args.repeats, "milliseconds": found, "versions": versions()},
            )
            write_atomically(args.output / "points.md", text.encode())
        except OSError as error:
            parser.error(f"--output {args.output}: {error}")
    print(text)
    return 0


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(__doc__)
    parser.add_argument(
        "--repeats", type=whole, default=15, help="of a training step; four times as many of a gradient"
    )
    parser.add_argument("--size", type=whole, default=28, help="pixels a side, of a chain's images")
    parser.add_argument(
        "--widths",
        type=wholes,
        default="16,32,64",
        help="channels of a chain's convolutions, each of which halves the images",
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="measure these alone")
    parser.add_usual("results/points", log=False)
    return parser


if __name__ == "__main__":
    sys.exit(main())
