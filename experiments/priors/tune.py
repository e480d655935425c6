"""Choose each method's settings, or the network, on validation data with the same effort for all.

    python -m experiments.priors.tune --profile bayes-mnist --data-dir data --jobs 2
    python -m experiments.priors.tune --profile tempered-mnist --data-dir data --jobs 2
    python -m experiments.priors.tune --profile network --seeds 2 --data-dir data

A profile is a network, a budget, data, and what may be chosen:

    compare           experiments.priors.compare's network on the embedded images: learning rate, start of the posterior, how
                      fast latents (or weights) learn beside the last layer
    bayes-mnist       the sweep's network on 50, 100 and 200 images of MNIST: the same, the last layer's weight decay,
                      the noise at the start and the prior's scale, at T = 1
    bayes-mnist-large       on 500 and 1,000 images
    bayes-mnist-full        on 42,000 images and with more steps: -large's choice, then weight decay, both rates
                            (bayes-cifar10-full has another network: the second rate over a wider range)
    tempered-mnist, tempered-mnist-large    bayes's choice, then the temperature and the learning rate again
    bayes-fashion-mnist, bayes-cifar10, ...    the same for other data
    network           every network with Klein, Gaussian and deterministic convolutions, four candidates each; the one of the least
                      mean of their best scores is chosen, a rule that ignores who wins

Every method gets the same number of candidates. Each is trained on images drawn from the training pool and
scored by its negative log likelihood on other images of the pool; test images are not looked at. Finished runs
are kept, so the same command resumes. Writes OUTPUT/PROFILE.json, the choice, and OUTPUT/PROFILE.csv, every candidate's score; copy
the choice to experiments/priors/settings to use it.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.common import metrics, options
from experiments.common.engine import Pool, compute
from experiments.common.options import Parser, named_folder, names, say, whole
from experiments.common.splits import stratified_indices, train_validation_split
from experiments.common.store import Store, write_json
from experiments.common.tables import write_csv
from experiments.priors import training
from experiments.priors.candidates import of_network, stages
from experiments.priors.grid import LEADING
from experiments.priors.job import Sources
from experiments.priors.methods import (
    ENSEMBLES,
    METHODS,
    SETTINGS_FOLDER,
    Settings,
    get_method,
    read_settings,
)
from experiments.priors.networks import NETWORKS
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
NETWORK = "network"
PROFILES = {
    # Embedded images in place of Fashion-MNIST: one download less.
    NETWORK: Profile([("mnist", 100), ("embedded", 100)], SMALL_BUDGET, LEADING, 1000),
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


@dataclass(frozen=True)
class Trial:
    """A candidate on one training subset: everything that its score depends on."""

    method: str
    network: str
    dataset: str
    train_size: int | None
    seed: int
    settings: Settings
    budget: Budget
    validation_size: int | None
    data: str

    def config(self) -> dict[str, Any]:
        return asdict(self)


def score(trial: Trial, sources: Sources) -> dict[str, Any]:
    """Train on one part of the training images and evaluate on another."""
    data = sources.load(trial.dataset, digest=trial.data)
    pool, held_out = train_validation_split(data.train_labels, VALIDATION, SPLIT)
    chosen = pool[stratified_indices(data.train_labels[pool], trial.train_size, SPLIT + trial.seed)]
    size = min(len(held_out), trial.validation_size or len(held_out))
    held_out = held_out[stratified_indices(data.train_labels[held_out], size, SPLIT)]
    images, validation = training.standardize(data.train_images[chosen], data.train_images[held_out])
    method, labels = get_method(trial.method, trial.settings), data.train_labels[chosen]
    trained = training.train(method, images, labels, len(data.classes), trial.budget, SPLIT + trial.seed)
    predicted = training.predict(method, trained.network, validation, trial.budget.samples)
    measured = metrics.evaluate(predicted, data.train_labels[held_out])
    return {"measures": {"NLL": measured["cls/NLL"], "accuracy": measured["cls/Acc"]}}


def tell(result: dict[str, Any]) -> str:
    return f"validation NLL {result['measures']['NLL']:.4f}"


@dataclass
class Tuner:
    """Candidates of one profile, scored stage after stage, all methods of a stage together."""

    profile: Profile
    digests: dict[str, str]
    seeds: int
    first_seed: int
    store: Store
    sources: Sources
    pool: Pool

    def trials(self, method: str, settings: Settings, budget: Budget) -> Iterator[Trial]:
        budget = replace(budget, temperature=settings.temperature)
        for (dataset, size), seed in product(
            self.profile.cells, range(self.first_seed, self.first_seed + self.seeds)
        ):
            yield Trial(
                method, budget.network, dataset, size, seed, settings, budget,
                self.profile.validation_size, self.digests[dataset],
            )  # fmt: skip

    def scores(self, candidates: Sequence[tuple[str, Settings, Budget]]) -> pd.DataFrame:
        """A row a candidate: method, network, settings, mean NLL and accuracy.

        Raises:
            ValueError: a trial failed; the others are kept.
        """
        trials = [trial for candidate in candidates for trial in self.trials(*candidate)]
        failed = compute(
            trials, functools.partial(score, sources=self.sources), self.store, self.pool, tell
        )
        if failed:
            raise ValueError(f"{failed} runs failed, and without them nothing can be chosen")
        rows = []
        for method, settings, budget in candidates:
            found = [self.store.get(trial.config()) for trial in self.trials(method, settings, budget)]
            mean = pd.DataFrame([run["measures"] for run in found if run]).mean()
            rows.append({"method": method, "network": budget.network, "settings": settings, **mean})
        return pd.DataFrame(rows)


def best(scores: pd.DataFrame, method: str) -> Settings:
    some = scores[scores["method"] == method]
    return some.loc[some["NLL"].idxmin(), "settings"]


def tune(tuner: Tuner, profile: str, methods: Sequence[str], settings: Path) -> pd.DataFrame:
    """Every candidate of every method; `best` chooses. ``settings``: of earlier profiles, where those of this package are not meant."""
    chosen = {name: _start(profile, name, settings) for name in methods}
    plans = {name: stages(profile, name) for name in methods}
    scores = pd.DataFrame()
    for stage in range(max(map(len, plans.values()))):
        say(f"stage {stage + 1} of {max(map(len, plans.values()))}")
        candidates = [(n, s, tuner.profile.budget) for n in methods for s in plans[n][stage](chosen[n])]
        scores = pd.concat([scores, tuner.scores(candidates)], ignore_index=True)
        chosen = {name: best(scores, name) for name in methods}
    return scores


def _start(profile: str, name: str, settings: Path) -> Settings:
    if profile.startswith("tempered"):
        earlier = profile.replace("tempered", "bayes")
    elif profile.endswith("-full"):
        earlier = profile.replace("-full", "-large")
    else:
        return Settings(1e-3, 0.3)  # the first stage does not read it
    folder = settings if (settings / f"{earlier}.json").is_file() else SETTINGS_FOLDER
    return get_method(name, profile=read_settings(earlier, folder)).settings


def choose_network(scores: pd.DataFrame) -> tuple[str, pd.DataFrame]:
    """The network of the least mean, over methods, of each one's best NLL; and those NLLs."""
    least = scores.groupby(["network", "method"], sort=False)["NLL"].min().unstack()
    least["mean"] = least.mean(axis=1)
    return str(least["mean"].idxmin()), least


# --- the command line --------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser()
    arguments = parser.parse_args(argv)
    profile, output = PROFILES[arguments.profile], arguments.output
    with parser.ending(output) as ending:
        methods = arguments.methods or profile.methods
        options.check_known(methods, METHODS, "--methods")
        options.check_known(arguments.networks, NETWORKS, "--networks")
        options.check_writable(output)
        if arguments.steps:
            profile = replace(profile, budget=replace(profile.budget, steps=arguments.steps))
        sources = Sources(str(arguments.data_dir), dict(arguments.folder))
        digests = sources.digests(dataset for dataset, _ in profile.cells)
        options.write_config(arguments)
        tuner = Tuner(
            profile,
            digests,
            arguments.seeds,
            arguments.seed,
            Store(output / "runs"),
            sources,
            Pool.of(arguments),
        )
        how = {"by": "mean validation NLL", "seeds": arguments.seeds, "budget": asdict(profile.budget),
               "on": [f"{dataset}, n = {size or 'all'}" for dataset, size in profile.cells]}  # fmt: skip
        if arguments.profile == NETWORK:
            budgets = [replace(profile.budget, network=name) for name in arguments.networks]
            scores = tuner.scores([(n, s, b) for b in budgets for n in methods for s in of_network(n)])
            network, table = choose_network(scores)
            write_json(output / "network.json", {"chosen": how, "network": network})
            print(f"{table.to_string(float_format='%.4f')}\nleast mean NLL: {network}")
        else:
            scores = tune(tuner, arguments.profile, methods, output)
            choice = {name: asdict(best(scores, name)) for name in methods}
            write_json(output / f"{arguments.profile}.json", {"chosen": how, "methods": choice})
            print("\n".join(f"{name}: {settings}" for name, settings in choice.items()))
        write_csv(output / f"{arguments.profile}.csv", scores)
    return ending.status


def make_parser() -> Parser:
    parser = Parser(__doc__)
    add = parser.add_argument
    add(
        "--profile",
        choices=PROFILES,
        default="bayes-mnist",
        metavar="PROFILE",
        help="what is chosen, on what",
    )
    add("--methods", type=names, help="comma-separated; without it all of the profile")
    add("--networks", type=names, default=",".join(NETWORKS), help="of the profile network")
    add("--seeds", type=whole, default=1, help="training subsets a candidate is scored on")
    add("--steps", type=whole, help="of the optimizer; without it the profile's")
    add("--data-dir", type=Path, default=Path(".cache/data"), help="where downloads are, or go")
    add("--folder", type=named_folder, action="append", default=[], metavar="NAME=FOLDER",
        help="where a data set's images are, in train/<class>/ and test/<class>/, in place of a download")  # fmt: skip
    parser.add_usual("results/tune")
    Pool.add_options(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
