"""The tables of what layers cost."""

from __future__ import annotations

from typing import Any

from experiments.benchmarks.peers import REFERENCE
from experiments.common.document import markdown_table


def as_markdown(results: dict[str, Any]) -> str:
    config = ", ".join(f"{key} {value}" for key, value in results["config"].items())
    lines = ["# Cost of Bayesian convolutions", "", config, ""]
    lines += [
        "Medians of interleaved runs; ratios to nn.Conv2d, in brackets the middle half of the ratios round by "
        "round.",
        "",
    ]
    lines += [f"Missing: {name}, {reason}." for name, reason in results["missing"].items()]
    for table in results.get("training", []):
        lines += _times(f"Training step of the 64-128-256 network, batch {table['batch']}", table["rows"])
        shares = (f"{name} {share:.1%}" for name, share in table["kl_share"].items())
        lines += ["", f"Share of the KL, forward and backward: {', '.join(shares)}."]
    if "parameters" in results:
        counts = results["parameters"]
        base = counts[REFERENCE]["registered"]
        rows = [
            [name, f"{n['registered']:,}", f"{n['trained']:,}", f"{n['registered'] / base:.2f}"]
            for name, n in counts.items()
        ]
        head = ["", "registered", "of these trained", "ratio"]
        lines += _table("Numbers in the three convolutions", head, rows)
    for table in results.get("prediction", []):
        lines += _times(f"{table['samples']} samples, batch {table['batch']}", table["rows"])
    if "layer" in results:
        lines += _times(
            "One 512-512 layer, batch 16, 8x8 maps: sampling + KL, beside nn.Conv2d's convolution",
            results["layer"]["rows"],
        )
    if "memory" in results:
        rows = [
            [name, f"{row['bytes'] / 1e6:.1f} MB", f"{row['ratio']:.2f}"]
            for name, row in results["memory"]["rows"].items()
        ]
        lines += _table(
            "Peak memory of training that layer, above a fresh process", ["", "memory", "ratio"], rows
        )
    return "\n".join(lines) + "\n"


def _times(title: str, rows: dict[str, dict[str, float]]) -> list[str]:
    cells = [
        [name, f"{r['ms']:.1f} ms", f"{r['ratio']:.2f} ({r['ratio_low']:.2f}-{r['ratio_high']:.2f})"]
        for name, r in rows.items()
    ]
    return _table(title, ["", "median", "ratio"], cells)


def _table(title: str, head: list[str], rows: list[list[str]]) -> list[str]:
    return ["", f"## {title}", "", *markdown_table([head, *rows])]
