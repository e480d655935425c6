"""The report on priors under the posterior: paired differences, every prior of a place, what did not converge, pictures."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.common.document import Document
from experiments.common.forest import Cell, Panel, forest, plain
from experiments.common.palette import colour
from experiments.common.pictures import png
from experiments.common.statistics import interval
from experiments.common.store import Store
from experiments.common.tables import (
    adjusted,
    announced,
    as_rows,
    differences,
    signed,
    write_csv,
)
from experiments.posteriors import converge
from experiments.posteriors.cells import cells, with_earlier
from experiments.posteriors.controls import PRIORS

KLEIN = "klein-3x3"
KLEIN_AND = ("gaussian", "twin", "linear", "torus-3x3")
#: The announced comparisons; those that follow it say which step of the ladder does what, and are not tested.
FAMILY = [(KLEIN, other) for other in KLEIN_AND]
LADDER = [("twin", "gaussian"), ("linear", "twin")]
SETS = {"mnist": "MNIST", "embedded": "Fashion-MNIST subset"}
PLACES = ["dataset", "n"]
_DIGITS = {"r_hat": 2, "ess": 0, "temperature": 3, "halves_apart": 3}


def compared(
    table: pd.DataFrame, measure: str, pairs: list[tuple[str, str]], family: int = 0
) -> pd.DataFrame:
    """First minus second by split: ``adjusted`` is Holm's p over the pairs of a place, ``overall`` that over all rows, or over ``family``
    announced ones if they are more."""
    rows = announced(table, pairs, "prior", measure, PLACES, family).rename(columns={"adjusted": "overall"})
    if not len(rows):
        return rows
    rows["adjusted"] = rows.groupby(PLACES)["p"].transform(adjusted)
    return rows.sort_values(PLACES, kind="stable", ignore_index=True)


def report(table: pd.DataFrame, selection: pd.DataFrame, halved: pd.DataFrame, family: int = 0) -> Document:
    page = Document("Does the prior help under the posterior?")
    _differences(page, table, family)
    if (table.groupby("dataset")["n"].nunique() > 1).any():
        page.picture(
            "sizes.png",
            sizes(table),
            "Against images to learn from: means over splits; on the right by how much the NLL is above that under the Klein prior on the same splits, with 95% "
            "intervals, not corrected for their number.",
        )
    for place, some in table.groupby(PLACES, sort=False):
        with page.folded(f"{_place(place)}: every prior"):
            page.text(
                f"{some['seed'].nunique()} splits, {some['chains'].max()} chains a cell, last layer's gain {some['last_gain'].iloc[0]:g}. "
                "Means, ± half the 95% interval over splits."
            )
            page.table(as_rows(_levels(some)))
    bad = table[~(table["r_hat"] <= converge.CHAIN["r_hat"])]
    page.heading("What has not converged")
    page.text(
        f"{len(bad)} of {len(table)} cells have an r-hat above {converge.CHAIN['r_hat']}"
        + (f", the worst {bad['r_hat'].max():.2f}. " if len(bad) else ". ")
        + f"{int(table['diverged'].sum())} chains diverged. {(table['ess'] < 100).sum()} cells have fewer than 100 effective draws."
    )
    if len(bad):
        counts = bad.groupby(["dataset", "n", "prior"], sort=False)["r_hat"].agg(["count", "max"])
        page.table(
            [["set", "prior", "cells", "largest r-hat"]]
            + [
                [_place(key[:2]), PRIORS[key[2]].words, str(int(row["count"])), f"{row['max']:.2f}"]
                for key, row in counts.iterrows()
            ]
        )
    if len(halved):
        page.heading("Half the step")
        _halved(page, table, halved)
    if len(selection):
        with page.folded("How the last layer's gain was chosen"):
            _selection(page, selection)
    with page.folded("What the columns are"):
        page.text(
            "NLL in nats and accuracy of the mean prediction of all chains on unseen images; ECE over 15 bins. r-hat: the 99 percent quantile of rank-normalized split "
            f"r-hat over the predicted probabilities of {converge.CHAIN['judges']} unseen images, the largest over splits; ESS: the median effective number of draws of the same "
            "numbers, the least over splits; gradients: of a chain, the mean over splits; temperature: kinetic, 1 for an exact sampler, the largest over splits; halves: total "
            "variation between the mean predictions of two halves of the chains, the largest over splits. Intervals say how results vary over what is learned from, over unseen images and chains."
        )
    return page


def _halved(page: Document, table: pd.DataFrame, halved: pd.DataFrame) -> None:
    """What a smaller step changes, by prior and in the announced differences, on the splits that have both."""
    cells_of_both = halved.merge(table, on=[*PLACES, "prior", "seed"], suffixes=("", " usual")).dropna(
        subset=["step_size usual"]
    )
    page.text(
        "The chains have no accept step, so their law depends on the step. Cells made again with "
        f"{(cells_of_both['step_size'] / cells_of_both['step_size usual']).mean():.2f} of it, {halved['gradients'].mean():,.0f} gradients a chain, largest r-hat "
        f"{halved['r_hat'].max():.2f}: NLL with the small step minus that with the usual one, paired by split, ± half the 95% interval, neither announced nor corrected."
    )
    both = pd.concat([table.assign(step="usual"), halved.assign(step="small")])
    rows = [["prior", "set", "splits", "NLL, small step - usual", "accuracy"]]
    nll, accuracy = (
        differences(both, "small", "usual", "step", m, [*PLACES, "prior"]) for m in ("nll", "accuracy")
    )
    for (_, a), (_, b) in zip(nll.iterrows(), accuracy.iterrows(), strict=True):
        cells = (signed(x["mean"], x["half_width"]) for x in (a, b))
        rows.append([_words(a["prior"]), _place((a["dataset"], a["n"])), str(a["seeds"]), *cells])
    page.table(rows)
    pairs = [pair for pair in FAMILY if set(pair) <= set(halved["prior"])]
    nll, accuracy = (compared(halved, m, pairs) for m in ("nll", "accuracy"))
    page.text("The announced differences with the small step:")
    page.table([["comparison", "set", "splits", "NLL", "accuracy"], *_rows(nll, accuracy, tested=False)])


def _place(place: Any) -> str:
    name, n = place
    return f"{SETS.get(name, name)}, n = {n}"


def sizes(table: pd.DataFrame) -> bytes:
    """A row a set against n, a line a prior: means over splits, and what the NLL has over that under the Klein prior, paired by split."""
    from matplotlib.figure import Figure

    places = list(table.groupby("dataset", sort=False))
    figure = Figure(figsize=(8.3, 2.4 * len(places) + 0.6), layout="constrained")
    axes = figure.subplots(len(places), 3, squeeze=False)
    for row, (name, some) in zip(axes, places, strict=True):
        ticks = sorted(some["n"].unique())
        for k, prior in enumerate(p for p in PRIORS if p in set(some["prior"])):
            of_prior = some[some["prior"] == prior].groupby("n")
            style = {"color": colour(prior), "marker": "o", "markersize": 3, "linewidth": 1}
            for axis, measure in zip(row, ("nll", "ece"), strict=False):
                axis.plot(of_prior[measure].mean(), label=_words(prior), **style)
            paired = differences(some, prior, KLEIN, "prior", "nll", ["n"])
            if prior != KLEIN and len(paired):
                beside = paired["n"] * 1.04 ** (k - 2)
                row[2].errorbar(beside, paired["mean"], paired["half_width"].fillna(0), capsize=2, **style)
        row[0].set_ylabel(plain(SETS.get(str(name), name)), fontsize=9)
        row[2].axhline(0, color=colour(KLEIN), linewidth=1, zorder=0)
        for axis, what in zip(
            row, ("NLL, nats", "calibration error", "NLL above Klein's, nats"), strict=True
        ):
            axis.set_title(what, fontsize=9)
            axis.set(xscale="log", xlim=(0.8 * min(ticks), 1.25 * max(ticks)))
            axis.set_xticks(ticks, [str(n) for n in ticks])
            axis.minorticks_off()
            axis.tick_params(labelsize=8)
            axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[-1]:
        axis.set_xlabel("images to learn from", fontsize=9)
    figure.legend(
        *axes[0][0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=3,
        frameon=False,
        fontsize=9,
    )
    return png(figure)


def _selection(page: Document, selection: pd.DataFrame) -> None:
    selection = selection.sort_values(["dataset", "last_gain"])
    page.text(
        "NLL of short chains on training images that were held out, one split that is not reported; the mean over priors decides."
    )
    chosen = selection.assign(
        column=[
            f"{SETS.get(d, d)}, gain {g:g}"
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
        mine = mine.reindex(columns=mine.columns.union(list(worst), sort=False))
        rows[PRIORS[prior].words] = {
            "splits": str(len(mine)),
            "NLL": str(interval(mine["nll"].tolist())),
            "accuracy": str(interval(mine["accuracy"].tolist())),
            "ECE": f"{mine['ece'].mean():.3f}",
            **{c.replace("halves_apart", "halves"): f"{mine[c].agg(how):.{_DIGITS[c]}f}".replace("nan", "") for c, how in worst.items()},
            "gradients": f"{mine['gradients'].mean():,.0f}",
            "seconds a chain": f"{(mine['seconds'] / mine['chains']).mean():.0f}",
        }  # fmt: skip
    table = pd.DataFrame.from_dict(rows, orient="index").rename(columns={"r_hat": "r-hat", "ess": "ESS"})
    table.index.name = "prior"
    return table


def _differences(page: Document, table: pd.DataFrame, family: int) -> None:
    """The picture, the table of what was announced, the steps of the ladder."""
    nll, accuracy = (compared(table, m, FAMILY, family) for m in ("nll", "accuracy"))
    if len(nll):
        page.picture(
            "forest.png",
            picture(nll, accuracy),
            "Klein bottle minus each other prior, by split: the announced differences with their 95% intervals, not corrected for their "
            "number; a point without one is of a single split.",
        )
    page.table([["comparison", "set", "splits", "NLL", "accuracy"], *_rows(nll, accuracy, tested=True)])
    page.text(
        "First minus second, by split, ± half the 95% interval; in brackets p by Holm over the announced comparisons of that place in that column, then over "
        + (
            f"the {family} that were announced in all, of which those that were not run count as p = 1"
            if family > len(nll)
            else "all rows of the column"
        )
        + "; in bold where that is below .05. Lower NLL and higher accuracy are better."
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
            text = signed(x["mean"], x["half_width"])
            if tested and not pd.isna(x["p"]):
                text += f" (p {x['adjusted']:.2g}, {x['overall']:.2g})"
            cell.append(f"**{text}**" if tested and x["overall"] < 0.05 else text)
        pair = f"{_words(a['first'])} - {_words(a['second'])}"
        rows.append([pair, _place((a["dataset"], a["n"])), str(a["seeds"]), *cell])
    return rows


def picture(nll: pd.DataFrame, accuracy: pd.DataFrame) -> bytes:
    """A row a comparison and size, a column a set, a line a measure."""
    there = set(zip(nll["second"], nll["n"], strict=True))
    rows = [row for row in product(KLEIN_AND, sorted(nll["n"].unique())) if row in there]
    panels = []
    for found, what in (
        (nll, "NLL, nats (left: Klein better)"),
        (accuracy, "accuracy (right: Klein better)"),
    ):
        for name, here in found.groupby("dataset", sort=False):
            of = {(r["second"], r["n"]): r for _, r in here.iterrows()}
            cells = [Cell.of(of[row]) if row in of else None for row in rows]
            panels.append(Panel(SETS.get(str(name), str(name)), what, cells))
    labels = [f"{_words(other)}, n = {n}" for other, n in rows]
    return forest(labels, [colour(other) for other, _ in rows], panels, len(panels) // 2)


def write(store: Store, folder: Path, family: int = 0) -> Path:
    """report.md, runs.csv with a row a cell, pictures. Rows of a runs.csv that is there stay, unless the store has their cell.

    Args:
        family: how many comparisons were announced, if they are more than were run.

    Raises:
        ValueError: no cell in either.
    """
    runs, path, of_half = list(store), folder / "runs.csv", folder / "half-step.csv"
    table, selection = with_earlier(cells(runs), path), cells(runs, "selection")
    if not len(table):
        raise ValueError(f"--output: no cell with all its chains in {store.folder} yet")
    write_csv(path, table)
    halved = with_earlier(cells(runs, "half step"), of_half)
    if len(halved):
        write_csv(of_half, halved)
    return report(table, selection, halved, family).write(folder)
