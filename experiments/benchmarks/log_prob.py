"""How fast is the density on the Klein bottle beside the straightforward sum over lifts?

Times `WrappedNormal.log_prob` for a million points in float32 against a logsumexp over 98 lifts (2 sheets
x 7 x 7 translations), and `kappa` with its gradient against passes of exp and log. All are timed in turn
in one run; the medians' ratios are printed, with the peak memory of each.

    python -m experiments.benchmarks.log_prob

Writes results.json to --output.
"""

from __future__ import annotations

import math
import multiprocessing
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import topoprior as tp
from experiments.common.options import Parser, check_writable, whole, write_config
from experiments.common.store import write_json


def naive_log_prob(x: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """logsumexp over the 98 lifts (u + s + 2 j, (-1)^s v + k), s = 0, 1, |j|, |k| <= 3."""
    shifts = torch.arange(-3.0, 4.0, device=x.device)
    u = torch.cat([x[:, :1] + 2 * shifts, x[:, :1] + 1 + 2 * shifts], 1)  # (N, 14)
    v = torch.stack([x[:, 1:] + shifts, -x[:, 1:] + shifts], 1)  # (N, 2, 7)
    v = v.repeat_interleave(7, 1)  # (N, 14, 7)
    lifts = torch.stack([u.unsqueeze(-1).expand_as(v), v], -1)  # (N, 14, 7, 2)
    normal = torch.distributions.Normal(loc, scale, validate_args=False)
    return normal.log_prob(lifts).sum(-1).flatten(1).logsumexp(1)


def peak_memory(which: str, sigma: float, points: int) -> int:
    """Bytes by which one call raises the peak memory of a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_memory_of_one_call, (which, sigma, points))


def _memory_of_one_call(which: str, sigma: float, points: int) -> int:
    torch.set_num_threads(1)
    space, loc, scale = tp.KleinBottle(), torch.tensor([0.3, 0.2]), torch.tensor([sigma, sigma])
    x = tp.UniformOn(space).sample((points,))
    runs = {
        "ours": tp.WrappedNormal(space, loc, scale, validate_args=False).log_prob,
        "naive": lambda x: naive_log_prob(x, loc, scale),
    }
    runs[which](x[:10])
    before = _peak_resident()
    runs[which](x)
    return _peak_resident() - before


def _peak_resident() -> int:
    """Peak resident bytes of this process (Linux)."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def interleaved(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of every run, taken in turn so that drifts of the machine hit all alike."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return {name: torch.tensor(values).median().item() for name, values in times.items()}


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(__doc__)
    parser.add_argument("--points", type=whole, default=1_000_000, help="at which the density is asked for")
    parser.add_argument("--repeats", type=whole, default=15, help="of kappa")
    parser.add_argument("--naive-repeats", type=whole, default=3, help="of the naive sum, which is slow")
    parser.add_argument("--threads", type=whole, default=2, help="of torch")
    parser.add_usual("results/log-prob-benchmark", log=False)
    args = parser.parse_args(argv)
    try:
        check_writable(args.output)
        write_config(args)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    found: dict[str, Any] = {}
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    space = tp.KleinBottle()
    x = tp.UniformOn(space).sample((args.points,))
    loc = torch.tensor([0.3, 0.2])
    print(
        f"torch {torch.__version__}, {args.threads} threads, {args.points} points, float32, seed {args.seed}"
    )
    for name, sigma in (("narrow", 0.05), ("wide", 1.0)):
        scale = torch.tensor([sigma, sigma])
        q = tp.WrappedNormal(space, loc, scale, validate_args=False)
        runs: dict[str, Callable[[], object]] = {
            "ours": lambda q=q: q.log_prob(x),  # type: ignore[misc]
            "naive": lambda scale=scale: naive_log_prob(x, loc, scale),  # type: ignore[misc]
        }
        seconds = interleaved(runs, args.naive_repeats)
        memory = {key: peak_memory(key, sigma, args.points) for key in runs}
        gap = (
            (q.log_prob(x).exp() - naive_log_prob(x, loc, scale).exp()).abs().max().item()
            if sigma < 0.5
            else math.nan
        )
        found[name] = {"sigma": sigma, "seconds": seconds, "bytes": memory}
        print(
            f"log_prob, {name} (sigma {sigma}): {seconds['ours'] * 1e3:.1f} ms, naive "
            f"{seconds['naive'] * 1e3:.1f} ms: {seconds['naive'] / seconds['ours']:.1f} times faster; "
            f"peak memory {memory['ours'] / max(1, memory['naive']):.3f} of the naive one's "
            f"({memory['ours'] / 1e6:.0f} MB of {memory['naive'] / 1e6:.0f} MB); largest gap {gap:.1e}"
        )
    scales = torch.randn(args.points).exp().requires_grad_()
    data = scales.detach()
    seconds = interleaved(
        {
            "exp + log": lambda: (data.exp(), data.log()),
            "kappa": torch.no_grad()(lambda: tp.kappa(data)),
            "kappa and gradient": lambda: torch.autograd.grad(tp.kappa(scales).sum(), scales),
        },
        args.repeats,
    )
    unit = seconds["exp + log"]
    print(
        f"kappa and gradient: {seconds['kappa and gradient'] * 1e3:.1f} ms = "
        f"{seconds['kappa and gradient'] / unit:.1f} passes of exp + log; "
        f"kappa alone {seconds['kappa'] / unit:.1f}"
    )
    write_json(args.output / "results.json", {**found, "kappa": seconds})


if __name__ == "__main__":
    main()
