"""Which network do the priors' comparisons use? Chosen on validation images by a rule that ignores who wins.

    python -m experiments.priors.choose_network --data-dir data --output experiments/results/network

Every network of `networks.NETWORKS` is tuned with Klein, Gaussian and deterministic convolutions: four candidates
each, two learning rates by two weight decays, scored on the same validation images. The network with the least mean, over
the three methods, of each one's best validation NLL is chosen: best for all together, for none in particular.
Finished runs are kept, so the same command resumes. Writes results.json and report.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from joblib import Parallel, delayed

from experiments.common.store import write_json
from experiments.priors import tune
from experiments.priors.job import Sources
from experiments.priors.methods import Settings
from experiments.priors.networks import NETWORKS
from experiments.priors.options import names, whole
from topoprior.utils.files import write_atomically

# Embedded images in place of Fashion-MNIST: one download less.
PROFILE = tune.Profile([("mnist", 100), ("embedded", 100)], tune.SMALL_BUDGET, (), 1000)
METHODS = ("klein", "gaussian", "deterministic")
Score = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--networks", type=names, default=",".join(NETWORKS), metavar="LIST", help="default: %(default)s")
    add("--seeds", type=whole, default=2, help="training subsets of each data set (default: 2)")
    add("--steps", type=whole, default=tune.SMALL_BUDGET.steps, help="default: %(default)s")
    add("--data-dir", type=Path, default=Path(".cache/data"), help="where downloads are, or go")
    add("--jobs", type=whole, default=2, help="runs at a time, one thread each")
    add("--output", type=Path, default=Path("results/network"), help="folder")
    arguments = parser.parse_args(argv)
    for name in arguments.networks:
        if name not in NETWORKS:
            parser.error(f"--networks {name}: choose from {', '.join(NETWORKS)}")
    runs = arguments.output / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    pairs = list(product(arguments.networks, METHODS))
    sources = Sources(str(arguments.data_dir), {})
    scores = Parallel(arguments.jobs)(
        delayed(best)(network, method, arguments.seeds, arguments.steps, sources, runs)
        for network, method in pairs
    )
    found: dict[str, dict[str, Score]] = {network: {} for network in arguments.networks}
    for (network, method), score in zip(pairs, scores, strict=True):
        found[network][method] = score
    config = {
        "seeds": arguments.seeds,
        "steps": arguments.steps,
        "cells": PROFILE.cells,
        "networks": {name: asdict(NETWORKS[name]) for name in arguments.networks},
    }
    results = {"config": config, "scores": found, "chosen": choose(found)}
    write_json(arguments.output / "results.json", results)
    write_atomically(arguments.output / "report.md", report(results).encode())
    print(report(results))


def best(network: str, method: str, seeds: int, steps: int, sources: Sources, folder: Path) -> Score:
    """The candidate of the least validation NLL, averaged over data sets and seeds."""
    torch.set_num_threads(1)
    profile = PROFILE
    profile = replace(profile, budget=replace(profile.budget, network=network, steps=steps))
    scored = [
        tune.mean_score(profile, method, settings, sources, folder, seeds)
        for settings in candidates(method)
    ]
    return min(scored, key=lambda entry: entry["NLL"])


def candidates(method: str) -> list[Settings]:
    options = {
        "klein": {"init_scale": 0.05, "init_latent_scale": 0.005},
        "gaussian": {"init_scale": 0.03},
        "deterministic": {},
    }[method]
    rates = (2e-3, 5e-3) if method == "deterministic" else (5e-3, 1e-2)
    return [Settings(rate, decay, options) for rate, decay in product(rates, (1.0, 5.0))]


def choose(found: dict[str, dict[str, Score]]) -> str:
    return min(found, key=lambda network: sum(score["NLL"] for score in found[network].values()))


def report(results: dict[str, Any]) -> str:
    config = results["config"]
    rows = []
    for network, scores in results["scores"].items():
        nll = [scores[method]["NLL"] for method in METHODS]
        accuracy = [scores[method]["accuracy"] for method in METHODS]
        values = [f"{a:.3f} / {b:.3f}" for a, b in zip(accuracy, nll, strict=True)]
        rows.append([network, *values, f"{sum(nll) / len(nll):.4f}"])
    cells = ", ".join(f"{name} (n = {size})" for name, size in config["cells"])
    return "\n".join(
        [
            "# Networks, on validation images",
            "",
            f"Each method's best of four candidates: accuracy / NLL, the mean over {cells} and "
            f"{config['seeds']} subsets each, {config['steps']} steps, T = 1.",
            "",
            *_table(["network", *METHODS, "mean NLL"], rows),
            "",
            f"Least mean NLL, and so used by the sweep: **{results['chosen']}**.",
            "",
        ]
    )


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


if __name__ == "__main__":
    from experiments.priors import choose_network as module  # joblib's workers find it by its module's name

    module.main()
