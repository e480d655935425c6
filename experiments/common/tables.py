"""Runs as a data frame, a row each, and what it says: means over seeds, paired differences."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.common.statistics import holm, interval, paired_t_test
from experiments.common.store import Run
from topoprior.utils.files import write_atomically


def frame(runs: Iterable[Run]) -> pd.DataFrame:
    """A row a run: numbers and words of its configuration, those of a dict in it with the dict's name, then its measures."""
    rows = [{**_flat(run.config), **run.result["measures"]} for run in runs]
    return pd.DataFrame(rows)


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            found |= {f"{key}.{k}": v for k, v in _flat(value).items()}
        else:
            found[key] = json.dumps(value) if isinstance(value, list | tuple) else value
    return found


def same(table: pd.DataFrame, config: Mapping[str, Any]) -> pd.Series:
    """Which rows of a runs.csv are runs of this configuration: where the runs' files are gone, what need not be run again.

    A row agrees in all that ``config`` has; an entry that is no column agrees with none. Columns of a dict in ``config``
    are to hold its entries and no others. Other columns are not looked at.

    Example:
        >>> table = pd.DataFrame({"seed": [0, 1, 1], "prior.name": ["a", "a", "b"], "prior.scale": [None, None, 0.1], "nll": 1.0})
        >>> same(table, {"seed": 1}).tolist()
        [False, True, True]
        >>> same(table, {"seed": 1, "prior": {"name": "b"}}).tolist()
        [False, False, False]
        >>> same(table, {"seed": 1, "prior": {"name": "b", "scale": 0.1}}).tolist()
        [False, False, True]
    """
    dicts = tuple(f"{key}." for key, value in config.items() if isinstance(value, Mapping))
    wanted = {str(name): None for name in table if dicts and str(name).startswith(dicts)} | _flat(config)
    agree = pd.Series(wanted.keys() <= set(table), index=table.index)
    for name in wanted if agree.any() else ():
        column, value = table[name], wanted[name]
        agree &= column.isna() if value is None else column == value
    return agree


def read_runs(path: Path | None) -> pd.DataFrame:
    """A runs.csv to go on from, whose digests stay words: one may look like a number. Nothing where there is no ``path``.

    Raises:
        ValueError: no such file.
    """
    if path is None:
        return pd.DataFrame()
    if not path.is_file():
        raise ValueError(f"--earlier {path}: no such file")
    return pd.read_csv(path, dtype={"data": str})


def without(table: pd.DataFrame, configs: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """The rows that are runs of none of these configurations, as :func:`same` has it."""
    for config in configs:
        table = table[~same(table, config)]
    return table


def write_csv(path: Path, table: pd.DataFrame) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, table.to_csv(index=False).encode("utf-8", "backslashreplace"))


def means(table: pd.DataFrame, rows: str, columns: str, measure: str) -> pd.DataFrame:
    """Mean ± half the 95% interval over seeds, as text; rows and columns as they come."""
    found = table.dropna(subset=[measure]).groupby([rows, columns], sort=False)[measure]
    cells = found.apply(lambda values: str(interval(values.tolist())))
    return cells.unstack(columns).fillna("")


def differences(
    table: pd.DataFrame, first: str, second: str, by: str, measure: str, places: Sequence[str]
) -> pd.DataFrame:
    """First minus second, seed by seed, at every place that has both; Holm's p over all the rows.

    Args:
        by: the column that holds ``first`` and ``second``.
        places: columns within which runs are compared.

    Returns:
        a row a place: ``places``, mean, half_width, p, seeds, adjusted.
    """
    pairs = table[table[by].isin([first, second])].pivot_table(
        index=[*places, "seed"], columns=by, values=measure, sort=False
    )
    if not {first, second} <= set(pairs.columns):
        return pd.DataFrame()
    rows = []
    for place, some in pairs.dropna().groupby(level=list(range(len(places))), sort=False):
        place = place if isinstance(place, tuple) else (place,)
        result = paired_t_test(some[first].tolist(), some[second].tolist())
        rows.append({**dict(zip(places, place, strict=True)), **result._asdict()})
    found = pd.DataFrame(rows, columns=[*places, "mean", "half_width", "p", "seeds"])
    tested = found["p"].notna()
    found.loc[tested, "adjusted"] = holm(found.loc[tested, "p"].tolist())
    return found


def announced(
    table: pd.DataFrame,
    pairs: Sequence[tuple[str, str]],
    by: str,
    measure: str,
    places: Sequence[str],
    family: int = 0,
) -> pd.DataFrame:
    """:func:`differences` of every pair, named in ``first`` and ``second``; ``adjusted`` is Holm's p over all rows.

    Args:
        family: how many comparisons were announced, if they are more than the rows; those that are not there count as p = 1.
    """
    found = [
        differences(table, first, second, by, measure, places).assign(first=first, second=second)
        for first, second in pairs
    ]
    rows = pd.concat([some for some in found if len(some)] or [pd.DataFrame()], ignore_index=True)
    return rows.assign(adjusted=adjusted(rows["p"], family)) if len(rows) else rows


def adjusted(p: pd.Series, family: int = 0) -> pd.Series:
    """Holm's p; what could not be tested, of a single seed or not run, was announced too and counts as p = 1."""
    values = p.astype(float).fillna(1.0).tolist()
    found = holm(values + [1.0] * (family - len(values)))
    return pd.Series(found[: len(values)], index=p.index).where(p.notna())


def signed(mean: float, half_width: float | None, adjusted: float | None = None) -> str:
    """A difference as text, with the p-value if there is one."""
    text = f"{mean:+.4f}"
    if half_width is not None and not pd.isna(half_width):
        text += f" ± {half_width:.4f}"
    return text if adjusted is None or pd.isna(adjusted) else f"{text} (p {adjusted:.2g})"


def as_rows(table: pd.DataFrame) -> list[list[str]]:
    """For `Document.table`: the header, then index and cells of every row."""
    head = [str(table.index.name or ""), *map(str, table.columns)]
    return [head, *([str(i), *map(str, row)] for i, row in zip(table.index, table.to_numpy(), strict=True))]
