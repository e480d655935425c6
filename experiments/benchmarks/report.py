"""The tables of what layers cost."""

from __future__ import annotations

from typing import Any

from experiments.benchmarks.peers import REFERENCE
from experiments.common.document import markdown_table
from experiments.common.forest import Cell, Panel, forest
from experiments.common.palette import colour

PICTURE = "forest.png"
_END = ["", "</details>"]


def as_markdown(results: dict[str, Any]) -> str:
    config = ", ".join(f"{key} {value}" for key, value in results["config"].items())
    lines = ["# Cost of Bayesian convolutions", ""]
    if results.get("training"):
        lines += [f"![forest]({PICTURE})", "", "Time of a training step, as a ratio to nn.Conv2d's.", ""]
    for place, table in enumerate(results.get("training", [])):
        title = f"Training step of the 64-128-256 network, batch {table['batch']}"
        lines += _times(title, table["rows"], folded=place > 0)
        shares = (f"{name} {share:.1%}" for name, share in table["kl_share"].items())
        lines += [
            "",
            f"Share of the KL, forward and backward: {', '.join(shares)}.",
            *_END[: 2 * (place > 0)],
        ]
    lines += [
        "",
        "Medians of interleaved runs; ratios to nn.Conv2d, in brackets the middle half of the ratios round by round.",
        "",
        config,
        "",
    ]
    lines += [f"Missing: {name}, {reason}." for name, reason in results["missing"].items()]
    if "parameters" in results:
        counts = results["parameters"]
        base = counts[REFERENCE]["registered"]
        rows = [
            [name, f"{n['registered']:,}", f"{n['trained']:,}", f"{n['registered'] / base:.2f}"]
            for name, n in counts.items()
        ]
        head = ["", "registered", "of these trained", "ratio"]
        lines += [*_table("Numbers in the three convolutions", head, rows, True), *_END]
    for table in results.get("prediction", []):
        lines += [
            *_times(f"{table['samples']} samples, batch {table['batch']}", table["rows"], True),
            *_END,
        ]
    if "layer" in results:
        lines += _times(
            "One 512-512 layer, batch 16, 8x8 maps: sampling + KL, beside nn.Conv2d's convolution",
            results["layer"]["rows"],
            True,
        )
        lines += _END
    if "memory" in results:
        rows = [
            [name, f"{row['bytes'] / 1e6:.1f} MB", f"{row['ratio']:.2f}"]
            for name, row in results["memory"]["rows"].items()
        ]
        title = "Peak memory of training that layer, above a fresh process"
        lines += [*_table(title, ["", "memory", "ratio"], rows, True), *_END]
    return "\n".join(lines) + "\n"


def picture(results: dict[str, Any]) -> bytes:
    """A panel a batch size: medians of the ratios with their middle halves."""
    names = [name for name in results["training"][0]["rows"] if name != REFERENCE]
    panels = [
        Panel(
            f"batch {table['batch']}",
            f"times {REFERENCE}, less is better",
            [_cell(table["rows"][name]) for name in names],
        )
        for table in results["training"]
    ]
    return forest(names, [colour(name) for name in names], panels, across=len(panels), line=1.0)


def _cell(row: dict[str, float]) -> Cell:
    below, above = row["ratio"] - row["ratio_low"], row["ratio_high"] - row["ratio"]
    return Cell(row["ratio"], max(0.0, below), max(0.0, above))  # a ratio of medians may lie outside


def _times(title: str, rows: dict[str, dict[str, float]], folded: bool) -> list[str]:
    cells = [
        [name, f"{r['ms']:.1f} ms", f"{r['ratio']:.2f} ({r['ratio_low']:.2f}-{r['ratio_high']:.2f})"]
        for name, r in rows.items()
    ]
    return _table(title, ["", "median", "ratio"], cells, folded)


def _table(title: str, head: list[str], rows: list[list[str]], folded: bool) -> list[str]:
    start = ["", "<details>", f"<summary>{title}</summary>"] if folded else [title]
    return [*start, "", *markdown_table([head, *rows])]
