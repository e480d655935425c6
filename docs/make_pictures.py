"""The pictures of README and docs/concepts/coverings.md: `python docs/make_pictures.py` writes them."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes

import topoprior as tp

HERE = Path(__file__).parent
K = tp.KleinBottle()
CENTER = torch.tensor([0.85, 0.2])
GLUED = {"arrowstyle": "-|>", "color": "black", "shrinkA": 0, "shrinkB": 0}


def grid(width: float, count: int = 240) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    u = torch.linspace(0, width, round(count * width))
    v = torch.linspace(-0.5, 0.5, count)
    a, b = torch.meshgrid(u, v, indexing="xy")
    return u, v, torch.stack([a, b], -1)


def arrow(ax: Axes, tail: tuple[float, float], head: tuple[float, float], color: str) -> None:
    ax.annotate("", head, tail, arrowprops=GLUED | {"color": color}, annotation_clip=False)


def glued_edges(ax: Axes, width: float, flipped: bool) -> None:
    """Arrows on edges of one color are glued head to head."""
    arrow(ax, (0, -0.25), (0, 0.25), "tab:red")
    arrow(ax, (width, 0.25), (width, -0.25), "tab:red") if flipped else arrow(
        ax, (width, -0.25), (width, 0.25), "tab:red"
    )
    for v in (-0.5, 0.5):
        arrow(ax, (0.4 * width, v), (0.6 * width, v), "tab:blue")
    ax.set(xlim=(0, width), ylim=(-0.5, 0.5), aspect="equal", xlabel="u", ylabel="v")


def two_sheets() -> None:
    scale = torch.tensor([0.2, 0.1])
    torus = tp.FlatManifold(K.lattice)
    q = tp.WrappedNormal(torus, CENTER, scale)
    u, v, x = grid(2.0)
    turned = K.sheets(x)[..., 1, :]
    figure, axes = plt.subplots(1, 2, figsize=(8.4, 2.9), width_ratios=(2, 1), layout="constrained")
    cover, base = axes
    cover.contourf(u, v, q.log_prob(x).exp(), 12, cmap="Greys")
    cover.contour(u, v, q.log_prob(turned).exp(), 6, cmap="Oranges", linewidths=1)
    cover.axvline(1, color="tab:red", linestyle=":", linewidth=1)
    other = K.project(CENTER) * torch.tensor([1.0, -1.0]) + torch.tensor([1.0, 0.0])
    for point, name in ((CENTER, "x"), (other, r"$\gamma x$")):
        cover.plot(*point.tolist(), ".", color="tab:blue", markersize=5)
        cover.annotate(name, point.tolist(), (4, 4), textcoords="offset points", color="tab:blue")
    glued_edges(cover, 2, flipped=False)
    cover.set_title(r"torus: q (grey) and its image by $\gamma(u, v) = (u + 1, -v)$", fontsize=10)
    u, v, x = grid(1.0)
    base.contourf(u, v, tp.WrappedNormal(K, CENTER, scale).log_prob(x).exp(), 12, cmap="Greys")
    glued_edges(base, 1, flipped=True)
    base.set_title("K: the two sheets summed", fontsize=10)
    figure.savefig(HERE / "concepts" / "two-sheets.png", dpi=90)
    plt.close(figure)


def narrow_and_wide() -> None:
    u, v, x = grid(1.0)
    figure, axes = plt.subplots(1, 2, figsize=(7, 3.4), layout="constrained")
    for ax, scale, name in zip(axes, (0.08, 0.3), ("narrow", "wide"), strict=True):
        q = tp.WrappedNormal(K, torch.tensor([0.9, 0.2]), torch.full((2,), scale))
        kl = torch.distributions.kl_divergence(q, tp.UniformOn(K)).item()
        bound = tp.cover_kl(q, tp.UniformOn(K)).item()
        density = ax.contourf(u, v, q.log_prob(x).exp(), 12, cmap="Greys")
        figure.colorbar(density, ax=ax, shrink=0.7, label="density; uniform: 1")
        glued_edges(ax, 1, flipped=True)
        ax.set_title(f"{name}, std {scale}\nKL {kl:.3f}, bound {bound:.3f}", fontsize=10)
    figure.savefig(HERE / "concepts" / "narrow-and-wide.png", dpi=90)
    plt.close(figure)


def kernels() -> None:
    """What the prior believes: kernels decoded on a grid of the fundamental domain."""
    prior, rows, columns = tp.DecoderPrior.from_pretrained("klein-3x3"), 7, 12
    figure, frame = plt.subplots(figsize=(7, 4.2), layout="constrained")
    glued_edges(frame, 1, flipped=True)
    limit = prior.decode(tp.UniformOn(K).sample((1000,))).abs().max().item()
    for i in range(rows):
        for j in range(columns):
            u, v = (j + 0.5) / columns, (i + 0.5) / rows - 0.5
            tile = frame.inset_axes(
                (u - 0.4 / columns, v - 0.4 / rows, 0.8 / columns, 0.8 / rows), transform=frame.transData
            )
            tile.imshow(prior.decode(torch.tensor([u, v])), cmap="gray", vmin=-limit, vmax=limit)
            tile.set_axis_off()
    frame.set(
        aspect="auto", title="3x3 kernels over the Klein bottle; edges with arrows of one colour are glued"
    )
    figure.savefig(HERE / "kernels.png", dpi=90)
    plt.close(figure)


def draws() -> None:
    """What the prior does: kernels of a layer before it has seen data, for three priors."""
    torch.manual_seed(0)
    rows, columns = 6, 8
    names = {
        "gaussian": "gaussian: noise",
        "correlated-gaussian": "correlated-gaussian: smooth noise",
        "klein-3x3": "klein-3x3: edges, ridges, and between",
    }
    figure, axes = plt.subplots(
        1, 3, figsize=(8.4, 2.2), layout="constrained", gridspec_kw={"wspace": 0.12}
    )
    for ax, (name, title) in zip(axes, names.items(), strict=True):
        kernels = tp.get_prior(name).sample((rows * columns, 1, 3, 3))[:, 0]
        kernels = kernels / kernels.abs().amax((1, 2), keepdim=True)
        mosaic = torch.full((rows * 4 - 1, columns * 4 - 1), torch.nan)
        for i, kernel in enumerate(kernels):
            row, column = divmod(i, columns)
            mosaic[4 * row : 4 * row + 3, 4 * column : 4 * column + 3] = kernel
        ax.imshow(mosaic, cmap="gray", vmin=-1, vmax=1)
        ax.set_title(title, fontsize=9)
        ax.set_axis_off()
    figure.savefig(HERE / "draws.png", dpi=90)
    plt.close(figure)


if __name__ == "__main__":
    kernels()
    draws()
    two_sheets()
    narrow_and_wide()
