"""Pictures of the Klein-Circles runs: latents, decoded images, curves."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

import topoprior as tp
from experiments.common.palette import colour
from experiments.common.store import Run
from experiments.klein_circles.images import ImageSet
from topoprior.plots import Domain, Edge, fundamental_domain, mark_edges

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIDE = 12  # decoded images along each side of the fundamental domain
_POINTS = 2000
Arrays = Mapping[str, np.ndarray]


class Chart(NamedTuple):
    """A picture of a space: a rectangle, the way there (N, 2), and back from (N, 2), NaN where it holds no point."""

    domain: Domain
    to_plane: Callable[[Tensor], Tensor]
    from_plane: Callable[[Tensor], Tensor]
    labels: tuple[str, str] = ("u", "v")


def chart(space: tp.Covering, latents: Tensor) -> Chart:
    """How to draw a latent space of this experiment; ``latents`` say how far open directions are needed.

    The projective plane is half a sphere in Lambert's projection, its rim glued to itself through the middle;
    of the rotations turn about z, tilt about x the slice without a third turn is decoded.
    """
    if isinstance(space, tp.RealProjectiveSpace):
        return Chart(Domain((-1, 1), (-1, 1), []), _lambert, _inverse_lambert, ("x", "y"))
    if isinstance(space, tp.RotationGroup):
        return Chart(Domain((0, 2 * math.pi), (0, math.pi), []), _euler, _turned, ("turn", "tilt"))
    assert isinstance(space, tp.FlatManifold)
    if space.rank == 2:
        domain = fundamental_domain(space)
    elif space.rank == 1:
        w = 1.05 * latents[:, 1].abs().max().item()
        domain = Domain((0, 1), (-w, w), [Edge(((0, -w), (0, w)), ((1, w), (1, -w)))])
    else:
        (left, bottom), (right, top) = latents.quantile(latents.new_tensor([0.005, 0.995]), dim=0).tolist()
        return Chart(Domain((left, right), (bottom, top), []), lambda x: x, lambda x: x)

    def to_plane(x: Tensor) -> Tensor:
        u, v = space.project(x).unbind(-1)
        if space.rank == 2:
            v = domain.up[0] + (v - domain.up[0]) % 1
        return torch.stack([u, v], -1)

    return Chart(domain, to_plane, lambda x: x)


def _lambert(x: Tensor) -> Tensor:
    x = torch.where(x[..., 2:] < 0, -x, x)
    return x[..., :2] / (1 + x[..., 2:]).sqrt()


def _inverse_lambert(plane: Tensor) -> Tensor:
    """At distance r <= 1 from the middle the height is 1 - r^2."""
    r2 = plane.square().sum(-1, keepdim=True)
    x = torch.cat([plane * (2 - r2).clamp_min(0).sqrt(), 1 - r2], -1)
    return torch.where(r2 <= 1, x, math.nan)


def _euler(q: Tensor) -> Tensor:
    """Turn and tilt of R = R_z(turn) R_x(tilt) R_z(spin)."""
    matrix = tp.RotationGroup().matrix(q)
    turn = torch.atan2(matrix[..., 0, 2], -matrix[..., 1, 2]) % (2 * math.pi)
    return torch.stack([turn, matrix[..., 2, 2].clamp(-1, 1).acos()], -1)


def _turned(plane: Tensor) -> Tensor:
    """The quaternion of R_z(turn) R_x(tilt)."""
    turn, tilt = (plane / 2).unbind(-1)
    return torch.stack(
        [
            turn.cos() * tilt.cos(),
            turn.cos() * tilt.sin(),
            turn.sin() * tilt.sin(),
            turn.sin() * tilt.cos(),
        ],
        -1,
    )


@torch.no_grad()
def picture_data(vae: tp.CoveringVAE, images: ImageSet, x: Tensor, points: Tensor) -> dict[str, np.ndarray]:
    """What the picture of a model needs: latents of images ``x`` in the plane, colours of their generating
    ``points``, images decoded at the centers of a grid (bytes, rows from below), and the rectangle."""
    x, points = x[:_POINTS], images.space.project(points[:_POINTS])
    latents = vae.latents(x)
    drawn = chart(vae.covering, latents)
    across, up = (
        low + (high - low) * (torch.arange(SIDE) + 0.5) / SIDE
        for low, high in (drawn.domain.across, drawn.domain.up)
    )
    grid = torch.stack(torch.meshgrid(across, up, indexing="xy"), -1).flatten(0, 1)
    lifts = drawn.from_plane(grid)
    inside = lifts.isfinite().all(-1)
    decoded = torch.zeros(SIDE * SIDE, *x.shape[1:], dtype=torch.uint8)
    decoded[inside] = (255 * vae.decode(lifts[inside]).sigmoid()).round().to(torch.uint8)
    return {
        "latents": drawn.to_plane(latents).numpy().astype(np.float16),
        "colours": torch.stack([shown.of(points) for shown in images.colours]).numpy().astype(np.float16),
        "decoded": decoded.unflatten(0, (SIDE, SIDE)).numpy(),
        "inside": inside.unflatten(0, (SIDE, SIDE)).numpy(),
        "extent": np.array([*drawn.domain.across, *drawn.domain.up]),
    }


def latents_picture(space: tp.Covering, images: ImageSet, data: Arrays) -> Figure:
    """Latents of test images, coloured by two functions of their generating points, and images decoded on a
    grid of the same rectangle; edges with arrows of one colour are glued, head to head."""
    from matplotlib.figure import Figure

    latents = data["latents"].astype(np.float32)
    drawn = chart(space, torch.from_numpy(latents))
    left, right, bottom, top = data["extent"].tolist()
    domain = drawn.domain._replace(across=(left, right), up=(bottom, top))
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    axes = figure.subplots(1, 3)
    for axis, shown, values in zip(axes[:2], images.colours, data["colours"], strict=True):
        shades = "twilight" if shown.cyclic else "viridis"
        where = latents[:, 0], latents[:, 1]
        marks = axis.scatter(*where, c=values.astype(np.float32), s=4, cmap=shades, linewidths=0)
        figure.colorbar(marks, ax=axis)
        axis.set_title(f"latents of test images, coloured by their {shown.name}", fontsize=9)
    axes[2].imshow(
        _mosaic(data["decoded"], data["inside"]),
        cmap="gray_r",
        vmin=0,
        vmax=1,
        origin="lower",
        extent=(left, right, bottom, top),
        aspect="auto",
    )
    axes[2].set_title("decoded at a grid of latents", fontsize=9)
    for axis in axes:
        axis.set(xlabel=drawn.labels[0], ylabel=drawn.labels[1], xlim=(left, right), ylim=(bottom, top))
        mark_edges(axis, domain)
    return figure


def _mosaic(decoded: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Tiles (rows, columns, H, W), first row lowest, with grey lines between; white outside the space."""
    rows, columns, height, width = decoded.shape
    canvas = np.full((rows, height + 1, columns, width + 1), 0.3)
    # Images stand upright on a canvas whose first row is at the bottom.
    tiles = np.where(inside[..., None, None], decoded[:, :, ::-1] / 255, np.nan)
    canvas[:, :height, :, :width] = tiles.transpose(0, 2, 1, 3)
    return canvas.reshape(rows * (height + 1), columns * (width + 1))


def curves_picture(runs: Sequence[Run]) -> Figure:
    """The negative ELBO of the validation part after every epoch, a colour for each model."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axis = figure.subplots()
    named: set[str] = set()
    for run in runs:
        model, curve = run.config["model"], run.result["validation"]
        label = None if model in named else model
        named.add(model)
        axis.plot(range(1, len(curve) + 1), curve, color=colour(model), label=label)
    axis.set(xlabel="epoch", ylabel="negative ELBO, validation (nats)", yscale="log")
    axis.legend()
    return figure
