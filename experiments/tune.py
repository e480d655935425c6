"""Choose each method's settings on validation data, with the same effort for all: `networks.SETTINGS`.

    python experiments/tune.py

Nine candidates a method, each trained once on 70% of the training images and scored by its negative log
likelihood on the other 30%. Test images are not looked at. Finished runs are kept, so the same command
resumes.
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
SPLIT = 0

# The grids start where a coarse one, ten times as wide, had its best values.
_RATES = (3e-3, 1e-2, 2e-2)
CANDIDATES: dict[str, list[Settings]] = {
    "klein": [
        Settings(rate, 0.1, {"init_scale": scale, "init_latent_scale": latent})
        for rate, (scale, latent) in product(_RATES, ((0.01, 0.002), (0.03, 0.005), (0.1, 0.01)))
    ],
    "gaussian": [
        Settings(rate, 0.1, {"init_scale": scale}) for rate, scale in product(_RATES, (0.01, 0.03, 0.1))
    ],
    "blitz": [
        Settings(rate, 0.1, {"prior_scale": 1.0, "posterior_rho_init": rho})
        for rate, rho in product(_RATES, (-8.0, -6.0, -5.0))
    ],
    "deterministic": [
        Settings(rate, decay) for rate, decay in product((5e-4, 1e-3, 3e-3), (0.01, 0.3, 3.0))
    ],
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--methods", default=",".join(CANDIDATES), help="comma-separated")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each")
    parser.add_argument("--output", type=Path, default=Path("results/tune"), help="folder")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    budget = Budget(steps=arguments.steps)
    pool = Parallel(arguments.jobs, return_as="list")

    methods = arguments.methods.split(",")
    jobs = [(name, settings) for name in methods for settings in CANDIDATES[name]]
    results = pool(delayed(score)(*job, budget, arguments.output) for job in jobs)
    for name in methods:
        print(f"{name}: validation NLL, accuracy, KL per training image")
        for r in sorted((r for r in results if r["method"] == name), key=lambda r: r["cls/NLL"]):
            print(f"  {r['cls/NLL']:.4f}  {r['cls/Acc']:.4f}  {r['kl']:6.2f}  {Settings(**r['settings'])}")


def score(name: str, settings: Settings, budget: Budget, folder: Path) -> dict[str, Any]:
    """Train on one part of the embedded training images and evaluate on the other."""
    path = folder / f"{stable_hash((name, repr(settings), SPLIT, repr(budget)))}.json"
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    torch.set_num_threads(1)  # two runs at a time are faster than two threads for one
    data = datasets.load("embedded", Path())
    chosen, held_out = datasets.train_validation_split(data.train_labels, VALIDATION, SPLIT)
    images, validation = training.standardize(data.train_images[chosen], data.train_images[held_out])
    method = networks.get_method(name, settings)
    classes = len(data.classes)
    trained = training.train(method, images, data.train_labels[chosen], classes, budget, SPLIT)
    predicted = training.predict(method, trained.network, validation, budget.samples)
    result = {
        "method": name,
        "settings": vars(settings),
        "split": SPLIT,
        "kl": trained.kl / len(images),
        **metrics.evaluate(predicted, data.train_labels[held_out]),
    }
    write_atomically(path, (json.dumps(result, indent=1) + "\n").encode())
    return result


if __name__ == "__main__":
    from experiments import tune  # joblib's workers find `score` by the name of its module

    tune.main()
