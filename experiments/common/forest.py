"""Forest plots: a row a comparison, its mean and 95% interval, panels side by side over shared labels."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from experiments.common.document import cut
from experiments.common.pictures import png

_WIDTH, _ROW, _FRAME = 8.3, 0.25, 0.95  # inches: of a page, of a row, of titles and axes
_LONGEST = 40  # characters of a line of a label, which has two at most


class Cell(NamedTuple):
    """``half_width`` of the interval, None where there is none; ``above`` where it is another one above the mean."""

    mean: float
    half_width: float | None
    above: float | None = None

    @classmethod
    def of(cls, row: pd.Series) -> Cell:
        """A row of :func:`experiments.common.tables.differences`."""
        return cls(row["mean"], None if pd.isna(row["half_width"]) else row["half_width"])


class Panel(NamedTuple):
    """A cell a row, None where there is nothing; ``axis`` says what is measured and which side is better."""

    title: str
    axis: str
    cells: Sequence[Cell | None]


def forest(
    labels: Sequence[str],
    colours: Sequence[str],
    panels: Sequence[Panel],
    across: int,
    line: float | None = 0.0,
) -> bytes:
    """A PNG of page width.

    Args:
        labels, colours: of the rows, from the top.
        across: panels in a line.
        line: where there is no difference, None where there is no such place.

    Example:
        >>> drawn = forest(["gaussian"], ["#0072b2"], [Panel("mnist", "accuracy", [Cell(0.02, 0.01)])], across=1)
        >>> drawn[1:4]
        b'PNG'
    """
    from matplotlib.figure import Figure

    lines = -(-len(panels) // across)
    names = [textwrap.fill(plain(name, 2 * _LONGEST - 4), _LONGEST) for name in labels]
    row_height = _ROW * (1.5 if any("\n" in name for name in names) else 1)
    figure = Figure(figsize=(_WIDTH, lines * (row_height * len(labels) + _FRAME)), layout="constrained")
    grid = figure.subplots(lines, across, squeeze=False, sharey=True)
    for axis, panel in zip(grid.flat, panels, strict=False):
        if line is not None:
            axis.axvline(line, color="0.55", linewidth=1, zorder=0)
        for row, (cell, shade) in enumerate(zip(panel.cells, colours, strict=True)):
            if cell is not None:
                below = cell.half_width or 0.0
                width = [[below], [below if cell.above is None else cell.above]]
                axis.errorbar(cell.mean, -row, xerr=width, fmt="o", markersize=5, color=shade, capsize=2)
        axis.set_title(plain(panel.title), fontsize=10)
        axis.set_xlabel(panel.axis, fontsize=9)
        axis.tick_params(labelsize=9)
        axis.set_ylim(-len(labels) + 0.4, 0.6)
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.tick_params(axis="y", length=0)
        axis.grid(axis="x", color="0.9", linewidth=0.7)
        axis.set_axisbelow(True)
        axis.locator_params(axis="x", nbins=4)
    for axis in grid.flat[len(panels) :]:
        axis.set_visible(False)
    grid[0, 0].set_yticks([-row for row in range(len(labels))], names)
    return png(figure)


def plain(name: object, longest: int = _LONGEST) -> str:
    """A label as plain text: matplotlib reads mathematics between dollar signs."""
    return cut(str(name).encode("utf-8", "backslashreplace").decode(), longest).replace("$", r"\$")
