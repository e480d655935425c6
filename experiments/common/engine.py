"""Many runs: what is stored is not computed again, the rest in this process, in several, or on a cluster."""

from __future__ import annotations

import argparse
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import joblib
import torch
from tqdm import tqdm

from experiments.common.options import whole
from experiments.common.progress import bar, say
from experiments.common.store import Store
from experiments.common.workers import die_with

BACKENDS = ("loky", "threading", "dask", "ray")


class Task(Protocol):
    def config(self) -> dict[str, Any]:
        """All that decides the result, the data's digest among it."""


T = TypeVar("T", bound=Task)
Work = Callable[[T], dict[str, Any]]


@dataclass(frozen=True)
class Pool:
    """How many runs at a time, and joblib's backend for them. ``scheduler``: the address of a dask cluster."""

    jobs: int = 1
    backend: str = "loky"
    scheduler: str | None = None

    @staticmethod
    def add_options(parser: argparse.ArgumentParser) -> None:
        group = parser.add_argument_group("runs at a time")
        group.add_argument(
            "--jobs", type=whole, default=os.cpu_count() or 1, help="one thread each if several"
        )
        group.add_argument("--backend", choices=BACKENDS, default="loky", help="joblib's")
        group.add_argument(
            "--scheduler", help="address of a dask cluster; without it a local one is started"
        )

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> Pool:
        return cls(arguments.jobs, arguments.backend, arguments.scheduler)


def missing(tasks: Sequence[T], store: Store) -> list[T]:
    return [task for task in tasks if store.get(task.config()) is None]


def compute(
    tasks: Sequence[T], work: Work[T], store: Store, pool: Pool, tell: Callable[[dict[str, Any]], str]
) -> int:
    """Compute and store what is missing. A run that fails leaves its reason in failures/, beside the store's folder, and
    is tried again next time.

    Args:
        tell: a few words about a result, for the person who waits.

    Returns:
        how many have failed.
    """
    failures, wanted = Store(store.folder.parent / "failures"), missing(tasks, store)
    done = len(tasks) - len(wanted)
    say(f"{len(tasks)} runs, {done} of them done")
    failed, began = 0, time.monotonic()
    with bar(total=len(tasks), initial=done, desc="runs", smoothing=0.05) as progress:
        for count, (task, result) in enumerate(_results(wanted, work, pool), 1):
            if "error" in result:
                failed += 1
                failures.put(task.config(), result)
                words = result["error"]
            else:
                store.put(task.config(), result)
                failures.drop(task.config())
                words = tell(result)
            left = (time.monotonic() - began) / count * (len(wanted) - count)
            line = (
                f"[{done + count}/{len(tasks)}, {tqdm.format_interval(left)} left] {title(task)}: {words}"
            )
            say(line)
            progress.update()
    if failed:
        say(f"{failed} runs failed: see {failures.folder}")
    return failed


def title(task: Task) -> str:
    """Which run it is, for the person who waits.

    Example:
        >>> from types import SimpleNamespace
        >>> config = {"dataset": "/my/images", "train_size": None, "method": "klein", "seed": 1}
        >>> title(SimpleNamespace(config=lambda: config))
        'images, klein, seed 1'
    """
    config = task.config()
    place = Path(str(config.get("dataset", ""))).name
    words = [place, *(config.get(key) for key in ("method", "prior", "engine", "train_size", "n"))]
    numbers = [f"{key} {config[key]}" for key in ("temperature", "seed", "chain") if key in config]
    return ", ".join([*(str(word) for word in words if word), *numbers])


def _results(tasks: Sequence[T], work: Work[T], pool: Pool) -> Iterator[tuple[T, dict[str, Any]]]:
    """Results in whatever order they come."""
    if not tasks:
        return
    with ExitStack() as stack:
        parallel = _parallel(pool, stack)
        calls = (joblib.delayed(attempt)(work, task, pool.jobs) for task in tasks)
        with _born_deaf() if pool.backend == "loky" and pool.jobs > 1 else nullcontext():
            runs = parallel(calls)  # starts the workers
        yield from runs


@contextmanager
def _born_deaf() -> Iterator[None]:
    """Processes started here do not hear Ctrl-C, not even while Python starts in them: what is ignored is inherited."""
    if threading.current_thread() is not threading.main_thread():  # cannot be said elsewhere
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def attempt(work: Work[T], task: T, workers: int = 1) -> tuple[T, dict[str, Any]]:
    """The result, or why there is none: one run's failure is no reason to lose the others."""
    if workers > 1:
        torch.set_num_threads(1)  # two runs at a time are faster than two threads for one
    try:
        return task, work(task)
    except Exception as error:
        return task, {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}


def _parallel(pool: Pool, stack: ExitStack) -> joblib.Parallel:
    """joblib's pool, on the cluster that was asked for."""
    options: dict[str, Any] = {"batch_size": 1, "pre_dispatch": "2*n_jobs"}
    if pool.backend == "dask":
        stack.enter_context(_dask_client(pool))
        stack.enter_context(joblib.parallel_config("dask"))
    elif pool.backend == "ray":
        _start_ray()
        stack.enter_context(joblib.parallel_config("ray", n_jobs=pool.jobs))
    elif pool.backend == "loky" and pool.jobs > 1:
        start = {"initializer": die_with, "initargs": (os.getpid(),)}
        stack.enter_context(joblib.parallel_config("loky", n_jobs=pool.jobs, **start))
    else:
        stack.enter_context(joblib.parallel_config(pool.backend, n_jobs=pool.jobs))
    backend, _ = joblib.parallel.get_active_backend()
    kind = "generator_unordered" if backend.supports_return_generator else "list"
    return joblib.Parallel(return_as=kind, **options)


def _dask_client(pool: Pool) -> Any:
    try:
        from distributed import Client
    except ImportError:
        raise ValueError('--backend dask: pip install "topoprior[cluster]"') from None
    if pool.scheduler:
        return Client(pool.scheduler)
    return Client(n_workers=pool.jobs, threads_per_worker=1, dashboard_address=None)


def _start_ray() -> None:
    try:
        from ray.util.joblib import register_ray
    except ImportError:
        raise ValueError('--backend ray: pip install "ray[default]"') from None
    register_ray()
