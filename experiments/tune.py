"""Choose each method's settings on validation data, with the same effort for all: `networks.SETTINGS`.

    python experiments/tune.py

Twelve candidates a method, each trained once on 70% of the training images and scored by its negative log
likelihood on the other 30%; the best three are trained on two more splits. Test images are not looked at.
Half an hour on 2 CPU cores. Finished runs are kept, so the same command resumes.
"""

from __future__ import annotations

import argparse
import json
import sys
from itertools import product
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a script sees only its own folder

import torch
from joblib import Parallel, delayed
from joblib import hash as stable_hash

from experiments import datasets, metrics, networks, training
from experiments.networks import Settings
from experiments.training import Budget
from topoprior.checkpoints import write_atomically

VALIDATION = 0.3
FINALISTS = 3
SPLITS = (0, 1, 2)

# The grids start where a coarse one, ten times as wide, had its best values.
_RATES = (3e-3, 1e-2, 2e-2)
CANDIDATES: dict[str, list[Settings]] = {
    "klein": [
        Settings(rate, 0.1, {"init_scale": scale, "init_latent_scale": latent})
        for rate, (scale, latent) in product(_RATES, ((0.03, 0.005), (0.03, 0.02), (0.1, 0.01)))
    ]
    + [
        Settings(1e-2, 0.1, {"init_scale": 0.03, "init_latent_scale": 0.01, **other})
        for other in ({"mean_fraction": 0.3}, {"gain": 1.0}, {"gain": 2.0})
    ],
    "gaussian": [
        Settings(rate, 0.1, {"init_scale": scale}) for rate, scale in product(_RATES, (0.01, 0.03, 0.1))
    ]
    + [
        Settings(1e-2, 0.1, {"init_scale": 0.03, "gain": 1.0}),
        Settings(1e-2, 0.1, {"init_scale": 0.03, "gain": 2.0}),
        Settings(1e-2, 1.0, {"init_scale": 0.03}),
    ],
    "blitz": [
        Settings(rate, 0.1, {"prior_scale": 1.0, "posterior_rho_init": rho})
        for rate, rho in product(_RATES, (-8.0, -6.0, -5.0))
    ]
    + [
        Settings(1e-2, 0.1, {"prior_scale": 0.7, "posterior_rho_init": -6.0}),
        Settings(1e-2, 0.1, {"prior_scale": 1.4, "posterior_rho_init": -6.0}),
        Settings(1e-2, 1.0, {"prior_scale": 1.0, "posterior_rho_init": -6.0}),
    ],
    "deterministic": [
        Settings(rate, decay) for rate, decay in product((5e-4, 1e-3, 3e-3, 1e-2), (0.01, 0.3, 3.0))
    ],
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--methods", default=",".join(CANDIDATES), help="comma-separated")
    parser.add_argument("--steps", type=int, default=Budget().steps)
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each")
    parser.add_argument("--output", type=Path, default=Path("results/tune"), help="folder")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    budget = Budget(steps=arguments.steps)
    pool = Parallel(arguments.jobs, return_as="list")

    def scores(jobs: list[tuple[str, Settings, int]]) -> list[dict[str, Any]]:
        return pool(delayed(score)(*job, budget, arguments.output) for job in jobs)

    methods = arguments.methods.split(",")
    first = scores([(name, CANDIDATES[name][i], SPLITS[0]) for i in range(12) for name in methods])
    finalists = []
    for name in methods:
        found = sorted((r for r in first if r["method"] == name), key=lambda r: r["cls/NLL"])
        finalists += [(name, Settings(**r["settings"])) for r in found[:FINALISTS]]
    more = scores([(name, s, split) for split in SPLITS[1:] for name, s in finalists])

    for name in methods:
        print(f"{name}: validation NLL, accuracy, KL per training image")
        mine = [r for r in first + more if r["method"] == name]
        by_settings: dict[str, list[dict[str, Any]]] = {}
        for result in mine:
            by_settings.setdefault(str(Settings(**result["settings"])), []).append(result)
        lines = []
        for settings, results in by_settings.items():
            mean = {k: sum(r[k] for r in results) / len(results) for k in ("cls/NLL", "cls/Acc", "kl")}
            lines.append((-len(results), mean["cls/NLL"], mean["cls/Acc"], mean["kl"], settings))
        for count, nll, accuracy, kl, settings in sorted(lines):
            print(f"  {nll:.4f}  {accuracy:.4f}  {kl:6.2f}  {-count} split(s)  {settings}")


def score(name: str, settings: Settings, split: int, budget: Budget, folder: Path) -> dict[str, Any]:
    """Train on one part of the embedded training images and evaluate on the other."""
    path = folder / f"{stable_hash((name, repr(settings), split, repr(budget)))}.json"
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    torch.set_num_threads(1)  # two runs at a time are faster than two threads for one
    data = datasets.load("embedded", Path())
    chosen, held_out = datasets.train_validation_split(data.train_labels, VALIDATION, split)
    images, validation = training.standardize(data.train_images[chosen], data.train_images[held_out])
    method = networks.get_method(name, settings)
    classes = len(data.classes)
    trained = training.train(method, images, data.train_labels[chosen], classes, budget, split)
    predicted = training.predict(method, trained.network, validation, budget.samples)
    result = {
        "method": name,
        "settings": vars(settings),
        "split": split,
        "kl": trained.kl / len(images),
        **metrics.evaluate(predicted, data.train_labels[held_out]),
    }
    write_atomically(path, (json.dumps(result, indent=1) + "\n").encode())
    return result


if __name__ == "__main__":
    from experiments import tune  # joblib's workers find `score` by the name of its module

    tune.main()
