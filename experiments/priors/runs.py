"""The runs of a comparison: each is kept in a file as soon as it ends, and found again by what decides it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from experiments.common.store import digest, tensor_bytes, versions, write_json
from experiments.priors import data as datasets
from experiments.priors import metrics, networks, training
from experiments.priors.data import ImageData
from experiments.priors.methods import Method
from experiments.priors.training import Budget

KERNELS_DRAWN = 16


def load(arguments: argparse.Namespace, seed: int) -> ImageData:
    return datasets.load(
        arguments.dataset,
        arguments.data_dir,
        image_size=arguments.image_size,
        train_size=arguments.train_size,
        test_size=arguments.test_size,
        seed=seed,
    )


def run_grid(
    methods: Sequence[Method], first: ImageData, arguments: argparse.Namespace, device: torch.device
) -> list[dict[str, Any]]:
    """All methods on the first seed, then all on the next one: a stopped job leaves whole comparisons."""
    folder = arguments.output / "runs"
    folder.mkdir(parents=True, exist_ok=True)
    budget = Budget(arguments.steps, arguments.batch_size, arguments.temperature, arguments.samples)
    runs = []
    total = len(arguments.seeds) * len(methods)
    with tqdm(total=total, desc="runs", position=0, disable=None) as progress:
        for seed in arguments.seeds:
            data = first if seed == arguments.seeds[0] else load(arguments, seed)
            for method in methods:
                config = describe_run(method, data, budget, seed, device)
                path = folder / f"{digest(json.dumps(config, sort_keys=True).encode())}.json"
                run = None if arguments.fresh else saved_run(path, config)
                again = " (saved before)" if run else ""
                if run is None:
                    run = {**one_run(method, data, budget, seed, device), "config": config}
                    write_json(path, run)
                runs.append(run)
                progress.update()
                line = ", ".join(f"{name} {run['results'][name]:.4f}" for name in metrics.METRICS)
                tqdm.write(f"seed {seed}, {method.name}: {line}{again}", file=sys.stderr)
    return runs


def one_run(
    method: Method, data: ImageData, budget: Budget, seed: int, device: torch.device
) -> dict[str, Any]:
    train_images, test_images = training.standardize(data.train_images, data.test_images)
    trained = training.train(
        method, train_images.to(device), data.train_labels.to(device), len(data.classes), budget, seed
    )
    predicted = training.predict(method, trained.network, test_images.to(device), budget.samples).cpu()
    results = {
        **metrics.evaluate(predicted, data.test_labels),
        "KL / image": trained.kl / len(train_images),
        "parameters": trained.parameters,
        "train seconds": trained.seconds,
    }
    kernels = networks.first_kernels(trained.network).flatten(0, 1)[:KERNELS_DRAWN]
    return {
        "method": method.name,
        "seed": seed,
        "results": results,
        "reliability": metrics.reliability(predicted, data.test_labels)._asdict(),
        "first_kernels": kernels.tolist(),
    }


def describe_run(
    method: Method, data: ImageData, budget: Budget, seed: int, device: torch.device
) -> dict[str, Any]:
    """All that decides what a run gives; equal descriptions need not be run twice.

    Data and prior are known by digests of what they hold: a file with the same name may have changed.
    """
    torch.manual_seed(seed)
    network = networks.build(method, data.train_images.shape[1], len(data.classes), budget.network)
    drawn = method.sample_prior((4, 4, 3, 3))
    return {
        "method": method.name,
        "settings": asdict(method.settings),
        "start": digest(*map(tensor_bytes, [*network.parameters(), drawn])),
        "data": digest_images(data),
        "budget": asdict(budget),
        "seed": seed,
        "device": device.type,
        "versions": versions(),
    }


def saved_run(path: Path, config: dict[str, Any]) -> dict[str, Any] | None:
    """A finished run with this configuration; None if there is none, or the file is damaged."""
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return run if isinstance(run, dict) and run.get("config") == config else None


def digest_images(data: ImageData) -> str:
    return digest(
        *map(tensor_bytes, [data.train_images, data.train_labels, data.test_images, data.test_labels])
    )
