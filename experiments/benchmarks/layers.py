"""What do Bayesian convolutions cost beside plain ones, here and in other libraries?

    python -m experiments.benchmarks.layers

All variants run in turn in one process, so that drifts of the machine hit all alike; medians are compared.
Peers that are not installed (pip install "topoprior[peers]" has them) are named as missing. The network:
conv3x3 64 - pool - conv3x3 128 - pool - conv3x3 256 - average pool - linear, on 32x32x3 inputs.
Writes results.json and report.md to --output.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

import topoprior as tp
from experiments.benchmarks import peers
from experiments.benchmarks.memory import peak_memory
from experiments.benchmarks.peers import BLITZ, COMPILED, OURS, REFERENCE, Peer
from experiments.benchmarks.report import PICTURE, as_markdown, picture
from experiments.common.options import Parser, check_writable, whole, write_config
from experiments.common.store import write_json
from topoprior.utils.files import write_atomically

NUM_DATA = 50_000
SAMPLES = 32
CHANNELS, MAPS, LAYER_BATCH = 512, 8, 16
PARTS = ("training", "parameters", "prediction", "layer", "memory")

Run = Callable[[], object]


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser()
    arguments = parser.parse_args(argv)
    try:
        check_writable(arguments.output)
        write_config(arguments)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    device = torch.device(arguments.device)
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(arguments.threads)
    found, missing = peers.available(arguments.compiled)
    results: dict[str, Any] = {"config": configuration(arguments), "missing": missing}
    for name, reason in missing.items():
        print(f"missing: {name}: {reason}")
    measure: dict[str, Callable[[], Any]] = {
        "training": lambda: [training(found, size, arguments.repeats, device) for size in arguments.batch_sizes],
        "parameters": lambda: {name: parameters(peer) for name, peer in found.items()},
        "prediction": lambda: [prediction(found, size, arguments.repeats, device) for size in (64, 1)],
        "layer": lambda: one_layer(found, arguments.repeats, device),
        "memory": lambda: memory(found, arguments),
    }  # fmt: skip
    for part in [part for part in PARTS if part in arguments.only]:
        print(f"{part} ...", flush=True)
        results[part] = measure[part]()
        write(results, arguments.output)  # after each part: an interrupted run has shown something
    print(f"{as_markdown(results)}\nwritten to {arguments.output}")


def write(results: dict[str, Any], output: Path) -> None:
    write_json(output / "results.json", results)
    if results.get("training"):
        write_atomically(output / PICTURE, picture(results))
    write_atomically(output / "report.md", as_markdown(results).encode())


def make_parser() -> Parser:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--threads", type=whole, default=2, help="of torch")
    add("--repeats", type=whole, default=15, help="rounds in which all take turns")
    add("--batch-sizes", type=whole, nargs="+", default=[64, 8], metavar="N", help="of training steps")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu, cuda, ...")
    add("--no-compiled", dest="compiled", action="store_false", help="leave out compile_posteriors")
    add("--only", nargs="+", choices=PARTS, default=PARTS, help="measure these alone")
    parser.add_usual("results/layers-benchmark", log=False)
    return parser


def configuration(arguments: argparse.Namespace) -> dict[str, Any]:
    versions = {}
    for name in ("torch", "topoprior", "blitz-bayesian-pytorch", "bayesian-torch", "torch-uncertainty"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    on_gpu = arguments.device.startswith("cuda")
    return {
        "device": torch.cuda.get_device_name(arguments.device) if on_gpu else "cpu",
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "threads": arguments.threads,
        "repeats": arguments.repeats,
        "seed": arguments.seed,
        "python": platform.python_version(),
        **versions,
    }


# --- timing ----------------------------------------------------------------------------------


def interleaved(
    runs: dict[str, Run], repeats: int, device: torch.device, warmup: int = 2
) -> dict[str, Any]:
    """Milliseconds of every run, taken in turn, starting with another one each round."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in [run for run in runs.values() for _ in range(warmup)]:
        run()
    names = list(runs)
    for i in range(repeats):
        start_at = i % len(names)
        for name in names[start_at:] + names[:start_at]:
            synchronize(device)
            start = time.perf_counter()
            runs[name]()
            synchronize(device)
            times[name].append(1e3 * (time.perf_counter() - start))
    return times


def compared(times: dict[str, list[float]], reference: str) -> dict[str, dict[str, float]]:
    """Medians, their ratio to the reference's, and the middle half of the ratios round by round."""
    base, rows = statistics.median(times[reference]), {}
    for name, values in times.items():
        ratios = [a / b for a, b in zip(values, times[reference], strict=True)]
        low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else [ratios[0]] * 3
        median = statistics.median(values)
        rows[name] = {"ms": median, "ratio": median / base, "ratio_low": low, "ratio_high": high}
    return rows


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# --- what is measured ------------------------------------------------------------------------


def training(found: dict[str, Peer], batch: int, repeats: int, device: torch.device) -> dict[str, Any]:
    """A whole step: zero_grad, forward, cross-entropy + KL / N, backward, Adam; and our KL alone."""
    x = torch.randn(batch, 3, 32, 32, device=device)
    y = torch.randint(10, (batch,), device=device)
    runs = {name: training_step(peer, x, y) for name, peer in found.items()}
    ours = [name for name in OURS if name in found]
    for name in ours:
        runs[f"KL of {name}"] = kl_alone(found[name], device)
    rows = compared(interleaved(runs, repeats, device), REFERENCE)
    shares = {name: rows.pop(f"KL of {name}")["ms"] / rows[name]["ms"] for name in ours}
    return {"batch": batch, "rows": rows, "kl_share": shares}


def training_step(peer: Peer, x: torch.Tensor, y: torch.Tensor) -> Run:
    net = peers.network(peer).to(x.device)
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)

    def step() -> None:
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x), y) + peer.kl(net) / NUM_DATA
        loss.backward()
        optimizer.step()

    return step


def kl_alone(peer: Peer, device: torch.device) -> Run:
    """Forward and backward; gradients are accumulated, as they are in a step, where they come second."""
    net = peers.network(peer).to(device)
    return lambda: (tp.kl_divergence(net) / NUM_DATA).backward()


def parameters(peer: Peer) -> dict[str, int]:
    """Numbers of the three convolutions: registered, as an optimizer sees them, and trained, with a gradient."""
    net = peers.network(peer)
    loss = net(torch.randn(2, 3, 8, 8)).square().sum() + peer.kl(net)
    loss.backward()
    last = {id(p) for p in net[-1].parameters()}
    ours = [p for p in net.parameters() if id(p) not in last]
    return {
        "registered": sum(p.numel() for p in ours),
        "trained": sum(p.numel() for p in ours if p.grad is not None),
    }


def prediction(found: dict[str, Peer], batch: int, repeats: int, device: torch.device) -> dict[str, Any]:
    """32 samples, each library's own way, and 32 passes of the deterministic network."""
    x = torch.randn(batch, 3, 32, 32, device=device)
    runs: dict[str, Run] = {}
    for name in (REFERENCE, *OURS, BLITZ):
        if name in found:
            net = peers.network(found[name]).to(device)
            runs[name] = lambda name=name, net=net: peers.sample_predictions(name, net, x, SAMPLES)  # type: ignore[misc]
    rows = compared(interleaved(runs, repeats, device, warmup=1), REFERENCE)
    return {"batch": batch, "samples": SAMPLES, "rows": rows}


def one_layer(found: dict[str, Peer], repeats: int, device: torch.device) -> dict[str, Any]:
    """512 to 512 channels: sampling + KL against the convolution that follows, each forward and backward."""
    x = torch.randn(LAYER_BATCH, CHANNELS, MAPS, MAPS, device=device, requires_grad=True)
    plain = torch.nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, device=device)
    of_output = torch.randn(LAYER_BATCH, CHANNELS, MAPS, MAPS, device=device)

    def convolve() -> None:
        plain.zero_grad()
        x.grad = None
        plain(x).backward(of_output)

    runs: dict[str, Run] = {REFERENCE: convolve}
    for name in [name for name in OURS if name in found]:
        layer: Any = found[name].convolution(CHANNELS, CHANNELS).to(device)
        of_weight = [torch.randn_like(t) for t in layer.draw()]

        def sample_and_kl(layer: Any = layer, of_weight: list[torch.Tensor] = of_weight) -> None:
            layer.zero_grad()
            kl = layer.kl() / NUM_DATA
            torch.autograd.backward([*layer.draw(), kl], [*of_weight, torch.ones_like(kl)])

        runs[name] = sample_and_kl
    rows = compared(interleaved(runs, repeats, device), REFERENCE)
    return {"channels": CHANNELS, "maps": MAPS, "batch": LAYER_BATCH, "rows": rows}


def memory(found: dict[str, Peer], arguments: argparse.Namespace) -> dict[str, Any]:
    """Bytes that three training steps of the same layer add to a fresh process, at their peak."""
    size = (LAYER_BATCH, CHANNELS, MAPS)
    # The compiler itself would be most of what a fresh process allocates.
    peaks = {
        name: peak_memory(name, size, arguments.threads, arguments.device)
        for name in found
        if name != COMPILED
    }
    base = peaks[REFERENCE]
    rows = {name: {"bytes": peak, "ratio": peak / base} for name, peak in peaks.items()}
    return {"channels": CHANNELS, "maps": MAPS, "batch": LAYER_BATCH, "rows": rows}


if __name__ == "__main__":
    main()
