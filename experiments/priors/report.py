"""One page about a sweep, from its result files alone: report.md, report.html, pictures and summary.json.

    python -m experiments.priors.report results/sweep
    python -m experiments.priors.report experiments/results/small-data/summary.json --output somewhere

summary.json holds every run's results in one small file, and is itself a source for the report. See --help.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from experiments.common.document import Document
from experiments.priors import plots as report_plots
from experiments.priors import quick_report as report
from experiments.priors import table as summary
from experiments.priors.findings import (
    ACCURACY,
    COMPARED,
    ECE,
    KLEIN,
    NLL,
    PUBLISHED,
    WORDS,
    best_in,
    findings,
)
from experiments.priors.options import Parser
from experiments.priors.table import Cell, Comparison, Run, Table, Variant, against
from topoprior.utils.files import write_atomically

_MAIN = {ACCURACY: "accuracy", NLL: "NLL (nats)", ECE: "ECE, 15 bins"}
_IN_PLOTS = (KLEIN, Variant("klein-residual"), Variant("gaussian"), Variant("gaussian", "klein"),
             Variant("deterministic"), Variant("klein-ensemble"), Variant("ensemble"))  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    description, _, epilog = (__doc__ or "").partition("\n\n")
    parser = Parser(
        prog="make_report.py",
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("results", type=Path, help="a sweep's folder, or a summary.json")
    parser.add_argument("--output", type=Path, help="folder (default: where the results are)")
    arguments = parser.parse_args(argv)
    try:
        runs = summary.read_runs(arguments.results)
        default = arguments.results if arguments.results.is_dir() else arguments.results.parent
        output = arguments.output or default
        page = make(runs, _failures(arguments.results))
        output.mkdir(parents=True, exist_ok=True)
        for name, content in page.pictures.items():
            write_atomically(output / name, content)
        compact = json.dumps(summary.summary_of(runs), ensure_ascii=False, separators=(",", ":"))
        write_atomically(output / "summary.json", compact.encode())
        write_atomically(output / "report.md", page.markdown().encode())
        write_atomically(output / "report.html", page.html().encode())
    except (ValueError, OSError) as error:
        parser.error(str(error))
    print(output / "report.md")


def _failures(results: Path) -> int:
    folder = results / "failures"
    return len(list(folder.glob("*.json"))) if folder.is_dir() else 0


# --- the page ----------------------------------------------------------------------------------


def make(runs: Sequence[Run], failed: int = 0) -> Document:
    table = Table(runs)
    page = Document("Does the Klein-bottle prior help?")
    _introduction(page, runs, table, failed)
    page.heading("What the numbers say")
    page.text(
        "Every sentence is made from the runs. Better, worse: the 95% interval of the paired difference over seeds "
        "excludes 0; open: it does not, or there is one seed. Opponents start from the better of their own and the "
        "Klein prior's draws, chosen on the test images in their favour."
    )
    page.items(findings(table))
    for dataset in table.datasets:
        _dataset(page, runs, table, dataset)
    for temperature in table.temperatures:
        _paired(page, table, temperature)
    _learning(page, table)
    _calibration(page, runs, table)
    _kernels(page, runs)
    _settings(page, runs)
    return page


def _introduction(page: Document, runs: Sequence[Run], table: Table, failed: int) -> None:
    hours = sum(run["results"]["train seconds"] for run in runs) / 3600
    page.text(
        f"{len(runs)} runs ({failed} failed), {hours:.1f} hours of training in all. Temperatures: "
        f"{', '.join(table.temperatures)}; tuned means chosen on validation data, for each method. Splits, batches and test "
        "images of a seed are the same for all methods, and so are network, batches and steps; the convolutions differ. The last "
        "layer is deterministic, with weight decay. Mean over seeds ± half its 95% interval (Student's t)."
    )
    rows = [["data", "training images", "network", "steps", "batch", "posterior samples", "test images"]]
    for dataset in table.datasets:
        sizes = ", ".join(map(str, table.sizes(dataset)))
        of_it = [run["config"] for run in runs if run["config"]["dataset"] == dataset]
        shared = {
            (b["network"], b["steps"], b["batch_size"], b["samples"], config["test_size"])
            for config in of_it
            for b in [config["budget"]]
        }
        if len(shared) > 1:
            raise ValueError(f"{dataset}: runs with several budgets; each belongs in a folder of its own")
        rows.append([dataset, sizes, *map(str, shared.pop())])
    page.table(rows)


def _dataset(page: Document, runs: Sequence[Run], table: Table, dataset: str) -> None:
    page.heading(dataset)
    shown = [v for v in _IN_PLOTS if v in table.variants]
    page.picture(
        f"curves-{_safe(dataset)}.png",
        report_plots.curves(table, dataset, shown, _MAIN),
        f"{dataset}: means with 95% bands over seeds.",
    )
    for temperature in table.temperatures:
        for measure, word in _MAIN.items():
            page.heading(f"{dataset}: {word}, temperature {temperature}", 3)
            page.table(_by_size(table, dataset, temperature, measure))
    _uncertainty(page, table, dataset)


def _by_size(table: Table, dataset: str, temperature: str, measure: str) -> list[list[str]]:
    """Methods down, training sizes across; the best mean of a column in bold."""
    sizes = table.sizes(dataset)
    cells = [Cell(dataset, size, temperature) for size in sizes]
    best = [best_in(table, cell, measure) for cell in cells]
    rows = [["method", *(f"n = {size}" for size in sizes)]]
    for variant in table.variants:
        found = [table.interval(cell, variant, measure) for cell in cells]
        if any(found):
            texts = ["" if value is None else str(value) for value in found]
            rows.append(
                [
                    str(variant),
                    *(f"**{t}**" if b == variant else t for t, b in zip(texts, best, strict=True)),
                ]
            )
    reference = next((v for name, v in PUBLISHED.items() if dataset.startswith(name)), {})
    if measure == ACCURACY and reference:
        rows.append(
            [
                "deep weight prior, as published",
                *(f"{reference[n]:.3f}" if n in reference else "" for n in sizes),
            ]
        )
    return rows


def _uncertainty(page: Document, table: Table, dataset: str) -> None:
    """Other measures at the middle of the training sizes."""
    sizes = table.sizes(dataset)
    size = sizes[len(sizes) // 2]
    measures = [m for m in table.measures() if m not in _MAIN]
    for temperature in table.temperatures:
        cell = Cell(dataset, size, temperature)
        rows = [["method", *(WORDS.get(m, m) for m in measures)]]
        for variant in table.variants:
            found = [table.interval(cell, variant, m) for m in measures]
            if any(found):
                texts = (
                    "" if value is None else f"{value.mean:.0f}" if m == "parameters" else str(value)
                    for m, value in zip(measures, found, strict=True)
                )
                rows.append([str(variant), *texts])
        if len(rows) > 1:
            page.heading(f"{dataset}: other measures at n = {size}, temperature {temperature}", 3)
            page.table(rows)


def _paired(page: Document, table: Table, temperature: str) -> None:
    measures = (*_MAIN, "cls/Brier", "ood/AUROC")
    found = against(table, "gaussian", temperature, measures)
    if not found:
        return
    page.heading(f"Paired differences, temperature {temperature}")
    page.picture(
        f"differences-{_safe(temperature)}.png",
        report_plots.differences(found, {m: f"Klein - Gaussian: {WORDS[m]}" for m in measures}),
        "Klein minus Gaussian with the better of its starts, 95% intervals. Green: better, red: worse.",
    )
    for ours, opponent in COMPARED:
        comparisons = against(table, opponent, temperature, measures, ours)
        if comparisons:
            page.table(_difference_rows(comparisons, measures))
    page.text(
        "Differences are the first minus the second, ± half the 95% interval, with the p-value of the paired t-test after Holm's "
        "correction for all entries of the same table."
    )


def _difference_rows(comparisons: Sequence[Comparison], measures: Sequence[str]) -> list[list[str]]:
    opponent = comparisons[0].second.method
    ours = comparisons[0].first.method
    rows = [[f"{ours} - {opponent}", "seeds", *(WORDS[m] for m in measures)]]
    for cell in dict.fromkeys(c.cell for c in comparisons):
        here = {c.measure: c for c in comparisons if c.cell == cell}
        seeds = max(c.result.seeds for c in here.values())
        texts = (_difference(here[m]) if m in here else "" for m in measures)
        rows.append([f"{cell.dataset}, n = {cell.train_size}", str(seeds), *texts])
    return rows


def _difference(comparison: Comparison) -> str:
    mean, half_width, *_ = comparison.result
    if half_width is None:
        return f"{mean:+.4f}"
    p = "" if comparison.adjusted_p is None else f" (p {comparison.adjusted_p:.2g})"
    text = f"{mean:+.4f} ± {half_width:.4f}{p}"
    return f"**{text}**" if comparison.verdict == "better" else text


def _learning(page: Document, table: Table) -> None:
    """Does a start on the Klein bottle train faster?"""
    shown = [*_IN_PLOTS, Variant("deterministic", "klein")]
    curves = summary.learning_curves(table, [v for v in shown if v in table.variants])
    if not curves:
        return
    words = {ACCURACY: _MAIN[ACCURACY], NLL: _MAIN[NLL]}
    page.heading("Learning curves")
    page.picture(
        "learning.png",
        report_plots.learning(curves, words),
        "Test images, while training goes on under its schedule; four posterior samples.",
    )
    for place, of_methods in curves.items():
        for measure, word in words.items():
            page.heading(f"{place}: {word} after some steps", 3)
            rows = [(name, curve.of(measure)) for name, curve in of_methods.items()]
            steps = list(rows[0][1])
            chosen = steps[len(steps) // 3 :]
            page.table(
                [
                    ["method", *map(str, chosen)],
                    *(
                        [name, *(str(found[s]) if s in found else "" for s in chosen)]
                        for name, found in rows
                    ),
                ]
            )


def _calibration(page: Document, runs: Sequence[Run], table: Table) -> None:
    """Reliability at the smallest training size of the first data set."""
    dataset = table.datasets[0]
    cell = Cell(dataset, table.sizes(dataset)[0], table.temperatures[0])
    chosen = [
        {"method": str(v), "reliability": run["reliability"]}
        for v in _IN_PLOTS
        for run in table.runs(cell, v).values()
    ]
    if chosen:
        page.heading("Calibration")
        page.picture(
            "reliability.png",
            report.reliability_picture(chosen),
            f"Accuracy against confidence, {dataset}, n = {cell.train_size}, temperature {cell.temperature}, all seeds. "
            "Bars below the diagonal: overconfident; the fainter a bar, the fewer predictions.",
        )


def _kernels(page: Document, runs: Sequence[Run]) -> None:
    chosen: dict[str, Run] = {}
    for run in runs:
        if run["config"]["start"] == "own" and "kernels" in run:
            chosen.setdefault(run["config"]["method"], run)
    shown = [chosen[m] for m in ("klein", "klein-residual", "gaussian", "deterministic") if m in chosen]
    if (png := report_plots.bottle(shown)) is not None:
        page.heading("Kernels of the first layer")
        page.picture(
            "kernels.png",
            png,
            "Left: drawn from the prior (from the initialization where there is none). Middle: from the posterior. Right: the "
            "posterior's points on the Klein bottle, with their standard deviations, over the kernels decoded there.",
        )


def _settings(page: Document, runs: Sequence[Run]) -> None:
    page.heading("Settings")
    page.text("Chosen on validation data with equal effort for each method: `experiments/priors/tune.py`.")
    places: dict[tuple[str, ...], set[int]] = {}
    for run in runs:
        config = run["config"]
        row = (config["method"], config["temperature"], f"`{json.dumps(config['settings'])}`")
        places.setdefault(row, set()).add(config["train_size"])
    rows = [[*row[:2], ", ".join(map(str, sorted(sizes))), row[2]] for row, sizes in places.items()]
    page.table([["method", "temperature", "n", "settings"], *rows])


def _safe(text: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in text)


if __name__ == "__main__":
    main()
