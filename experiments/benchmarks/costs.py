"""What is measured of layers: every part a list of rows, a row a network and a way to run it."""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

import topoprior as tp
from experiments.benchmarks import peers
from experiments.benchmarks.memory import peak_memory
from experiments.benchmarks.peers import BLITZ, COMPILED, FROZEN, OURS, REFERENCE, TOGETHER, Peer
from experiments.benchmarks.variants import FLOAT32, Variant

NUM_DATA = 50_000
SAMPLES = 32
CHANNELS, MAPS, LAYER_BATCH = 512, 8, 16

Run = Callable[[], object]
Rows = list[dict[str, Any]]
Key = tuple[str, str]  # a network, a way to run it
Clock = Callable[[], float]


def interleaved(
    runs: dict[Key, Run], repeats: int, seconds: float, device: torch.device, clock: Clock
) -> dict[Key, float]:
    """Median milliseconds of every run, taken in turn, starting with another one each round; without those that fail.

    No more rounds begin after ``seconds`` and three rounds.
    """
    times: dict[Key, list[float]] = {key: [] for key in runs}
    for key, run in runs.items():
        try:
            run()
        except (RuntimeError, TypeError, ValueError) as error:
            print(f"left out: {', '.join(key)}: {str(error).splitlines()[0]}")
            del times[key]
    keys = list(times)
    began = time.perf_counter()
    for i in range(repeats):
        if i > 2 and time.perf_counter() - began > seconds:
            break
        start_at = i % len(keys)
        for key in keys[start_at:] + keys[:start_at]:
            synchronize(device)
            start = clock()
            runs[key]()
            synchronize(device)
            times[key].append(1e3 * (clock() - start))
    return {key: statistics.median(values) for key, values in times.items()}


def compared(times: dict[Key, float], **about: Any) -> Rows:
    """A row a run: its median, and its ratio to the reference's in the same variant and in its fastest one."""
    plain = {variant: ms for (name, variant), ms in times.items() if name == REFERENCE}
    return [
        {
            **about, "layer": name, "variant": variant, "ms": ms,
            "ratio": ms / plain.get(variant, math.nan), "to fastest": ms / min(plain.values()),
        }
        for (name, variant), ms in times.items()
    ]  # fmt: skip


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# --- what is measured ------------------------------------------------------------------------


class Bench:
    """Every part of the benchmark: tables, one after the other."""

    def __init__(
        self,
        found: dict[str, Peer],
        ways: list[Variant],
        arguments: argparse.Namespace,
        device: torch.device,
    ) -> None:
        self.found, self.ways, self.arguments, self.device = found, ways, arguments, device
        clock = time.process_time if arguments.processor_time else time.perf_counter
        self.timed = lambda runs: interleaved(runs, arguments.repeats, arguments.seconds, device, clock)

    def pairs(self, names: Sequence[str]) -> Iterator[tuple[str, Peer, Variant]]:
        """Networks and ways to run them. Whole networks are compiled of the reference and ours alone: it takes its time."""
        for name in [name for name in names if name in self.found]:
            for way in self.ways:
                if not way.compiled or name in (REFERENCE, OURS[0]):
                    yield name, self.found[name], way

    def training(self) -> Iterator[Rows]:
        """A whole step: zero_grad, forward, cross-entropy + KL / N, backward, Adam; and our KL alone."""
        yield from map(self.training_at, self.arguments.batch_sizes)

    def training_at(self, batch: int) -> Rows:
        runs = self.steps(peers.network, batch, 32)
        for name in [name for name in OURS if name in self.found]:
            runs[f"KL of {name}", FLOAT32.name] = kl_alone(self.found[name], self.device)
        return compared(self.timed(runs), measure="training step", batch=batch)

    def deep(self) -> Iterator[Rows]:
        """A whole step of a network of many small layers."""
        for batch in self.arguments.batch_sizes:
            runs = self.steps(peers.deep_network, batch, 16)
            yield compared(self.timed(runs), measure="training step, 18 layers of 16 channels", batch=batch)

    def steps(self, network: Callable[[Peer], nn.Sequential], batch: int, size: int) -> dict[Key, Run]:
        x = torch.randn(batch, 3, size, size, device=self.device)
        y = torch.randint(10, (batch,), device=self.device)
        pairs = self.pairs(list(self.found))
        return {(name, way.name): self.step(network(peer), peer, way, x, y) for name, peer, way in pairs}

    def step(self, net: nn.Module, peer: Peer, way: Variant, x: torch.Tensor, y: torch.Tensor) -> Run:
        called, x = way.prepared(net, x)
        optimizer = torch.optim.Adam(net.parameters(), 1e-3)

        def step() -> None:
            optimizer.zero_grad()
            loss = (
                F.cross_entropy(way.run(called, x, device=self.device).float(), y) + peer.kl(net) / NUM_DATA
            )
            loss.backward()
            optimizer.step()

        return step

    def parameters(self) -> Iterator[Rows]:
        """Numbers of the three convolutions: registered, as an optimizer sees them, and trained, with a gradient."""
        yield [{"measure": "parameters", "layer": name, **count(peer)} for name, peer in self.found.items()]

    def prediction(self) -> Iterator[Rows]:
        """32 samples, each library's own way, and 32 passes of the deterministic network."""
        yield from map(self.prediction_at, self.arguments.prediction_batches)

    def prediction_at(self, batch: int) -> Rows:
        runs: dict[Key, Run] = {}
        x = torch.randn(batch, 3, 32, 32, device=self.device)
        for name, peer, way in self.pairs((REFERENCE, *OURS, BLITZ)):
            net = peers.network(peer).eval()
            if name in OURS and way.compiled:
                continue
            called, given = way.prepared(net, x)
            runs[name, way.name] = partial(
                way.run, peers.sample_predictions, name, called, given, SAMPLES, device=self.device
            )
            if name == OURS[0]:
                runs[FROZEN, way.name] = partial(
                    way.run, torch.no_grad()(tp.freeze_draws(net, SAMPLES)), given, device=self.device
                )
        return compared(self.timed(runs), measure=f"{SAMPLES} predictions", batch=batch)

    def layer(self) -> Iterator[Rows]:
        """512 to 512 channels: sampling + KL against the convolution that follows, each forward and backward."""
        runs: dict[Key, Run] = {}
        for name, peer, way in self.pairs((REFERENCE, *OURS)):
            if not way.compiled:
                x = torch.randn(LAYER_BATCH, CHANNELS, MAPS, MAPS, device=self.device)
                one, x = way.prepared(peer.convolution(CHANNELS, CHANNELS), x)
                make = convolving if name == REFERENCE else drawing
                runs[name, way.name] = make(one, x, partial(way.run, device=self.device))
        yield compared(
            self.timed(runs), measure="512-512 layer: draw and KL / convolution", batch=LAYER_BATCH
        )

    def memory(self) -> Iterator[Rows]:
        """Bytes that three training steps of the same layer add to a fresh process, at their peak: the median of a few."""
        size, base = (LAYER_BATCH, CHANNELS, MAPS), math.nan
        options = self.arguments.threads, self.arguments.device, self.arguments.processes
        # The compiler itself would be most of what a fresh process allocates.
        for name in [name for name in self.found if name not in (COMPILED, TOGETHER)]:
            peaks = peak_memory(name, size, *options)
            peak = statistics.median(peaks)
            base = peak if name == REFERENCE else base
            about = {"measure": "peak memory", "batch": LAYER_BATCH, "layer": name, "bytes": int(peak)}
            yield [{**about, "least": min(peaks), "most": max(peaks), "ratio": peak / base}]


def convolving(layer: Any, x: torch.Tensor, run: Callable[..., Any]) -> Run:
    x.requires_grad_(True)
    of_output = torch.randn_like(run(layer, x))

    def convolve() -> None:
        layer.zero_grad()
        x.grad = None
        run(layer, x).backward(of_output)

    return convolve


def drawing(layer: Any, x: torch.Tensor, run: Callable[..., Any]) -> Run:
    of_weight = [torch.randn_like(t) for t in run(layer.draw, x)]

    def draw() -> None:
        layer.zero_grad()
        kl = layer.kl() / NUM_DATA
        torch.autograd.backward([*run(layer.draw, x), kl], [*of_weight, torch.ones_like(kl)])

    return draw


def kl_alone(peer: Peer, device: torch.device) -> Run:
    """Forward and backward; gradients are accumulated, as they are in a step, where they come second."""
    net = peers.network(peer).to(device)
    return lambda: (tp.kl_divergence(net) / NUM_DATA).backward()


def count(peer: Peer) -> dict[str, int]:
    net = peers.network(peer)
    loss = net(torch.randn(2, 3, 8, 8)).square().sum() + peer.kl(net)
    loss.backward()
    last = {id(p) for p in net[-1].parameters()}
    ours = [p for p in net.parameters() if id(p) not in last]
    return {
        "registered": sum(p.numel() for p in ours),
        "trained": sum(p.numel() for p in ours if p.grad is not None),
    }
