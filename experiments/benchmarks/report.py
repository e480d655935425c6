"""The tables of what layers cost."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from experiments.benchmarks.peers import REFERENCE
from experiments.benchmarks.variants import FLOAT32, VARIANTS
from experiments.common.document import markdown_table
from experiments.common.forest import Cell, Panel, forest
from experiments.common.palette import colour

PICTURE = "forest.png"
_END = ["", "</details>"]

TIMED = ("training", "prediction", "layer")


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
        "Medians of interleaved runs, in ms; in brackets their ratio to nn.Conv2d run in the same way. Last column: "
        "a network's fastest way beside the fastest of nn.Conv2d.",
        "",
    ]
    if results["config"]["device"] == "cpu":
        lines += ["On a GPU (`--device cuda`): not run.", ""]
    lines += [f"Missing: {name}, {reason}." for name, reason in results["missing"].items()]
    rows = [row for part in TIMED for row in results.get(part, [])]
    for measure, batch in dict.fromkeys((row["measure"], row["batch"]) for row in rows):
        some = [row for row in rows if (row["measure"], row["batch"]) == (measure, batch)]
        lines += _times(f"{measure[0].upper()}{measure[1:]}, batch {batch}", some)
    if "parameters" in results:
        lines += _counts(results["parameters"])
    if "memory" in results:
        cells = [
            [row["layer"], f"{row['bytes'] / 1e6:.1f} MB", f"{row['ratio']:.2f}"]
            for row in results["memory"]
        ]
        title = "Peak memory of training the 512-512 layer, above a fresh process"
        lines += _table(title, ["", "memory", "ratio"], cells)
    return "\n".join(lines) + "\n"


def _times(title: str, rows: list[dict[str, Any]]) -> list[str]:
    kls = {
        row["layer"].removeprefix("KL of "): row["ms"] for row in rows if row["layer"].startswith("KL of ")
    }
    found = {(row["layer"], row["variant"]): row for row in rows}
    ways = [way.name for way in VARIANTS if any(row["variant"] == way.name for row in rows)]
    cells = []
    for name in dict.fromkeys(row["layer"] for row in rows if not row["layer"].startswith("KL of ")):
        own = [found.get((name, way)) for way in ways]
        best = min(row["to fastest"] for row in own if row)
        cells.append(
            [name, *(f"{row['ms']:.1f} ({row['ratio']:.2f})" if row else "" for row in own), f"{best:.2f}"]
        )
    lines = _table(title, ["", *ways, "fastest / fastest"], cells)
    if kls:
        shares = (f"{name} {kl / found[name, FLOAT32.name]['ms']:.1%}" for name, kl in kls.items())
        lines += ["", f"Share of the KL in a step in float32, forward and backward: {', '.join(shares)}."]
    return lines


def _counts(rows: list[dict[str, Any]]) -> list[str]:
    base = next(row["registered"] for row in rows if row["layer"] == REFERENCE)
    cells = [
        [row["layer"], f"{row['registered']:,}", f"{row['trained']:,}", f"{row['registered'] / base:.2f}"]
        for row in rows
    ]
    return _table(
        "Numbers in the three convolutions", ["", "registered", "of these trained", "ratio"], cells
    )


def _table(title: str, head: list[str], rows: Iterable[list[str]]) -> list[str]:
    return ["", f"## {title}", "", *markdown_table([head, *rows])]
