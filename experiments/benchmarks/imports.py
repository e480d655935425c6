"""The package's folders and who imports whom, as a picture; and what importing it costs beside torch.

    python -m experiments.benchmarks.imports --output docs/development

Arrows go from a folder to those that it imports, and all go down: `lint-imports` checks the same order. An arrow that
a longer way makes needless (from a folder to one that a folder between them imports too) is left out. Import times are
medians of fresh processes, in turns.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import grimp
from matplotlib.figure import Figure

from experiments.common.options import Parser, check_writable, whole
from experiments.common.pictures import png
from topoprior.utils.files import write_atomically

PACKAGE = "topoprior"


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(__doc__)
    parser.add_argument("--repeats", type=whole, default=5, help="fresh processes for every import time")
    parser.add_usual("results/imports", log=False)
    arguments = parser.parse_args(argv)
    path = arguments.output / "imports.png"
    try:
        check_writable(arguments.output)
        arguments.output.mkdir(parents=True, exist_ok=True)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    graph = imports()
    write_atomically(path, png(picture(graph)))
    files = sum(1 for _ in Path(PACKAGE).rglob("*.py"))
    print(f"{files} files in {len(graph)} rooms, {sum(map(len, graph.values()))} arrows: {path}")
    times = seconds(["torch", PACKAGE], arguments.repeats)
    print(", ".join(f"import {name}: {value:.2f} s" for name, value in times.items()))


def imports() -> dict[str, set[str]]:
    """For every folder or file right in the package: those that it imports."""
    graph = grimp.build_graph(PACKAGE)
    rooms = sorted(name for name in graph.find_children(PACKAGE))
    found: dict[str, set[str]] = {}
    for room in rooms:
        others = {
            r
            for r in rooms
            if r != room and graph.direct_import_exists(importer=room, imported=r, as_packages=True)
        }
        found[room.removeprefix(f"{PACKAGE}.")] = {r.removeprefix(f"{PACKAGE}.") for r in others}
    return found


def levels(graph: dict[str, set[str]]) -> dict[str, int]:
    """How many imports lie below each room: 0 for one that imports none."""
    found: dict[str, int] = {}

    def level(room: str) -> int:
        if room not in found:
            found[room] = 1 + max((level(below) for below in graph[room]), default=-1)
        return found[room]

    for room in graph:
        level(room)
    return found


def needed(graph: dict[str, set[str]]) -> list[tuple[str, str]]:
    """The arrows that no longer way makes needless."""

    def reach(room: str) -> set[str]:
        return graph[room] | {far for below in graph[room] for far in reach(below)}

    return [
        (room, below)
        for room, some in graph.items()
        for below in sorted(some)
        if not any(below in reach(other) for other in some if other != below)
    ]


def picture(graph: dict[str, set[str]]) -> Figure:
    height = levels(graph)
    figure = Figure(figsize=(7, 1.0 + 0.9 * max(height.values())), layout="constrained")
    axes = figure.subplots()
    axes.axis("off")
    places: dict[str, tuple[float, float]] = {}
    for level in range(max(height.values()) + 1):
        row = [room for room in graph if height[room] == level]
        for i, room in enumerate(row):
            places[room] = ((i + 0.5) / len(row), float(level))
    for room, below in needed(graph):
        arrow = {"arrowstyle": "-|>", "color": "#888888", "shrinkA": 12, "shrinkB": 12}
        axes.annotate("", places[below], places[room], arrowprops=arrow)
    for room, (x, y) in places.items():
        box = {"boxstyle": "round,pad=0.4", "facecolor": "#e8eef7", "edgecolor": "#30507a"}
        axes.text(x, y, room, ha="center", va="center", bbox=box)
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.5, max(height.values()) + 0.5)
    return figure


def seconds(modules: Sequence[str], repeats: int) -> dict[str, float]:
    """Median wall time of a fresh process that imports a module, less that of one that imports nothing."""
    times: dict[str, list[float]] = {name: [] for name in ["sys", *modules]}
    for _ in range(repeats):
        for name, values in times.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", f"import {name}"], check=True)
            values.append(time.perf_counter() - start)
    nothing = statistics.median(times.pop("sys"))
    return {name: statistics.median(values) - nothing for name, values in times.items()}


if __name__ == "__main__":
    main()
