"""The tables of `benchmark_layers.py`, and which of the project's claims they bear out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from experiments.benchmarks.peers import BLITZ, COMPILED, OURS, REFERENCE
from experiments.common.document import markdown_table

KLEIN = OURS[0]
# Largest ratio to the deterministic network's step, by batch size.
STEP_TARGETS = {64: 1.05, 8: 1.25}


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
    for name in (KLEIN, COMPILED):
        rows = [
            [claim, f"{value:.3g}", target, "yes" if met else "**no**"]
            for claim, value, target, met in claims(results, name)
        ]
        if rows:
            lines += _table(f"Targets for {name}", ["", "measured", "target", "met"], rows)
    return "\n".join(lines) + "\n"


def claims(results: dict[str, Any], ours: str = KLEIN) -> Iterator[tuple[str, float, str, bool]]:
    """(claim, measured, target, whether it is met), for what was measured of ``ours``."""

    def at_most(claim: str, value: float, limit: float) -> tuple[str, float, str, bool]:
        return claim, value, f"at most {limit:g}", value <= limit

    def measured(part: str) -> list[dict[str, Any]]:
        return [table for table in results.get(part, []) if ours in table["rows"]]

    for table in measured("training"):
        batch, ratio = table["batch"], table["rows"][ours]["ratio"]
        if batch in STEP_TARGETS:
            yield at_most(f"training step at batch {batch} / nn.Conv2d", ratio, STEP_TARGETS[batch])
        yield at_most(f"share of the KL at batch {batch}", table["kl_share"][ours], 0.05)
    if ours in results.get("parameters", {}):
        counts = results["parameters"]
        ratio = counts[ours]["registered"] / counts[REFERENCE]["registered"]
        yield at_most("parameters / nn.Conv2d", ratio, 1.0)
    for table in measured("prediction"):
        rows = table["rows"]
        if table["batch"] == 64:
            claim = "32 samples at batch 64 / 32 deterministic passes"
            yield at_most(claim, rows[ours]["ratio"], 1.05)
        elif BLITZ in rows:
            faster = rows[BLITZ]["ms"] / rows[ours]["ms"]
            yield (
                f"BLiTZ's mfvi_forward / predict at batch {table['batch']}",
                faster,
                "at least 5",
                faster >= 5,
            )
    for part, claim, limit in (
        ("layer", "sampling + KL / convolution", 1.0),
        ("memory", "peak memory / nn.Conv2d", 1.3),
    ):
        if ours in results.get(part, {}).get("rows", {}):
            yield at_most(claim, results[part]["rows"][ours]["ratio"], limit)


def _times(title: str, rows: dict[str, dict[str, float]]) -> list[str]:
    cells = [
        [name, f"{r['ms']:.1f} ms", f"{r['ratio']:.2f} ({r['ratio_low']:.2f}-{r['ratio_high']:.2f})"]
        for name, r in rows.items()
    ]
    return _table(title, ["", "median", "ratio"], cells)


def _table(title: str, head: list[str], rows: list[list[str]]) -> list[str]:
    return ["", f"## {title}", "", *markdown_table([head, *rows])]
