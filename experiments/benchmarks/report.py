"""The tables of what layers cost, and their picture."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from experiments.benchmarks.peers import REFERENCE
from experiments.benchmarks.variants import FLOAT32, VARIANTS
from experiments.common.document import markdown_table
from experiments.common.forest import Cell, Panel, forest
from experiments.common.palette import colour

PICTURE = "forest.png"
TIMED = ("training", "deep", "prediction", "layer")

Rows = list[dict[str, Any]]


def as_markdown(results: dict[str, Any]) -> str:
    config = ", ".join(f"{key} {value}" for key, value in results["config"].items())
    lines = ["# Cost of Bayesian convolutions", ""]
    if results.get("training"):
        caption = "Time of a training step in a network's fastest way, as a ratio to nn.Conv2d's fastest."
        lines += [f"![forest]({PICTURE})", "", caption, ""]
    lines += [
        "Medians of interleaved runs, in ms; in brackets their ratio to nn.Conv2d run in the same way. Last column: "
        "a network's fastest way beside the fastest of nn.Conv2d.",
        "",
    ]
    for place, some in enumerate(_tables([row for part in TIMED for row in results.get(part, [])])):
        lines += _times(some, folded=place > 0)
    if "parameters" in results:
        lines += _counts(results["parameters"])
    if "memory" in results:
        cells = [
            [
                row["layer"], f"{row['bytes'] / 1e6:.1f} MB",
                f"{row['least'] / 1e6:.1f} to {row['most'] / 1e6:.1f}", f"{row['ratio']:.2f}",
            ]
            for row in results["memory"]
        ]  # fmt: skip
        title = "Peak memory of training the 512-512 layer, above a fresh process"
        lines += _table(title, ["", "median", "of single processes", "ratio"], cells)
    lines += ["", config, ""]
    if results["config"]["device"] == "cpu":
        lines += ["On a GPU (`--device cuda`): not run."]
    lines += [f"Missing: {name}, {reason}." for name, reason in results["missing"].items()]
    return "\n".join(lines) + "\n"


def picture(results: dict[str, Any]) -> bytes:
    """A panel a batch size."""
    panels, names = [], list(dict.fromkeys(row["layer"] for row in _of_networks(results["training"])))
    names.remove(REFERENCE)
    for rows in _tables(results["training"]):
        best = {name: min(r["to fastest"] for r in rows if r["layer"] == name) for name in names}
        cells = [Cell(best[name], None) for name in names]
        panels.append(Panel(f"batch {rows[0]['batch']}", f"times {REFERENCE}, less is better", cells))
    return forest(names, [colour(name) for name in names], panels, across=len(panels), line=1.0)


def _tables(rows: Rows) -> Iterator[Rows]:
    for table in dict.fromkeys((row["measure"], row["batch"]) for row in rows):
        yield [row for row in rows if (row["measure"], row["batch"]) == table]


def _of_networks(rows: Rows) -> Rows:
    return [row for row in rows if not row["layer"].startswith("KL of ")]


def _times(rows: Rows, folded: bool) -> list[str]:
    found = {(row["layer"], row["variant"]): row for row in rows}
    ways = [way.name for way in VARIANTS if any(row["variant"] == way.name for row in rows)]
    cells = []
    for name in dict.fromkeys(row["layer"] for row in _of_networks(rows)):
        own = [found.get((name, way)) for way in ways]
        best = min(row["to fastest"] for row in own if row)
        cells.append(
            [name, *(f"{row['ms']:.1f} ({row['ratio']:.2f})" if row else "" for row in own), f"{best:.2f}"]
        )
    kls = {
        name.removeprefix("KL of "): row["ms"] for (name, _), row in found.items() if name[:6] == "KL of "
    }
    shares = ", ".join(f"{name} {kl / found[name, FLOAT32.name]['ms']:.1%}" for name, kl in kls.items())
    after = ["", f"Share of the KL in a step in float32, forward and backward: {shares}."] if kls else []
    measure, batch = rows[0]["measure"], rows[0]["batch"]
    title = f"{measure[0].upper()}{measure[1:]}, batch {batch}"
    return _table(title, ["", *ways, "fastest / fastest"], cells, folded, after)


def _counts(rows: Rows) -> list[str]:
    base = next(row["registered"] for row in rows if row["layer"] == REFERENCE)
    cells = [
        [row["layer"], f"{row['registered']:,}", f"{row['trained']:,}", f"{row['registered'] / base:.2f}"]
        for row in rows
    ]
    return _table(
        "Numbers in the three convolutions", ["", "registered", "of these trained", "ratio"], cells
    )


def _table(
    title: str, head: list[str], rows: Iterable[list[str]], folded: bool = True, after: Iterable[str] = ()
) -> list[str]:
    table = [*markdown_table([head, *rows]), *after]
    if not folded:
        return ["", title, "", *table]
    return ["", "<details>", f"<summary>{title}</summary>", "", *table, "", "</details>"]
