"""What the runs of a comparison say: runs.csv, report.md and at most three pictures, from its folder alone.

    python -m experiments.priors.report results/sweep
    python -m experiments.priors.report results/sweep --output somewhere

Tables only; what they mean is for people to write.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from experiments.common.document import Document, cut, escape
from experiments.common.metrics import METRICS
from experiments.common.options import Parser, names
from experiments.common.store import Run
from experiments.common.tables import as_rows, differences, means, signed, write_csv
from experiments.priors import plots, table

WORDS = {
    "cls/Acc": "accuracy",
    "cls/NLL": "NLL (nats)",
    "cal/ECE": "ECE, 15 bins",
    "cls/Brier": "Brier score",
}
COMPARED = ("cls/NLL", "cls/Acc")
LN10 = 2.303


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
    return page(results, runs, measures, first).write(output)


def page(results: pd.DataFrame, runs: Sequence[Run], measures: Sequence[str], first: str) -> Document:
    document = Document("Weight priors, compared")
    _introduction(document, results)
    everywhere = table.at_every_temperature(results)
    for (dataset, temperature), some in everywhere.groupby(["dataset", "temperature"], sort=False):
        document.heading(f"{escape(str(dataset))}, temperature {escape(str(temperature))}")
        _means(document, some, [m for m in measures if m in some])
    _differences(document, everywhere, first)
    if results["train_size"].nunique() > 1:
        shown = [m for m in (*COMPARED, "cal/ECE") if m in everywhere]
        document.picture(
            "curves.png",
            plots.curves(everywhere, {m: WORDS[m] for m in shown}),
            "Means, 95% bands over seeds.",
        )
    if runs:
        _pictures(document, runs)
        _settings(document, runs)
    return document


def _introduction(document: Document, results: pd.DataFrame) -> None:
    hours = results["train seconds"].sum() / 3600 if "train seconds" in results else 0
    document.text(
        f"{len(results)} runs, {hours:.1f} hours of training in all. A seed's images and batches are the same for all methods, as are "
        "network and steps; only the convolutions differ. Mean over seeds ± half its 95% interval (Student's t)."
    )
    if "KL / image" in results:
        kl = results[results["KL / image"] > 0].groupby("method", sort=False)["KL / image"].median()
        if len(kl):
            document.text(
                f"KL / image is KL(posterior || prior) in nats over the number of training images, its median from {kl.min():.2f} to "
                f"{kl.max():.2f} by method. Leaving the weights at the prior would cost about ln 10 = {LN10:.2f} an image where there "
                "are ten classes: a posterior whose KL is far above that is one of a stopped optimizer."
            )
    shared = [c for c in ("network", "steps", "batch", "samples", "test_size") if c in results]
    if shared:
        rows = results[["dataset", "train_size", *shared]].astype(object).fillna("all").drop_duplicates()
        grouped = rows.groupby(["dataset", *shared], sort=False)["train_size"].agg(
            lambda n: ", ".join(map(_size, n))
        )
        document.table(
            [["data", *shared, "training images"], *([*map(_size, i), n] for i, n in grouped.items())]
        )


def _size(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _means(document: Document, some: pd.DataFrame, measures: Sequence[str]) -> None:
    """Methods down; training sizes across, or the measures where there is one size."""
    some = some.assign(size="n = " + some["train_size"].map(_size).replace("nan", "all"))
    if some["size"].nunique() == 1:
        columns = {WORDS.get(m, m): means(some, "variant", "size", m).iloc[:, 0] for m in measures}
        document.table(as_rows(pd.DataFrame(columns).rename_axis("method").fillna("")))
        return
    for measure in measures:
        document.heading(WORDS.get(measure, measure), 3)
        document.table(as_rows(means(some, "variant", "size", measure).rename_axis("method")))


def _differences(document: Document, results: pd.DataFrame, first: str) -> None:
    """The first method minus each other one, a row a place."""
    others = [v for v in results["variant"].unique() if v != first]
    if first not in set(results["variant"]) or not others:
        return
    document.heading("Paired differences, seed by seed")
    document.text(
        f"{escape(first)} minus the other, ± half the 95% interval, with the p-value of the paired t-test after Holm's correction for "
        "all entries of a column."
    )
    results = results.assign(train_size=results["train_size"].map(_size).replace("nan", "all"))
    for other in others:
        columns = {}
        for measure in COMPARED:
            found = differences(results, first, other, "variant", measure, table.PLACE)
            if len(found):
                names = (
                    found["dataset"].map(cut)
                    + ", n = "
                    + found["train_size"]
                    + ", T = "
                    + found["temperature"]
                )
                cells = [
                    signed(*row)
                    for row in zip(found["mean"], found["half_width"], found["adjusted"], strict=True)
                ]
                columns["seeds"] = pd.Series(found["seeds"].tolist(), names)
                columns[WORDS[measure]] = pd.Series(cells, names)
        if columns:
            document.table(as_rows(pd.DataFrame(columns).rename_axis(f"{first} - {other}").fillna("")))


def _pictures(document: Document, runs: Sequence[Run]) -> None:
    """Of the first place: reliability of all seeds, kernels of the first one."""

    def place(run: Run) -> list[object]:
        return [run.config[key] for key in table.PLACE]

    chosen = [run for run in runs if place(run) == place(runs[0]) and run.config["start"] == "own"]
    document.picture(
        "reliability.png",
        plots.reliability(chosen),
        "Accuracy against confidence, all seeds together. Bars below the diagonal: overconfident; the fainter a bar, the fewer predictions.",
    )
    document.picture(
        "kernels.png",
        plots.kernels(list({run.config["method"]: run for run in reversed(chosen)}.values())[::-1]),
        "Kernels of the first layer, each with a scale of its own. Left: drawn from the prior (for a deterministic network, from "
        "its initialization). Right: from the posterior after training.",
    )


def _settings(document: Document, runs: Sequence[Run]) -> None:
    document.heading("Settings")
    document.text(
        "Chosen on validation data with equal effort for each method: `python -m experiments.priors.tune`."
    )
    rows = {(r.config["method"], r.config["temperature"], f"`{r.config['settings']}`") for r in runs}
    if len(rows) <= 40:
        document.table([["method", "temperature", "settings"], *sorted(rows)])


if __name__ == "__main__":
    sys.exit(main())
