"""Choose each method's settings on validation data, with the same effort for all, and write `settings.json`.

    python -m experiments.priors.tune --profile bayes-mnist --data-dir data --jobs 2
    python -m experiments.priors.tune --profile tempered-mnist --data-dir data --jobs 2

A profile is a network, a budget, data, and what may be chosen:

    compare           compare_priors.py's network on the embedded images: learning rate, start of the posterior, how
                      fast latents (or weights) learn beside the last layer
    bayes-mnist       the sweep's network on 50, 100 and 200 images of MNIST: the same, the last layer's weight decay,
                      the noise at the start and the prior's scale, at T = 1
    bayes-mnist-large       on 500 and 1,000 images
    bayes-mnist-full        on 42,000 images and with more steps: -large's choice, then weight decay, both rates
                            (bayes-cifar10-full has another network: the second rate over a wider range)
    tempered-mnist, tempered-mnist-large    bayes's choice, then the temperature and the learning rate again
    bayes-fashion-mnist, bayes-cifar10, ...    the same for other data

Every method gets the same number of candidates. Each is trained on images drawn from the training pool and
scored by its negative log likelihood on other images of the pool; test images are not looked at. Finished runs
are kept, so the same command resumes, and candidates that the settings file holds are not trained again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from joblib import Parallel, delayed

from experiments.common.store import write_json
from experiments.priors import data as datasets
from experiments.priors import metrics, training
from experiments.priors.candidates import stages
from experiments.priors.grid import LEADING
from experiments.priors.job import Sources
from experiments.priors.methods import (
    ENSEMBLES,
    METHODS,
    SETTINGS_FILE,
    Settings,
    get_method,
    read_settings,
)
from experiments.priors.options import named_folder, names, whole
from experiments.priors.training import Budget

VALIDATION = 0.3
SPLIT = 1_000_000  # a seed that no comparison uses
SMALL_BUDGET = Budget(steps=150, samples=16, network="small")
FULL_BUDGETS = {
    "mnist": Budget(steps=1000, samples=8, network="small"),
    "fashion-mnist": Budget(steps=1000, samples=8, network="small"),
    "cifar10": Budget(steps=150, samples=4, network="resnet20"),
}


@dataclass(frozen=True)
class Profile:
    """Where candidates are scored: pairs of a data set and a training size (None: all that is not validation)."""

    cells: Sequence[tuple[str, int | None]]
    budget: Budget
    methods: Sequence[str]
    validation_size: int | None = None  # at most; None: all


_SMALL = tuple(m for m in METHODS if m not in ("scale-mixture", "blitz", *ENSEMBLES))
_SIZES = {"mnist": ((50, 100, 200), (500, 1000)), "fashion-mnist": ((50, 100, 200), (500, 1000)),
          "cifar10": ((50, 200), (500, 1000, 5000))}  # fmt: skip
PROFILES = {
    "compare": Profile((("embedded", None),), Budget(), ("klein", "gaussian", "blitz", "deterministic")),
    **{
        f"{kind}-{dataset}{band}": Profile([(dataset, size) for size in sizes], SMALL_BUDGET, _SMALL, 1000)
        for kind in ("bayes", "tempered")
        for dataset, bands in _SIZES.items()
        for band, sizes in zip(("", "-large"), bands, strict=True)
    },
    **{
        f"bayes-{dataset}-full": Profile([(dataset, None)], budget, (*LEADING, "klein-residual"), 1000)
        for dataset, budget in FULL_BUDGETS.items()
    },
}


# --- scores ------------------------------------------------------------------------------------


def tune(
    profile: str,
    name: str,
    sources: Sources,
    folder: Path,
    seeds: int,
    known: Sequence[dict[str, Any]] = (),
) -> list[dict[str, Any]]:
    """All candidates of a method, best first: {"settings", "NLL", "accuracy"}. Those ``known`` are not trained again."""
    torch.set_num_threads(1)  # two methods at a time are faster than two threads for one
    best = _start(profile, name)
    before = {_key(entry["settings"]): entry for entry in known}
    scored: dict[str, dict[str, Any]] = {}
    for stage in stages(profile, name):
        for settings in stage(best):
            key = _key(asdict(settings))
            if key not in scored:
                scored[key] = before.get(key) or mean_score(
                    PROFILES[profile], name, settings, sources, folder, seeds
                )
        best = Settings(**min(scored.values(), key=lambda entry: entry["NLL"])["settings"])
    return sorted(scored.values(), key=lambda entry: entry["NLL"])


def _key(settings: dict[str, Any]) -> str:
    return json.dumps(settings, sort_keys=True)


def _start(profile: str, name: str) -> Settings:
    if profile.startswith("tempered"):
        earlier = profile.replace("tempered", "bayes")
    elif profile.endswith("-full"):
        earlier = profile.replace("-full", "-large")
    else:
        return Settings(1e-3, 0.3)  # the first stage does not read it
    return get_method(name, profile=read_settings(earlier)).settings


def mean_score(
    profile: Profile, name: str, settings: Settings, sources: Sources, folder: Path, seeds: int
) -> dict[str, Any]:
    runs = [
        score(name, settings, profile, cell, SPLIT + seed, sources, folder)
        for cell, seed in product(profile.cells, range(seeds))
    ]
    means = {key: sum(run[key] for run in runs) / len(runs) for key in ("NLL", "accuracy")}
    return {"settings": asdict(settings), **means}


def score(
    name: str,
    settings: Settings,
    profile: Profile,
    cell: tuple[str, int | None],
    seed: int,
    sources: Sources,
    folder: Path,
) -> dict[str, Any]:
    """Train on one part of the training images and evaluate on another."""
    budget = replace(profile.budget, temperature=settings.temperature)
    config = {
        "method": name,
        "settings": asdict(settings),
        "budget": asdict(budget),
        "cell": cell,
        "seed": seed,
    }
    text = json.dumps(config, sort_keys=True)
    path = folder / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    dataset, size = cell
    data = sources.load(dataset, None, None, 0)
    pool, held_out = datasets.train_validation_split(data.train_labels, VALIDATION, SPLIT)
    chosen = pool[datasets.stratified_indices(data.train_labels[pool], size, seed)]
    held_out = held_out[
        datasets.stratified_indices(
            data.train_labels[held_out],
            min(len(held_out), profile.validation_size or len(held_out)),
            SPLIT,
        )
    ]
    images, validation = training.standardize(data.train_images[chosen], data.train_images[held_out])
    method = get_method(name, settings)
    labels = data.train_labels[chosen]
    trained = training.train(method, images, labels, len(data.classes), budget, seed)
    predicted = training.predict(method, trained.network, validation, budget.samples)
    measured = metrics.evaluate(predicted, data.train_labels[held_out])
    result = {"NLL": measured["cls/NLL"], "accuracy": measured["cls/Acc"], "config": config}
    write_json(path, result)
    return result


# --- the command line --------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--profile", choices=PROFILES, default="bayes-mnist", metavar="PROFILE")
    parser.add_argument("--methods", type=names, help="comma-separated (default: all of the profile)")
    parser.add_argument("--seeds", type=whole, default=1, help="training subsets a candidate is scored on")
    parser.add_argument(
        "--data-dir", type=Path, default=Path(".cache/data"), help="where downloads are, or go"
    )
    parser.add_argument("--folder", type=named_folder, action="append", default=[], metavar="NAME=FOLDER",
                        help="where a data set's images are, in train/<class>/ and test/<class>/, in place of a download")  # fmt: skip
    parser.add_argument("--jobs", type=whole, default=2, help="methods at a time, one thread each")
    parser.add_argument(
        "--output", type=Path, default=Path("results/tune"), help="folder for finished runs"
    )
    parser.add_argument("--settings", type=Path, default=SETTINGS_FILE, help="file that takes the choice")
    arguments = parser.parse_args(argv)
    arguments.output.mkdir(parents=True, exist_ok=True)
    methods = arguments.methods or PROFILES[arguments.profile].methods
    for name in methods:
        if name not in METHODS:
            parser.error(f"--methods {name}: choose from {', '.join(METHODS)}")

    sources = Sources(str(arguments.data_dir), dict(arguments.folder))
    pool = Parallel(arguments.jobs, return_as="generator")
    found = pool(
        delayed(tune)(
            arguments.profile,
            name,
            sources,
            arguments.output,
            arguments.seeds,
            recorded(arguments.settings, arguments.profile, name, arguments.seeds),
        )
        for name in methods
    )
    for name, candidates in zip(methods, found, strict=True):
        record(arguments.settings, arguments.profile, name, candidates, arguments.seeds)
        print(f"{name}: validation NLL, accuracy")
        for entry in candidates:
            print(
                f"  {entry['NLL']:.4f}  {entry['accuracy']:.4f}  {Settings(**entry['settings'])}",
                flush=True,
            )


def _how(profile: str, seeds: int) -> dict[str, Any]:
    """By what, on what and with which budget a profile's choice is made."""
    cells = [f"{dataset}, n = {size or 'all'}" for dataset, size in PROFILES[profile].cells]
    budget = asdict(PROFILES[profile].budget)
    return {"by": "mean validation NLL", "on": cells, "seeds": seeds, "budget": budget}


def recorded(path: Path, profile: str, name: str, seeds: int) -> list[dict[str, Any]]:
    """A method's candidates in the settings file, where they were scored in the same way."""
    profiles = json.loads(path.read_text(encoding="utf-8"))["profiles"] if path.is_file() else {}
    entry = profiles.get(profile, {})
    if entry.get("chosen") != _how(profile, seeds):
        return []
    return entry.get("candidates", {}).get(name, [])


def record(path: Path, profile: str, name: str, candidates: list[dict[str, Any]], seeds: int) -> None:
    """Put the best candidate into the settings file, with what was tried and how each fared."""
    settings = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"profiles": {}}
    entry = settings["profiles"].setdefault(profile, {"methods": {}, "candidates": {}})
    entry["chosen"] = _how(profile, seeds)
    entry["methods"][name] = candidates[0]["settings"]
    entry.setdefault("candidates", {})[name] = [
        {**c, "NLL": round(c["NLL"], 4), "accuracy": round(c["accuracy"], 4)} for c in candidates
    ]
    write_json(path, settings)


if __name__ == "__main__":
    from experiments.priors import tune as module  # joblib's workers find `tune` by the name of its module

    module.main()
