"""Pictures of kernels and priors; needs matplotlib (the `experiments` extra).

Functions return a matplotlib Figure; :func:`save` writes it as PNG, atomically.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from topoprior.kernels.klein import nearest_klein
from topoprior.spaces.flat.manifold import FlatManifold
from topoprior.spaces.flat.named import KleinBottle
from topoprior.topology.homology import betti_numbers
from topoprior.utils.extras import needed
from topoprior.utils.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_SHOWN = 6000  # dots
_COLOURS = ("tab:red", "tab:blue", "tab:green", "tab:orange")


class Edge(NamedTuple):
    """Two edges of a fundamental domain that are one in the space: points at equal t in [0, 1] are glued.

    Each edge is (tail, head), points (u, v) of the plane.
    """

    first: tuple[tuple[float, float], tuple[float, float]]
    second: tuple[tuple[float, float], tuple[float, float]]


class Domain(NamedTuple):
    """A rectangle ((left, right), (bottom, top)) that holds every point of a space once, and its edges."""

    across: tuple[float, float]
    up: tuple[float, float]
    edges: list[Edge]


def fundamental_domain(space: FlatManifold) -> Domain:
    """The rectangle to draw a space of dimension 1 or 2 on.

    The Klein bottle has [0, 1] x [-1/2, 1/2], its left edge glued to the right one upside down. Other compact
    spaces: the cell of their lattice, which holds a point once for every sheet. The plane: [-2.5, 2.5]^2.

    Example:
        >>> fundamental_domain(KleinBottle()).edges[0]
        Edge(first=((0.0, -0.5), (0.0, 0.5)), second=((1.0, 0.5), (1.0, -0.5)))
    """
    if space.dim > 2:
        raise ValueError(f"space: expected dimension 1 or 2, found {space!r}")
    if type(space) is KleinBottle:
        sides = Edge(((0.0, -0.5), (0.0, 0.5)), ((1.0, 0.5), (1.0, -0.5)))
        return Domain(
            (0.0, 1.0), (-0.5, 0.5), [sides, Edge(((0.0, -0.5), (1.0, -0.5)), ((0.0, 0.5), (1.0, 0.5)))]
        )
    if not space.rank:
        return Domain((-2.5, 2.5), (-2.5, 2.5) if space.dim == 2 else (-0.5, 0.5), [])
    if space.periods is None:
        raise ValueError(f"space: expected periods along the axes, found {space!r}")
    width = float(space.periods[0])
    height = float(space.periods[1]) if space.dim == 2 else 1.0
    left_right = Edge(((0.0, 0.0), (0.0, height)), ((width, 0.0), (width, height)))
    below_above = Edge(((0.0, 0.0), (width, 0.0)), ((0.0, height), (width, height)))
    return Domain((0.0, width), (0.0, height), [left_right, below_above][: space.dim])


def kernel_grid(
    decode: Callable[[Tensor], Tensor],
    space: FlatManifold,
    *,
    rows: int = 9,
    columns: int = 14,
    title: str = "",
) -> Figure:
    """Kernels decoded on a grid of the fundamental domain; edges with arrows of one colour are glued.

    Args:
        decode: lifts (N, dim) -> kernels (N, k, k).
        space: of dimension 1 to 3; of three dimensions the slice with the last coordinate 0.
    """
    flat = space if space.dim < 3 else None
    domain = fundamental_domain(space) if flat is not None else Domain((0.0, 1.0), (0.0, 1.0), [])
    if space.dim > 2 and space.periods is not None:
        domain = Domain((0.0, float(space.periods[0])), (0.0, float(space.periods[1])), [])
    rows = 1 if space.dim == 1 else rows
    u = _centers(domain.across, columns)
    v = _centers(domain.up, rows)
    points = torch.zeros(rows, columns, space.dim)
    points[..., 0] = u
    if space.dim > 1:
        points[..., 1] = v[:, None]
    with torch.no_grad():
        kernels = decode(points.flatten(0, 1)).reshape(rows, columns, *decode(points[0, :1]).shape[1:])
    figure, axes = _figure(0.55 * columns + 1, 0.55 * rows + 1.2)
    _tiles(axes, kernels, domain)
    mark_edges(axes, domain)
    # Equal steps in the picture, whatever the periods: tiles are square.
    axes.set_aspect(rows / columns * (domain.across[1] - domain.across[0]) / (domain.up[1] - domain.up[0]))
    axes.set(xlabel="u", ylabel="v" if space.dim > 1 else "", title=title)
    return figure


def kernel_map(
    kernels: Tensor, points: Tensor, *, rows: int = 9, columns: int = 14, title: str = ""
) -> Figure:
    """Given kernels (N, k, k) at their points of the Klein bottle (N, 2): the mean of those in every cell.

    Cells where there are none stay empty.
    """
    domain = fundamental_domain(KleinBottle())
    where = KleinBottle().project(points.double())
    # The domain of the picture: u in [0, 1), v in [-1/2, 1/2).
    u, v = where[:, 0], (where[:, 1] + 0.5) % 1
    cell = (v * rows).long().clamp(0, rows - 1) * columns + (u * columns).long().clamp(0, columns - 1)
    total = torch.zeros(rows * columns, *kernels.shape[1:], dtype=torch.float64)
    total.index_add_(0, cell, kernels.double())
    count = torch.bincount(cell, minlength=rows * columns)
    means = total / count.clamp_min(1)[:, None, None]
    means[count == 0] = math.nan
    figure, axes = _figure(0.55 * columns + 1, 0.55 * rows + 1.2)
    _tiles(axes, means.unflatten(0, (rows, columns)), domain)
    mark_edges(axes, domain)
    axes.set_aspect(rows / columns)
    axes.set(xlabel=r"u = $\theta_1 / \pi$", ylabel=r"v = $\theta_2 / 2\pi$", title=title)
    return figure


def latent_scatter(
    points: Tensor,
    panels: Mapping[str, Tensor],
    space: FlatManifold,
    *,
    cyclic: Sequence[str] = (),
    title: str = "",
) -> Figure:
    """Points (N, 1 to 3) of a space, a panel for each quantity (N,) that colours them.

    Args:
        cyclic: names of quantities that are angles, for a colour map without ends.
    """
    figure = _new_figure(4.4 * len(panels), 3.8)
    domain = fundamental_domain(space) if space.dim < 3 else None
    where = points.detach().double().cpu()
    if domain is not None and space.rank:
        where = space.project(where)
        low = where.new_tensor([domain.across[0], domain.up[0]][: space.dim])
        size = where.new_tensor(
            [domain.across[1] - domain.across[0], domain.up[1] - domain.up[0]][: space.dim]
        )
        where = low + (where - low).remainder(size)
    across = where[:, 0]
    up = where[:, 1] if space.dim > 1 else torch.rand(len(where), dtype=where.dtype) - 0.5
    for axes, (name, values) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        colours = "twilight" if name in cyclic else "viridis"
        dots = axes.scatter(across, up, c=values.detach().cpu(), s=4, cmap=colours, linewidths=0)
        figure.colorbar(dots, ax=axes, shrink=0.8)
        if domain is not None and space.dim == 2:
            mark_edges(axes, domain)
        axes.set(xlabel="u", ylabel="v", title=name)
    figure.suptitle(title, fontsize=10)
    return figure


def persistence_picture(diagrams: Mapping[int, list[np.ndarray]], *, titles: Mapping[int, str]) -> Figure:
    """Persistence diagrams, a panel for every field: birth across, death up, a colour for each degree."""
    figure = _new_figure(4.2 * len(diagrams), 4.2)
    for axes, (field, bars) in zip(
        figure.subplots(1, len(diagrams), squeeze=False)[0], diagrams.items(), strict=True
    ):
        finite = [d[np.isfinite(d[:, 1])] for d in bars if len(d)]
        top = 1.05 * max((float(d.max()) for d in finite if len(d)), default=1.0)
        axes.plot([0, top], [0, top], color="lightgrey", linewidth=1)
        for degree, d in enumerate(bars):
            if len(d):
                death = np.where(np.isfinite(d[:, 1]), d[:, 1], top)
                axes.scatter(d[:, 0], death, s=10, label=f"$H_{degree}$", color=_COLOURS[degree])
        axes.set(
            xlabel="birth",
            ylabel="death",
            aspect="equal",
            xlim=(-0.02 * top, top),
            ylim=(-0.02 * top, 1.03 * top),
        )
        axes.set_title(titles.get(field, f"Z/{field}"), fontsize=9)
        if any(len(d) for d in bars):
            axes.legend(loc="lower right", fontsize=8)
    return figure


def draw_kernels(
    folder: Path,
    kernels: Tensor,
    *,
    latents: Tensor | None = None,
    space: FlatManifold | None = None,
    decode: Callable[[Tensor], Tensor] | None = None,
    diagrams: Mapping[int, list[np.ndarray]] | None = None,
) -> list[str]:
    """Draw kernels (N, k, k), mean-free and of contrast 1, into a folder; the names of the pictures.

    With a ``space``, ``latents`` and ``decode`` of a prior over its fundamental domain, else over that of the Klein
    bottle, each kernel at its nearest point; coloured by orientation, by ridge or edge, and by distance to the analytic
    kernels. ``diagrams`` are those of :func:`~topoprior.kernels.kernel_homology`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    distance, points = nearest_klein(kernels)
    theta1, theta2 = points[:, 0] * math.pi, points[:, 1] * 2 * math.pi
    panels = {
        r"orientation $\theta_1$ of the nearest Klein kernel": theta1.remainder(math.pi),
        r"ridge ($\pm$1) or edge (0): $\cos\theta_2$": theta2.cos(),
        "distance to it": distance,
    }
    cyclic = list(panels)[:1]
    if decode is not None and space is not None and latents is not None:
        grid = kernel_grid(decode, space, title=f"kernels over {space!r}")
        where, title = latents, "latents of the prior"
    else:
        grid = kernel_map(kernels, points, title="means of the kernels nearest to each point")
        where, space, title = points, KleinBottle(), "the nearest points of the Klein bottle"
    chosen = torch.randperm(len(where))[:_SHOWN]
    shown = {name: values[chosen] for name, values in panels.items()}
    scatter = latent_scatter(where[chosen], shown, space, cyclic=cyclic, title=title)
    pictures = {"kernels.png": grid, "latents.png": scatter}
    if diagrams is not None:
        betti = {field: betti_numbers(list(bars)) for field, bars in diagrams.items()}
        titles = {field: f"over Z/{field}: Betti numbers {numbers}" for field, numbers in betti.items()}
        pictures["persistence.png"] = persistence_picture(diagrams, titles=titles)
    for name, figure in pictures.items():
        save(figure, folder / name)
    return list(pictures)


def save(figure: Figure, path: Path | str) -> None:
    """Write a figure as PNG, atomically."""
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=90)
    write_atomically(Path(path), data.getvalue())


def _new_figure(width: float, height: float) -> Figure:
    figures = needed("matplotlib.figure", "a picture", "'topoprior[plots]'")
    return figures.Figure(figsize=(width, height), layout="constrained")


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = _new_figure(width, height)
    return figure, figure.subplots()


def _centers(interval: tuple[float, float], count: int) -> Tensor:
    return interval[0] + (interval[1] - interval[0]) * (torch.arange(count) + 0.5) / count


def _tiles(axes: Axes, kernels: Tensor, domain: Domain) -> None:
    """One image of all kernels (rows, columns, k, k), a pixel of white between them, first row lowest."""
    rows, columns, height, width = kernels.shape
    limit = float(kernels.nan_to_num().abs().max()) or 1.0
    canvas = np.full((rows * (height + 1), columns * (width + 1)), np.nan)
    for i in range(rows):
        for j in range(columns):
            # Kernels stand upright: their first row is on top, in a canvas whose first row is at the bottom.
            tile = kernels[i, j].flip(0).cpu().numpy()
            top, left = i * (height + 1), j * (width + 1)
            canvas[top : top + height, left : left + width] = tile
    extent = (*domain.across, *domain.up)
    axes.imshow(
        canvas, cmap="gray", vmin=-limit, vmax=limit, origin="lower", extent=extent, interpolation="nearest"
    )


def mark_edges(axes: Axes, domain: Domain) -> None:
    """Arrows on edges of one colour are glued, head to head."""
    arrow: dict[str, Any] = {"arrowstyle": "-|>", "shrinkA": 0, "shrinkB": 0, "linewidth": 1.5}
    for edge, colour in zip(domain.edges, _COLOURS, strict=False):
        for (x0, y0), (x1, y1) in edge:
            axes.plot([x0, x1], [y0, y1], color=colour, linewidth=1.2, clip_on=False)
            tail, head = (
                (0.6 * x0 + 0.4 * x1, 0.6 * y0 + 0.4 * y1),
                (0.4 * x0 + 0.6 * x1, 0.4 * y0 + 0.6 * y1),
            )
            axes.annotate("", head, tail, arrowprops=arrow | {"color": colour}, annotation_clip=False)
    axes.set(xlim=domain.across, ylim=domain.up)
