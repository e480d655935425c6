"""Peak memory of training one convolution, in a process of its own."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import torch

from experiments.benchmarks import peers
from experiments.benchmarks.peers import Peer


def peak_memory(
    name: str, size: tuple[int, int, int], threads: int, device: str, processes: int = 3
) -> list[int]:
    """Bytes by which training steps raise the peak memory of a fresh process, of each of so many."""
    peaks = []
    for _ in range(processes):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            peaks.append(pool.apply(_in_this_process, (name, size, threads, device)))
    return peaks


def _in_this_process(name: str, size: tuple[int, int, int], threads: int, device: str) -> int:
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    batch, channels, maps = size
    peer = peers.get(name)
    _train(peer, (batch, 8, maps), device)  # what is loaded on first use does not count
    on_gpu = device.startswith("cuda")
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    else:
        before = _reset_peak()
    _train(peer, (batch, channels, maps), device)
    return (torch.cuda.max_memory_allocated(device) if on_gpu else _status("VmHWM")) - before


def _train(peer: Peer, size: tuple[int, int, int], device: str) -> None:
    """Three steps of Adam: its state is there from the second one on."""
    batch, channels, maps = size
    x = torch.randn(batch, channels, maps, maps, device=device)
    net = peer.container(peer.convolution(channels, channels)).to(device)
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    for _ in range(3):
        optimizer.zero_grad()
        loss = net(x).square().mean() + peer.kl(net) / 50_000
        loss.backward()
        optimizer.step()


def _reset_peak() -> int:
    """Set the peak back to what is resident now (Linux); where that is not allowed, the peak so far."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return _status("VmHWM")
    return _status("VmRSS")


def _status(field: str) -> int:
    """Bytes, from the process's own status."""
    text = Path("/proc/self/status").read_text()
    return 1024 * int(text.split(f"{field}:")[1].split()[0])
