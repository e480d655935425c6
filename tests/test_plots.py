"""Pictures: glued edges are glued in the space, kernels stand where they belong, files are whole PNGs."""

import math
import sys

import numpy as np
import pytest
import torch

import topoprior as tp
from topoprior import plots
from topoprior.kernels.klein import klein_kernels, sample_klein_kernels

pytest.importorskip("matplotlib")

SURFACES = [tp.KleinBottle(), tp.Torus(2), tp.FlatManifold([[3.0, 0.0], [0.0, 0.5]])]


def along(edge, t):
    tail, head = (torch.tensor(p, dtype=torch.float64) for p in edge)
    return tail + t[:, None] * (head - tail)


@pytest.mark.parametrize("space", [*SURFACES, tp.Circle()], ids=repr)
def test_marked_edges_are_glued_in_the_space(space):
    """Points at equal parameters of the two edges of a colour are one point of the space."""
    t = torch.linspace(0, 1, 21, dtype=torch.float64)
    domain = plots.fundamental_domain(space)
    assert len(domain.edges) == space.dim
    for first, second in domain.edges:
        a, b = along(first, t)[:, : space.dim], along(second, t)[:, : space.dim]
        assert space.same_point(a, b, atol=1e-9).all()
        assert not torch.equal(a, b)
    flipped = space.same_point(
        torch.tensor([0.0, 0.2][: space.dim], dtype=torch.float64),
        torch.tensor([domain.across[1], 0.2][: space.dim], dtype=torch.float64),
    )
    assert flipped.item() != (space == tp.KleinBottle())


def test_the_klein_domain_holds_every_point_once():
    domain, space = plots.fundamental_domain(tp.KleinBottle()), tp.KleinBottle()
    width, height = domain.across[1] - domain.across[0], domain.up[1] - domain.up[0]
    assert width * height == pytest.approx(space.volume)
    inside = torch.rand(400, 2, dtype=torch.float64) * torch.tensor([width, height]) + torch.tensor(
        [domain.across[0], domain.up[0]]
    )
    distance = space.distance(inside[:, None], inside)
    apart = (inside[:, None] - inside).norm(dim=-1)
    assert (distance[apart > 1e-9] > 1e-6).all()


def test_spaces_that_cannot_be_drawn_are_named():
    with pytest.raises(ValueError, match="dimension 1 or 2"):
        plots.fundamental_domain(tp.HantzscheWendt())
    with pytest.raises(ValueError, match="periods"):
        plots.fundamental_domain(tp.FlatManifold([[1.0, 0.5], [0.0, 1.0]]))


def image_of(figure):
    return figure.axes[0].images[0]


def test_the_grid_shows_the_kernels_at_the_centers_of_its_cells():
    figure = plots.kernel_grid(klein_kernels, tp.KleinBottle(), rows=4, columns=6)
    image = image_of(figure)
    assert image.get_extent() == [0.0, 1.0, -0.5, 0.5]
    assert image.origin == "lower"
    canvas = np.asarray(image.get_array().filled(np.nan))
    i, j = 1, 4
    tile = canvas[4 * i : 4 * i + 3, 4 * j : 4 * j + 3]
    kernel = klein_kernels(torch.tensor([(j + 0.5) / 6, (i + 0.5) / 4 - 0.5]))
    np.testing.assert_allclose(tile[::-1], kernel.numpy(), atol=1e-6)  # first row on top


def test_the_map_puts_kernels_where_they_are_nearest():
    kernels, points = sample_klein_kernels(3000)
    canvas = np.asarray(
        image_of(plots.kernel_map(kernels, points, rows=10, columns=10)).get_array().filled(np.nan)
    )
    errors = []
    for i in range(10):
        for j in range(10):
            tile = canvas[4 * i : 4 * i + 3, 4 * j : 4 * j + 3][::-1]
            expected = klein_kernels(torch.tensor([(j + 0.5) / 10, (i + 0.5) / 10 - 0.5])).numpy()
            errors.append(np.abs(tile - expected).max())
    assert np.median(errors) < 0.15
    assert np.max(errors) < 0.6
    lonely = plots.kernel_map(kernels[:1], points[:1])
    assert np.isfinite(image_of(lonely).get_array().filled(np.nan)).sum() == 9


@pytest.mark.parametrize("space", [*SURFACES, tp.Circle(), tp.Euclidean(2), tp.Torus(3)], ids=repr)
def test_every_space_has_its_pictures(space, tmp_path):
    matrix = torch.randn(space.num_features, 9)
    grid = plots.kernel_grid(lambda z: (space.embed(z) @ matrix).unflatten(-1, (3, 3)), space)
    points = torch.randn(100, space.dim)
    scatter = plots.latent_scatter(
        points, {"angle": torch.rand(100), "b": torch.rand(100)}, space, cyclic=["angle"]
    )
    for name, figure in (("grid", grid), ("scatter", scatter)):
        plots.save(figure, tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["grid.png", "scatter.png"]


def test_scattered_points_are_moved_into_the_domain():
    """A lift far away is drawn at the place of its point."""
    space = tp.KleinBottle()
    points = torch.tensor([[0.3, 0.2], [1.3, -0.2], [0.3, 5.2], [-0.7, -0.2]])
    figure = plots.latent_scatter(points, {"a": torch.zeros(4)}, space)
    drawn = figure.axes[0].collections[0].get_offsets()
    np.testing.assert_allclose(np.asarray(drawn), [[0.3, 0.2]] * 4, atol=1e-6)


def test_persistence_pictures_draw_every_bar():
    bars = {2: [np.array([[0, 1], [0, math.inf]]), np.array([[0.5, 1.5]]), np.zeros((0, 2))]}
    figure = plots.persistence_picture(bars, titles={2: "over Z/2"})
    assert [len(c.get_offsets()) for c in figure.axes[0].collections] == [2, 1]
    assert figure.axes[0].get_title() == "over Z/2"
    plots.persistence_picture({3: [np.zeros((0, 2))]}, titles={})


def test_matplotlib_is_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install .topoprior\[plots\]"):
        plots.kernel_grid(klein_kernels, tp.KleinBottle())
