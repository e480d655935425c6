"""Natural patches: the contrast norm and the cosine basis against matrices, the pipeline on small images."""

import math

import numpy as np
import pytest
import torch

from topoprior.kernels.contrast import contrast, dct_basis, dct_coordinates, from_dct, normalized_patches
from topoprior.kernels.patches import densest, extract_patches, image_patches, kth_neighbour, read_patches

# The D-norm's matrix of 3x3 patches as Lee, Pedersen, Mumford print it.
D = torch.tensor(
    [
        [2, -1, 0, -1, 0, 0, 0, 0, 0],
        [-1, 3, -1, 0, -1, 0, 0, 0, 0],
        [0, -1, 2, 0, 0, -1, 0, 0, 0],
        [-1, 0, 0, 3, -1, 0, -1, 0, 0],
        [0, -1, 0, -1, 4, -1, 0, -1, 0],
        [0, 0, -1, 0, -1, 3, 0, 0, -1],
        [0, 0, 0, -1, 0, 0, 2, -1, 0],
        [0, 0, 0, 0, -1, 0, -1, 3, -1],
        [0, 0, 0, 0, 0, -1, 0, -1, 2],
    ],
    dtype=torch.float64,
)
# Their basis, rows as printed.
E = [
    ([1, 0, -1, 1, 0, -1, 1, 0, -1], 6),
    ([1, 1, 1, 0, 0, 0, -1, -1, -1], 6),
    ([1, -2, 1, 1, -2, 1, 1, -2, 1], 54),
    ([1, 1, 1, -2, -2, -2, 1, 1, 1], 54),
    ([1, 0, -1, 0, 0, 0, -1, 0, 1], 8),
    ([1, 0, -1, -2, 0, 2, 1, 0, -1], 48),
    ([1, -2, 1, 0, 0, 0, -1, 2, -1], 48),
    ([1, -2, 1, -2, 4, -2, 1, -2, 1], 216),
]


def laplacian(size):
    """The graph Laplacian of the grid, edge by edge."""
    matrix = torch.zeros(size**2, size**2, dtype=torch.float64)
    for i in range(size):
        for j in range(size):
            for a, b in ((i + 1, j), (i, j + 1)):
                if a < size and b < size:
                    edge = torch.zeros(size**2, dtype=torch.float64)
                    edge[i * size + j], edge[a * size + b] = 1, -1
                    matrix += torch.outer(edge, edge)
    return matrix


def test_contrast_is_the_published_quadratic_form():
    torch.testing.assert_close(laplacian(3), D, atol=0, rtol=0)
    x = torch.randn(50, 3, 3, dtype=torch.float64)
    flat = x.flatten(1)
    torch.testing.assert_close(contrast(x).square(), ((flat @ D) * flat).sum(1))


@pytest.mark.parametrize("size", [2, 3, 4, 7])
def test_basis_is_orthonormal_in_contrast_and_diagonalizes_it(size):
    basis, matrix = dct_basis(size).flatten(1), laplacian(size)
    assert basis.shape == (size**2 - 1, size**2)
    torch.testing.assert_close(basis @ matrix @ basis.T, torch.eye(len(basis), dtype=torch.float64))
    assert basis.sum(1).abs().max() < 1e-12
    ratio = (basis @ matrix).norm(dim=1) / basis.norm(dim=1)
    torch.testing.assert_close(basis @ matrix, ratio[:, None] * basis)


def test_basis_is_the_published_one():
    published = torch.stack([torch.tensor(v, dtype=torch.float64) / math.sqrt(n) for v, n in E])
    torch.testing.assert_close(dct_basis(3).flatten(1), published)


@pytest.mark.parametrize("size", [2, 3, 5])
def test_coordinates_round_trip(size):
    x = torch.randn(4, 20, size, size, dtype=torch.float64)
    coordinates = dct_coordinates(x)
    assert coordinates.shape == (4, 20, size**2 - 1)
    torch.testing.assert_close(coordinates.norm(dim=-1), contrast(x))
    torch.testing.assert_close(from_dct(coordinates), x - x.mean((-1, -2), keepdim=True))


def test_bad_shapes_are_named():
    for call in (
        lambda: dct_coordinates(torch.zeros(4, 3, 2)),
        lambda: from_dct(torch.zeros(5, 7)),
        lambda: dct_basis(1),
        lambda: normalized_patches(torch.rand(5, 3, 3), 0.0),
        lambda: extract_patches(torch.zeros(2, 5), 3),
        lambda: kth_neighbour(torch.zeros(5, 2), 5),
        lambda: densest(torch.rand(9, 2), 1, 0.5, within=0.0),
    ):
        with pytest.raises(ValueError, match="expected"):
            call()


def test_normalized_patches_keep_those_of_high_contrast():
    x = torch.randn(200, 3, 3) * torch.linspace(0.1, 1, 200)[:, None, None] + 5
    x[:3] = 1.0
    found = normalized_patches(x, 0.2)
    kept = contrast(x).argsort(descending=True)[:40].sort().values
    expected = (x[kept] - x[kept].mean((1, 2), keepdim=True)) / contrast(x[kept])[:, None, None]
    torch.testing.assert_close(found, expected)
    assert len(normalized_patches(x)) == 197  # without contrast there is no direction


def test_extracted_patches_are_parts_of_the_image_and_differ():
    image = torch.arange(35.0).reshape(5, 7)
    found = extract_patches(image, 3, 1000)
    assert found.shape == (15, 3, 3)
    for patch in found:
        i, j = divmod(int(patch[0, 0]), 7)
        assert torch.equal(patch, image[i : i + 3, j : j + 3])
    assert len(extract_patches(image, 3, 4)) == 4


def test_neighbours_and_density_by_brute_force():
    x = torch.randn(300, 4)
    distances = (x[:, None] - x).norm(dim=-1)
    torch.testing.assert_close(kth_neighbour(x, 7), distances.sort(1).values[:, 7], atol=1e-4, rtol=0)
    assert set(densest(x, 7, 0.1).tolist()) == set(distances.sort(1).values[:, 7].argsort()[:30].tolist())
    gap = kth_neighbour(x, 7)
    ranks = [
        ((distances[i] <= 1.5) & (gap < gap[i])).sum() / (distances[i] <= 1.5).sum() for i in range(300)
    ]
    kept = densest(x, 7, 0.1, within=1.5)
    assert torch.stack(ranks)[kept].max() <= torch.stack(ranks).sort().values[29] + 1e-6


def test_a_density_filter_finds_the_dense_part():
    """A circle with uniform noise around: the densest tenth is the circle."""
    angle = 2 * math.pi * torch.rand(1000)
    circle = torch.stack([angle.cos(), angle.sin()], 1) + 0.01 * torch.randn(1000, 2)
    noise = 4 * torch.rand(1000, 2) - 2
    x = torch.cat([circle, noise])
    assert (densest(x, 15, 0.1) < 1000).double().mean() > 0.95


def write_images(folder, count=6, size=24):
    """Straight edges and ramps of many orientations: patches on the Klein bottle's linear circle."""
    image = pytest.importorskip("PIL.Image")
    (folder / "part").mkdir(parents=True)
    line = np.arange(size) - size / 2
    for i in range(count):
        angle = math.pi * i / count
        t = math.cos(angle) * line[None] + math.sin(angle) * line[:, None]
        pixels = np.exp(4.2 + 1.5 * t / size)  # a ramp of the logarithm
        image.fromarray(np.clip(pixels, 1, 255).astype(np.uint8)).save(folder / "part" / f"{i}.png")
    (folder / "notes.txt").write_text("no image")


def test_an_image_folder_of_ramps_gives_linear_patches(tmp_path):
    write_images(tmp_path)
    generator = torch.Generator().manual_seed(0)
    found = image_patches(tmp_path, per_image=200, keep=0.5, generator=generator)
    assert found.shape == (600, 3, 3)
    torch.testing.assert_close(contrast(found), torch.ones(600))
    energy = dct_coordinates(found).square().mean(0)
    assert energy[:2].sum() > 0.9  # what is left is rounding to 8 bits
    assert image_patches(tmp_path, per_image=200, limit=50).shape == (50, 3, 3)


def test_image_folders_that_cannot_be_used(tmp_path):
    image = pytest.importorskip("PIL.Image")
    with pytest.raises(ValueError, match="no images"):
        image_patches(tmp_path)
    image.new("L", (10, 10), 7).save(tmp_path / "flat.png")
    with pytest.raises(ValueError, match="one colour"):
        image_patches(tmp_path)
    image.new("L", (2, 10), 7).save(tmp_path / "small.png")
    with pytest.raises(ValueError, match="small.png is smaller"):
        image_patches(tmp_path)
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="a.png is not an image"):
        image_patches(tmp_path)


def test_files_of_four_shapes_say_the_same(tmp_path):
    x = torch.randn(120, 3, 3, dtype=torch.float64)
    expected = normalized_patches(x).float()
    for name, array in (
        ("pixels", x),
        ("channel", x[:, None]),
        ("rows", x.flatten(1)),
        ("cosines", dct_coordinates(x)),
    ):
        np.save(tmp_path / f"{name}.npy", array.numpy())
        torch.testing.assert_close(read_patches(tmp_path / f"{name}.npy"), expected)
    assert len(read_patches(tmp_path / "pixels.npy", keep=0.5)) == 60


def test_a_matlab_file(tmp_path):
    io = pytest.importorskip("scipy.io")
    x = torch.randn(150, 8, dtype=torch.float64)
    io.savemat(tmp_path / "a.mat", {"patches": x.numpy(), "k": 15.0, "note": "text"})
    torch.testing.assert_close(
        dct_coordinates(read_patches(tmp_path / "a.mat").double()), x / x.norm(dim=1, keepdim=True),
        atol=1e-6, rtol=1e-5,
    )  # fmt: skip
    io.savemat(tmp_path / "two.mat", {"a": x.numpy(), "b": x.numpy()})
    with pytest.raises(ValueError, match="found a, b"):
        read_patches(tmp_path / "two.mat")
    (tmp_path / "bad.mat").write_bytes(b"MATLAB no more" * 20)
    with pytest.raises(ValueError, match=r"bad\.mat is not a MATLAB file"):
        read_patches(tmp_path / "bad.mat")


def test_scipy_is_asked_for_where_it_is_needed(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "scipy.io", None)
    (tmp_path / "a.mat").write_bytes(b"")
    with pytest.raises(ImportError, match="pip install scipy"):
        read_patches(tmp_path / "a.mat")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((200, 3, 2)), "expected"),
        (np.zeros((200, 7)), "expected"),
        (np.zeros((20, 9)), "at least 100"),
        (np.full((200, 9), np.nan), "NaN"),
        (np.full((200, 9), 3.0), "with contrast, found 0; the largest number is 3"),
        (
            np.eye(200, 9) + np.arange(200)[:, None] * (np.arange(200)[:, None] == 199) * 1e300,
            "with contrast",
        ),
        (
            1e300 * np.random.default_rng(0).normal(size=(200, 9)),
            "with contrast, found 0; the largest number",
        ),
        (np.array(["a"] * 200), "numbers"),
    ],
)
def test_files_that_hold_no_patches(array, message, tmp_path):
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(ValueError, match=message):
        read_patches(tmp_path / "x.npy")


def test_nothing_is_unpickled(tmp_path):
    np.save(tmp_path / "x.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="numbers"):
        read_patches(tmp_path / "x.npy")
