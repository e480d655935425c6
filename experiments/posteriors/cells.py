"""Cells of the comparison of priors: what the chains of one prior on one split say together, and whether they agree."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

import topoprior as tp
from experiments.common.store import Run
from experiments.common.tables import read_runs, same, without
from experiments.posteriors import converge
from experiments.posteriors.methods import total_variation
from experiments.posteriors.setting import judge

_CELL = ["dataset", "n", "seed", "prior", "size", "test", "widths", "last_gain", "chains"]


def cells(runs: Iterable[Run], role: str = "reported") -> pd.DataFrame:
    """A row a cell all of whose chains are there, of their last round: quality of the mean prediction of the chains, and whether they agree.

    r-hat and effective draws are of the predictions for the first unseen images, r-hat its 99 percent quantile, draws the median;
    "halves_apart" is the mean total variation between the first half of the chains and the others.
    """
    rounds: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        if run.config["role"] == role:
            rounds.setdefault((*_key(run.config), str(run.config["settings"])), []).append(run)
    latest: dict[tuple[str, ...], list[Run]] = {}
    spent: dict[tuple[str, ...], float] = {}
    for some in sorted(rounds.values(), key=lambda some: some[0].config["settings"]["num_samples"]):
        key = _key(some[0].config)
        spent[key] = spent.get(key, 0.0) + _seconds(some)
        if len(some) == some[0].config["chains"]:
            latest[key] = some
    return pd.DataFrame(
        [_row(some[0].config) | merged(some) | {"seconds": spent[key]} for key, some in latest.items()]
    )


def _row(config: Mapping[str, Any]) -> dict[str, Any]:
    """What says which cell it is, and how long its chains are."""
    steps = config["settings"]
    gradients = steps["warmup"] + steps["num_samples"] * steps["thinning"]
    return {name: _plain(config[name]) for name in _CELL} | {"gradients": gradients}


def _plain(value: Any) -> Any:
    """A list as text, as a table in a file has it."""
    return json.dumps(value) if isinstance(value, list | tuple) else value


def _key(config: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(_plain(config[name])) for name in _CELL)


def has(table: pd.DataFrame, cell: Mapping[str, Any]) -> bool:
    """Whether an earlier report has the cell."""
    return bool(same(table, {name: cell[name] for name in _CELL}).any())


def agree(results: Sequence[Mapping[str, Any] | None]) -> bool:
    """Whether the chains of a cell are all there and none diverged, and agree: r-hat at most that of the quick comparison."""
    if any(result is None or "failure" in result for result in results):
        return False
    return _agreement([r for r in results if r is not None])["r_hat"] <= converge.CHAIN["r_hat"]


def _agreement(results: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    stats = {name: _column(results, name) for name in ("temperature", "divergences")}
    draws = torch.tensor([result["draws"] for result in results])
    found = tp.inference.diagnose(draws, {**stats, "acceptance": torch.ones(1)})
    return {
        "r_hat": found.r_hat.flatten().quantile(0.99).item(),
        "ess": found.ess.median().item(),
        "temperature": found.temperature,
    }


def merged(runs: Iterable[Run]) -> dict[str, float]:
    """What the chains of one cell say together; those that diverged are counted and left out."""
    chains = sorted(runs, key=lambda run: run.config["chain"])
    kept = [run.result for run in chains if "failure" not in run.result]
    found: dict[str, float] = {"diverged": len(chains) - len(kept)}
    if not kept:
        return found
    p = torch.tensor([result["predictions"] for result in kept], dtype=torch.float64)
    labels, half = torch.tensor(kept[0]["labels"]), len(p) // 2
    found |= judge(p.mean(0), labels) | _agreement(kept)
    found["nll_one_chain"] = sum(judge(q, labels)["nll"] for q in p) / len(p)
    found["step_size"] = _column(kept, "step_size").mean().item()
    found["halves_apart"] = total_variation(p[:half].mean(0), p[half:].mean(0)) if half else math.nan
    return found


def _seconds(runs: Iterable[Run]) -> float:
    return math.fsum(run.result["measures"]["seconds"] for run in runs)


def _column(results: Iterable[Mapping[str, Any]], name: str) -> Tensor:
    return torch.tensor([result["measures"][name] for result in results])


def with_earlier(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """With the rows of an earlier report, where there is one: those whose cell the table does not have."""
    if path.is_file():
        made = table.reindex(columns=_CELL).to_dict("records")
        table = pd.concat([without(read_runs(path), made), table])
    if len(table):
        table = table.sort_values(["dataset", "n", "seed", "prior"], kind="stable", ignore_index=True)
    return table
