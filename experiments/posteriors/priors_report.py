"""The report on priors under the posterior: chains merged into cells, paired differences, the forest plot."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

import topoprior as tp
from experiments.common.document import Document
from experiments.common.forest import Cell, Panel, forest
from experiments.common.palette import colour
from experiments.common.statistics import holm, interval
from experiments.common.store import Run, Store
from experiments.common.tables import as_rows, differences, signed, write_csv
from experiments.posteriors.controls import PRIORS
from experiments.posteriors.engines import judge
from experiments.posteriors.methods import total_variation

KLEIN = "klein-3x3"
#: The announced comparisons; those that follow it say which step of the ladder does what, and are not tested.
FAMILY = [(KLEIN, other) for other in ("gaussian", "twin", "linear", "torus-3x3")]
LADDER = [("twin", "gaussian"), ("linear", "twin")]
SETS = {"mnist": "MNIST", "embedded": "Fashion-MNIST subset"}
PLACES = ["dataset", "n"]
_CELL = ["dataset", "n", "seed", "prior", "size", "test", "last_gain"]
_CHAIN = [name for name in [*_CELL, "chain"] if name != "prior"]
_MOST_R_HAT = 1.1
_DIGITS = {"accuracy": 3, "nll": 3, "ece": 3, "r_hat": 2, "ess": 0, "temperature": 3, "halves_apart": 3}


def cells(runs: Iterable[Run], role: str = "reported") -> pd.DataFrame:
    """A row a cell: quality of the mean prediction of all chains, and whether they agree.

    r-hat and effective draws are of the predictions for a few images, r-hat its 99 percent quantile, draws the median;
    "halves_apart" is the mean total variation between the first half of the chains and the others.
    """
    groups: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        if run.config["role"] == role:
            key = tuple(run.config[k] for k in _CELL) + (str(run.config["settings"]), run.config["data"])
            groups.setdefault(key, []).append(run)
    return pd.DataFrame(
        [dict(zip(_CELL, key, strict=False)) | merged(some) for key, some in groups.items()]
    )


def merged(runs: Iterable[Run]) -> dict[str, float]:
    """What the chains of one cell say together; those that diverged are counted and left out."""
    chains = sorted(runs, key=lambda run: run.config["chain"])
    kept = [run.result for run in chains if "failure" not in run.result]
    found: dict[str, float] = {"chains": len(kept), "diverged": len(chains) - len(kept)}
    found["seconds"] = math.fsum(run.result["measures"]["seconds"] for run in chains)
    if not kept:
        return found
    p = torch.tensor([result["predictions"] for result in kept], dtype=torch.float64)
    found |= judge(p.mean(0), torch.tensor(kept[0]["labels"]))
    found["nll_one_chain"] = sum(judge(q, torch.tensor(kept[0]["labels"]))["nll"] for q in p) / len(p)
    stats = {name: _column(kept, name) for name in ("temperature", "divergences")}
    agreement = tp.inference.diagnose(
        torch.tensor([result["draws"] for result in kept]), {**stats, "acceptance": torch.ones(1)}
    )
    half = len(p) // 2
    return found | {
        "r_hat": agreement.r_hat.flatten().quantile(0.99).item(),
        "ess": agreement.ess.median().item(),
        "temperature": agreement.temperature,
        "step_size": _column(kept, "step_size").mean().item(),
        "halves_apart": total_variation(p[:half].mean(0), p[half:].mean(0)) if half else math.nan,
    }


def _column(results: Iterable[Mapping[str, Any]], name: str) -> Tensor:
    return torch.tensor([result["measures"][name] for result in results])


def compared(table: pd.DataFrame, measure: str, pairs: list[tuple[str, str]]) -> pd.DataFrame:
    """A row a pair and place, first minus second by split.

    ``adjusted`` is Holm's p over all the rows: one that could not be tested, of a single split, was announced too and counts as p = 1.
    """
    found = [
        differences(table, first, second, "prior", measure, PLACES).assign(first=first, second=second)
        for first, second in pairs
    ]
    rows = pd.concat([f for f in found if len(f)] or [pd.DataFrame()], ignore_index=True)
    if len(rows):
        adjusted = holm(rows["p"].astype(float).fillna(1.0).tolist())
        rows["adjusted"] = pd.Series(adjusted, index=rows.index).where(rows["p"].notna())
    return rows


def paired(runs: Sequence[Run]) -> list[Run]:
    """The chains that every prior of their set and size has, at least two a cell: no prior is judged by more chains than another,
    nor by easier images."""
    kept = [run for run in runs if run.config["role"] == "reported"]
    priors: dict[tuple[Any, ...], set[str]] = {}
    have: dict[tuple[Any, ...], set[str]] = {}
    for run in kept:
        priors.setdefault(_key(run, PLACES), set()).add(run.config["prior"])
        have.setdefault(_key(run, _CHAIN), set()).add(run.config["prior"])
    kept = [run for run in kept if have[_key(run, _CHAIN)] == priors[_key(run, PLACES)]]
    counts = Counter(_key(run, _CELL) for run in kept)
    return [run for run in kept if counts[_key(run, _CELL)] > 1]


def _key(run: Run, names: Sequence[str]) -> tuple[Any, ...]:
    return tuple(run.config[name] for name in names)


# --- the page --------------------------------------------------------------------------------


def report(table: pd.DataFrame, selection: pd.DataFrame) -> Document:
    page = Document("Does the prior help under the posterior?")
    _differences(page, table)
    for (name, n), some in table.groupby(PLACES, sort=False):
        chains = some.groupby("seed")["chains"].min()
        seeds = ", ".join(f"{seed} ({count} chains)" for seed, count in chains.items())
        with page.folded(f"{SETS[name]}, n = {n}: every prior"):
            page.text(
                f"Splits {seeds}; last layer's gain {some['last_gain'].iloc[0]:g}. Means, ± half the 95% interval over splits."
            )
            page.table(as_rows(_levels(some)))
    bad = table[~(table["r_hat"] <= _MOST_R_HAT)]
    page.heading("What has not converged")
    page.text(
        f"{len(bad)} of {len(table)} cells have an r-hat above {_MOST_R_HAT}"
        + (f", the worst {bad['r_hat'].max():.2f}. " if len(bad) else ". ")
        + f"{int(table['diverged'].sum())} chains diverged. {(table['ess'] < 100).sum()} cells have fewer than 100 effective draws."
    )
    if len(bad):
        counts = bad.groupby(["dataset", "n", "prior"], sort=False)["r_hat"].agg(["count", "max"])
        with page.folded(f"Cells with an r-hat above {_MOST_R_HAT}"):
            listed = [
                [f"{SETS[d]}, n = {n}", PRIORS[p].words, int(row["count"]), f"{row['max']:.2f}"]
                for (d, n, p), row in counts.iterrows()
            ]
            page.table([["set", "prior", "cells", "largest r-hat"], *listed])
    if len(selection):
        with page.folded("How the last layer's gain was chosen"):
            _selection(page, selection)
    with page.folded("What the columns are"):
        page.text(
            "NLL in nats and accuracy of the mean prediction of all chains on unseen images; NLL of one chain's mean prediction, averaged over chains; ECE over 15 bins. r-hat: the 99 percent quantile of rank-normalized split "
            "r-hat over the predicted probabilities of 30 unseen images, the largest over splits; ESS: the median effective number of draws of the same "
            "numbers, the least over splits; temperature: kinetic, 1 for an exact sampler. Halves: total variation between the mean predictions of two "
            "halves of the chains, the largest over splits. Intervals say how results vary over what is learned from and over chains; all splits are judged by the same unseen "
            "images."
        )
    return page


def _selection(page: Document, selection: pd.DataFrame) -> None:
    selection = selection.sort_values(["dataset", "last_gain"])
    page.text(
        "NLL of short chains on training images that were held out, one split that is not reported; the mean over priors decides."
    )
    chosen = selection.assign(
        column=[
            f"{SETS[d]}, gain {g:g}"
            for d, g in zip(selection["dataset"], selection["last_gain"], strict=True)
        ]
    )
    grid = chosen.pivot_table(index="prior", columns="column", values="nll", sort=False)
    grid = grid.reindex([prior for prior in PRIORS if prior in grid.index])
    grid.loc["mean"] = grid.mean()
    page.table(as_rows(grid.map(lambda v: f"{v:.3f}").rename(index=_words)))


def _words(prior: str) -> str:
    return PRIORS[prior].words if prior in PRIORS else prior


def _levels(some: pd.DataFrame) -> pd.DataFrame:
    rows = {}
    for prior in (p for p in PRIORS if p in set(some["prior"])):
        mine = some[some["prior"] == prior]
        worst = {"r_hat": "max", "ess": "min", "temperature": "max", "halves_apart": "max"}
        rows[PRIORS[prior].words] = {
            "NLL": str(interval(mine["nll"].tolist())),
            "NLL, one chain": f"{mine['nll_one_chain'].mean():.3f}",
            "accuracy": str(interval(mine["accuracy"].tolist())),
            "ECE": f"{mine['ece'].mean():.3f}",
            **{c.replace("halves_apart", "halves"): f"{mine[c].agg(how):.{_DIGITS[c]}f}" for c, how in worst.items()},
            "seconds a chain": f"{(mine['seconds'] / (mine['chains'] + mine['diverged'])).mean():.0f}",
        }  # fmt: skip
    table = pd.DataFrame.from_dict(rows, orient="index").rename(columns={"r_hat": "r-hat", "ess": "ESS"})
    table.index.name = "prior"
    return table


def _differences(page: Document, table: pd.DataFrame) -> None:
    """The picture, the table of what was announced, the steps of the ladder."""
    nll, accuracy = (compared(table, m, FAMILY) for m in ("nll", "accuracy"))
    if len(nll):
        page.picture(
            "forest.png",
            picture(nll, accuracy),
            "Klein bottle minus each other prior, by split: the announced differences with their 95% intervals, not corrected for their "
            "number; a point without one is of a single split.",
        )
    page.table([["comparison", "set", "splits", "NLL", "accuracy"], *_rows(nll, accuracy, tested=True)])
    page.text(
        "First minus second, by split, ± half the 95% interval; in brackets p by Holm over all announced comparisons in that column, those of a single split counted as p = 1. "
        "Lower NLL and higher accuracy are better. In bold: p below .05."
    )
    if not len(nll):
        return
    ladder = [
        _rows(compared(table, "nll", [pair]), compared(table, "accuracy", [pair]), False) for pair in LADDER
    ]
    with page.folded(
        "The steps from the Gaussian prior to the linear decoder, not announced and not tested"
    ):
        page.table(
            [["comparison", "set", "splits", "NLL", "accuracy"], *(row for rows in ladder for row in rows)]
        )


def _rows(nll: pd.DataFrame, accuracy: pd.DataFrame, tested: bool) -> list[list[str]]:
    rows = []
    for (_, a), (_, b) in zip(nll.iterrows(), accuracy.iterrows(), strict=True):
        cell = []
        for x in (a, b):
            text = signed(x["mean"], x["half_width"], x["adjusted"] if tested else None)
            strong = tested and not pd.isna(x["adjusted"]) and x["adjusted"] < 0.05
            cell.append(f"**{text}**" if strong else text)
        pair = f"{_words(a['first'])} - {_words(a['second'])}"
        rows.append([pair, f"{SETS[a['dataset']]}, n = {a['n']}", str(a["seeds"]), *cell])
    return rows


def picture(nll: pd.DataFrame, accuracy: pd.DataFrame) -> bytes:
    """A row a comparison, a panel a set and measure."""
    others = list(nll["second"].unique())
    places = list(nll.groupby(PLACES, sort=False).groups)
    panels = []
    for rows, what in (
        (nll, "NLL, nats (left: Klein better)"),
        (accuracy, "accuracy (right: Klein better)"),
    ):
        for place in places:
            here = rows[(rows[PLACES] == list(place)).all(axis=1)].set_index("second")
            cells: list[Cell | None] = [None] * len(others)
            for i, other in enumerate(others):
                if other in here.index:
                    half = here.loc[other, "half_width"]
                    cells[i] = Cell(here.loc[other, "mean"], None if pd.isna(half) else half)
            panels.append(Panel(f"{SETS[place[0]]}, n = {place[1]}", what, cells))
    return forest([_words(o) for o in others], [colour(o) for o in others], panels, min(3, len(places)))


def write(store: Store, folder: Path) -> Path:
    """report.md, runs.csv with a row a cell, forest.png."""
    runs = list(store)
    table, selection = cells(paired(runs)), cells(runs, "selection")
    if not len(table):
        raise ValueError(f"--output: no reported runs with two chains of every prior in {store.folder} yet")
    write_csv(folder / "runs.csv", table)
    return report(table, selection).write(folder)
