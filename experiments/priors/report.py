"""What the runs of a comparison say: runs.csv, report.md and its pictures, from its folder alone.

    python -m experiments.priors.report results/sweep
    python -m experiments.priors.report results/sweep --output somewhere

Tables only; what they mean is for people to write.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from experiments.common.document import Document, escape
from experiments.common.metrics import METRICS
from experiments.common.options import Parser, names
from experiments.common.statistics import holm
from experiments.common.store import Run
from experiments.common.tables import as_rows, differences, means, signed, write_csv
from experiments.priors import overview, plots, table

WORDS = {
    "cls/Acc": "accuracy",
    "cls/NLL": "NLL, nats",
    "cal/ECE": "ECE, 15 bins",
    "cls/Brier": "Brier score",
}
COMPARED = ("cls/NLL", "cls/Acc")
LN10 = 2.303
_CAPTIONS = {
    "reliability.png": "Accuracy against confidence, all seeds together. Bars below the diagonal: overconfident; the fainter a bar, the "
    "fewer predictions.",
    "kernels.png": "Kernels of the first layer, each with a scale of its own. Left: drawn from the prior (for a deterministic network, "
    "from its initialization). Right: from the posterior after training.",
    "learning.png": "Test images while training goes on.",
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(__doc__)
    parser.add_argument("results", type=Path, help="a folder of a comparison, or its runs.csv")
    parser.add_argument(
        "--measures", type=names, default=",".join((*METRICS, "KL / image")), help="that get tables"
    )
    parser.add_argument("--first", default="klein", help="the method that others are compared with")
    parser.add_argument("--output", type=Path, help="folder; without it where the results are")
    arguments = parser.parse_args(argv)
    try:
        results, runs = table.read(arguments.results)
        default = arguments.results if arguments.results.is_dir() else arguments.results.parent
        output = arguments.output or default
        print(write(results, runs, output, arguments.measures, arguments.first))
    except (ValueError, OSError) as error:
        parser.error(str(error))
    return 0


def write(
    results: pd.DataFrame,
    runs: Sequence[Run],
    output: Path,
    measures: Sequence[str] = (*METRICS, "KL / image"),
    first: str = "klein",
) -> Path:
    """runs.csv, the pictures, report.md; returns the last one's path."""
    write_csv(output / "runs.csv", results.drop(columns="variant"))
    return page(results, runs, measures, first, None if runs else output).write(output)


def page(
    results: pd.DataFrame,
    runs: Sequence[Run],
    measures: Sequence[str],
    first: str,
    folder: Path | None = None,
) -> Document:
    """The picture and one table; all else folded. ``folder``: of pictures drawn before, where the runs are gone."""
    document = Document("Weight priors, compared")
    results = table.shown(results)
    everywhere = table.at_every_temperature(results)
    temperatures = list(everywhere["temperature"].unique())
    main = "1" if "1" in temperatures else temperatures[0]
    _overview(document, everywhere[everywhere["temperature"] == main], main, measures, first)
    _introduction(document, results)
    for (dataset, temperature), some in everywhere.groupby(["dataset", "temperature"], sort=False):
        shown = [m for m in (measures if temperature == main else COMPARED) if m in some]
        with document.folded(f"{dataset}, temperature {temperature}: every method"):
            if len(temperatures) > 1 or everywhere["dataset"].nunique() > 1 or not _one_size(some):
                _means(document, some, shown)  # elsewhere it is the table above
            if temperature == main:
                _differences(document, some, first)
    _pictures(document, everywhere[everywhere["temperature"] == main], runs)
    if folder is not None and any((folder / name).is_file() for name in _CAPTIONS):
        with document.folded("Pictures"):
            document.pictures_there(folder, _CAPTIONS)
    with document.folded("Budget and settings"):
        _budget(document, results)
        _settings(document, runs)
    return document


def _overview(
    document: Document, some: pd.DataFrame, temperature: str, measures: Sequence[str], first: str
) -> None:
    words = {m: WORDS.get(m, m) for m in measures if m in some}
    compared = {m: words[m] for m in COMPARED if m in words}
    drawn = overview.picture(some, first, compared)
    one_place = _one_size(some) and some["dataset"].nunique() == 1
    seeds = some.groupby("variant")["seed"].nunique()
    if drawn is not None:
        over = "" if _one_size(some) else ", the mean over training sizes"
        document.picture(
            "forest.png",
            drawn,
            f"{escape(first)} minus each other method, seed by seed{over}; 95% intervals, temperature {escape(temperature)}.",
        )
    rows = (
        _one_place(some, [m for m in measures if m in some])
        if one_place
        else overview.over_sizes(some, compared)
    )
    document.table(as_rows(rows))
    counts = f"{seeds.min()}" if seeds.min() == seeds.max() else f"{seeds.min()} to {seeds.max()}"
    document.text(
        f"{counts} seeds; mean ± half the 95% interval (Student's t)"
        + ("." if _one_size(some) else ", means over training sizes.")
    )


def _introduction(document: Document, results: pd.DataFrame) -> None:
    hours = results["train seconds"].sum() / 3600 if "train seconds" in results else 0
    spent = f", {hours:.1f} hours of training" if hours else ""
    document.text(
        f"{len(results):,} runs{spent}. A seed's images and batches are the same for all methods, as are network and steps; only the "
        "convolutions differ."
    )
    if "KL / image" in results:
        kl = results[results["KL / image"] > 0].groupby([*table.PLACE, "method"])["KL / image"].median()
        if len(kl):
            document.text(
                f"KL / image, in nats over the number of training images, is {kl.min():.2f} to {kl.max():.2f} (medians over seeds). "
                f"A constant prediction loses ln 10 = {LN10:.2f} an image where there are ten classes: a posterior far "
                "above that is one of a stopped optimizer."
            )


def _budget(document: Document, results: pd.DataFrame) -> None:
    shared = [c for c in ("network", "steps", "batch", "samples", "test_size") if c in results]
    if not shared:
        return
    rows = results[["dataset", "train_size", *shared]].astype(object).fillna("all").drop_duplicates()
    grouped = rows.groupby(["dataset", *shared], sort=False)["train_size"].agg(
        lambda n: ", ".join(map(_size, n))
    )
    document.table(
        [["data", *shared, "training images"], *([*map(_size, i), n] for i, n in grouped.items())]
    )


def _size(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _one_size(some: pd.DataFrame) -> bool:
    return bool((some.groupby("dataset")["train_size"].nunique() == 1).all())


def _one_place(some: pd.DataFrame, measures: Sequence[str]) -> pd.DataFrame:
    columns = {
        WORDS.get(m, m): means(some.assign(all=""), "variant", "all", m).iloc[:, 0] for m in measures
    }
    return pd.DataFrame(columns).rename_axis("method").fillna("")


def _means(document: Document, some: pd.DataFrame, measures: Sequence[str]) -> None:
    """Methods down; training sizes across, or the measures where there is one size."""
    some = some.assign(size="n = " + some["train_size"].map(_size))
    if some["size"].nunique() == 1:
        document.table(as_rows(_one_place(some, measures)))
        return
    for measure in (m for m in measures if m in (*COMPARED, "cal/ECE")):  # the others are in runs.csv
        document.heading(WORDS.get(measure, measure), 3)
        document.table(as_rows(means(some, "variant", "size", measure).rename_axis("method")))


def _differences(document: Document, some: pd.DataFrame, first: str) -> None:
    """The first method minus each other one, of one data set: methods down, sizes across."""
    others = [v for v in some["variant"].unique() if v != first]
    if first not in set(some["variant"]) or not others:
        return
    sizes = "n = " + some["train_size"].map(_size)
    some = some.assign(train_size=sizes)
    for measure in (m for m in COMPARED if m in some):
        found = pd.concat(
            [
                differences(some, first, v, "variant", measure, ["train_size"]).assign(other=v)
                for v in others
            ]
        )
        if not len(found):
            continue
        tested = found["p"].notna()
        found.loc[tested, "adjusted"] = holm(found.loc[tested, "p"].tolist())
        found["cell"] = [
            signed(*row) for row in zip(found["mean"], found["half_width"], found["adjusted"], strict=True)
        ]
        cells = found.pivot(index="other", columns="train_size", values="cell").fillna("")
        cells = cells.loc[[v for v in others if v in cells.index], list(dict.fromkeys(sizes))]
        document.heading(f"{WORDS[measure]}: {escape(first)} minus the other, seed by seed", 3)
        document.table(as_rows(cells.rename_axis(f"{first} - ...")))
    document.text(
        "± half the 95% interval; p of the paired t-test after Holm's correction for all entries of a table."
    )


def _pictures(document: Document, some: pd.DataFrame, runs: Sequence[Run]) -> None:
    """Means by size; of the first place, reliability of all seeds and kernels of the first one."""
    if not _one_size(some):
        shown = {m: WORDS[m] for m in (*COMPARED, "cal/ECE") if m in some}
        with document.folded("By training size"):
            document.picture("curves.png", plots.curves(some, shown), "Means, 95% bands over seeds.")
    if not runs:
        return
    if any(run.result.get("curve") for run in runs):
        with document.folded("While training goes on"):
            words = {m: WORDS[m] for m in COMPARED}
            document.picture("learning.png", plots.learning(runs, words), _CAPTIONS["learning.png"])

    def place(run: Run) -> list[object]:
        return [run.config[key] for key in table.PLACE]

    chosen = [run for run in runs if place(run) == place(runs[0]) and run.config["start"] == "own"]
    with document.folded("Reliability"):
        document.picture("reliability.png", plots.reliability(chosen), _CAPTIONS["reliability.png"])
    with document.folded("Kernels of the first layer"):
        by_method = list({run.config["method"]: run for run in reversed(chosen)}.values())[::-1]
        document.picture("kernels.png", plots.kernels(by_method), _CAPTIONS["kernels.png"])


def _settings(document: Document, runs: Sequence[Run]) -> None:
    document.text(
        "Chosen on validation data with equal effort for each method: `python -m experiments.priors.tune`, which wrote "
        "`experiments/priors/settings`."
    )
    rows = {(r.config["method"], r.config["temperature"], f"`{r.config['settings']}`") for r in runs}
    if 0 < len(rows) <= 40:
        document.table([["method", "temperature", "settings"], *sorted(rows)])


if __name__ == "__main__":
    sys.exit(main())
