"""The runs of a comparison of priors: read, checked, in order."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from experiments.common.store import Run, Store
from experiments.common.tables import frame
from experiments.priors.methods import METHODS

# Of a run, what tells it from the others.
PLACE = ["dataset", "train_size", "temperature"]
KEY = [*PLACE, "method", "start", "seed"]
# Where more is better; less is in all other measures.
_SHARED = {
    "budget.network": "network",
    "budget.steps": "steps",
    "budget.batch_size": "batch",
    "budget.samples": "samples",
}
_FORMERLY = {"data set": "dataset", "n": "train_size"}
_NOT_SHOWN = (
    "data",
    "format",
    "foreign",
    "foreign_size",
    "shifts",
    "curve",
    "budget.temperature",
    "budget.warmup",
)


def read(path: Path) -> tuple[pd.DataFrame, list[Run]]:
    """The runs of a folder, or of a runs.csv; pictures need the folder.

    Raises:
        ValueError: nothing there, files that no comparison has written, or two runs of one kind that differ in their settings.
    """
    if path.is_file():
        try:
            return arrange(pd.read_csv(path, dtype={"temperature": str}).rename(columns=_FORMERLY)), []
        except (ValueError, KeyError) as error:
            raise ValueError(f"{path}: not the runs of a comparison ({error})") from None
    runs = list(Store(path / "runs"))
    if not runs:
        raise ValueError(f"{path}: no finished runs; give a folder with runs/, or a runs.csv")
    return arrange(of_runs(runs)), runs


def of_runs(runs: list[Run]) -> pd.DataFrame:
    """A row a run: what tells it from others, its budget, its measures."""
    table = frame(runs).rename(columns=_SHARED)
    twice = table[table.duplicated(KEY, keep=False)]
    if len(twice):
        first = twice.iloc[0][KEY]
        same = twice[(twice[KEY].fillna("") == first.fillna("")).all(axis=1)]
        differ = [name for name in same if same[name].astype(str).nunique() > 1]
        place = ", ".join(f"{key} {value}" for key, value in first.items())
        raise ValueError(
            f"two runs of one kind ({place}) that differ in {', '.join(differ) or 'nothing'}: "
            "comparisons with other settings or budgets belong in folders of their own"
        )
    return table.drop(columns=[c for c in table if c in _NOT_SHOWN or c.startswith("settings.")])


def arrange(table: pd.DataFrame) -> pd.DataFrame:
    """Sorted by place, method and seed, with a column "variant": the method, and its start where that is not its own."""
    known = {name: rank for rank, name in enumerate(METHODS)}
    variant = table["method"].where(
        table["start"] == "own", table["method"] + ", " + table["start"] + " start"
    )
    ranks = table["method"].map(lambda name: known.get(name, len(known)))
    ordered = table.assign(variant=variant, rank=ranks)
    ordered = ordered.sort_values([*PLACE, "rank", "variant", "seed"], kind="stable")
    return ordered.drop(columns="rank").reset_index(drop=True)


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """As people read it: folders by their last name, where that tells them apart; "all" for the whole of a training set."""
    labels = table["dataset"].unique()
    names = {label: Path(label).name if Path(label).is_absolute() else label for label in map(str, labels)}
    if len(set(names.values())) == len(names):
        table = table.assign(dataset=table["dataset"].map(names))
    size = table["train_size"]
    return table if size.notna().all() else table.assign(train_size=size.astype(object).fillna("all"))


def at_every_temperature(table: pd.DataFrame) -> pd.DataFrame:
    """Methods without a KL are run once and stand beside the others at every temperature."""
    plain = table["method"].isin(["deterministic", "ensemble"])
    copies = [table[plain].assign(temperature=t) for t in table["temperature"].unique()]
    return arrange(pd.concat([table[~plain], *copies])) if plain.any() else table
