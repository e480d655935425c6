"""What a comparison says at a glance: a forest plot of paired differences, and one table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from experiments.common.document import cut
from experiments.common.forest import Cell, Panel, forest
from experiments.common.palette import colour
from experiments.common.statistics import interval
from experiments.common.tables import means
from experiments.priors.methods import METHODS

MORE_IS_BETTER = "cls/Acc"
_DATA_SETS = 4  # in the picture: panels stay readable


def picture(results: pd.DataFrame, first: str, measures: Mapping[str, str]) -> bytes | None:
    """``first`` minus every other method, seed by seed, the mean over training sizes; None without another method.

    Args:
        results: of one temperature.
        measures: columns and what they are called; the panels are these, for each data set.
    """
    sets = list(results["dataset"].unique())[:_DATA_SETS]
    places = [(name, measure) for measure in measures for name in sets]
    rows: dict[str, list[Cell | None]] = {}
    for other in (v for v in in_order(results["variant"].unique()) if v != first):
        rows[other] = [
            difference(results[results["dataset"] == name], first, other, measure)
            for name, measure in places
        ]
    rows = {other: cells for other, cells in rows.items() if any(cells)}
    if not rows:
        return None
    panels = []
    for (name, measure), cells in zip(places, zip(*rows.values(), strict=True), strict=True):
        side = "right" if measure == MORE_IS_BETTER else "left"
        panels.append(Panel(cut(str(name)), f"{measures[measure]} ({side}: {first} better)", cells))
    across = len(sets) if len(sets) > 1 else len(measures)
    return forest(list(rows), [colour(other) for other in rows], panels, across)


def difference(some: pd.DataFrame, first: str, second: str, measure: str) -> Cell | None:
    """First minus second over the seeds that have both at every size; None where a size has one of them alone."""
    pairs = some[some["variant"].isin([first, second])].pivot_table(
        index="seed", columns=["variant", "train_size"], values=measure, dropna=False
    )
    sizes = some["train_size"].nunique()
    if not all(pairs.get(v, pd.DataFrame()).shape[1] == sizes for v in (first, second)):
        return None
    apart = (pairs[first] - pairs[second]).dropna()
    return Cell(*interval(apart.mean(axis=1).tolist())) if len(apart) else None


def over_sizes(results: pd.DataFrame, measures: Mapping[str, str]) -> pd.DataFrame:
    """Methods down, measures of every data set across: means over sizes, of the methods that have every size."""
    columns = {}
    for (name, measure), word in _pairs(results, measures):
        some = results[results["dataset"] == name]
        wide = some.pivot_table(index=["variant", "seed"], columns="train_size", values=measure, sort=False)
        mean = wide.dropna().mean(axis=1).rename(measure).reset_index().assign(all="")
        columns[f"{cut(str(name))}, {word}"] = means(mean, "variant", "all", measure).iloc[:, 0]
    found = pd.DataFrame(columns)
    return found.loc[in_order(found.index)].rename_axis("method").fillna("")


def in_order(variants: Iterable[str]) -> list[str]:
    """As the methods stand in their table, each before its other starts."""
    ranks = {name: rank for rank, name in enumerate(METHODS)}
    return sorted(variants, key=lambda v: (ranks.get(v.split(",")[0], len(ranks)), v))


def _pairs(results: pd.DataFrame, measures: Mapping[str, str]) -> Sequence[tuple[tuple[str, str], str]]:
    sets = results["dataset"].unique()
    return [((name, measure), word) for name in sets for measure, word in measures.items()]
