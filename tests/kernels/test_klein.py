"""The analytic kernels, their subspace and distances, and kernels harvested from networks."""

import math
import sys
import types

import numpy
import pytest
import safetensors.torch
import torch

import topoprior as tp
from topoprior.kernels.describe import describe_kernels
from topoprior.kernels.klein import (
    kernel_coordinates,
    klein_energy,
    klein_kernels,
    klein_subspace,
    nearest_klein,
    sample_klein_kernels,
)
from topoprior.kernels.networks import harvest_kernels

K = tp.KleinBottle()


def definition(theta1, theta2, size):
    """F at every pixel, one by one."""
    line = [-1 + 2 * i / (size - 1) for i in range(size)]
    rows = []
    for y in line:
        row = []
        for x in line:
            t = x * math.cos(theta1) + y * math.sin(theta1)
            row.append(math.sin(theta2) * t + math.cos(theta2) * (2 * t * t - 1))
        rows.append(row)
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("size", [3, 5])
def test_kernels_are_their_definition_up_to_one_scale(size):
    points = torch.rand(20, 2, dtype=torch.float64)
    found = klein_kernels(points, size)
    for point, kernel in zip(points, found, strict=True):
        expected = definition(math.pi * point[0], 2 * math.pi * point[1], size)
        scale = (kernel * expected).sum() / expected.square().sum()
        torch.testing.assert_close(kernel, scale * expected)
    line = torch.arange(64, dtype=torch.float64) / 64
    energy = klein_kernels(torch.cartesian_prod(line, line), size).square().sum((1, 2)).mean()
    assert abs(energy - 1) < 1e-12


def test_kernels_are_invariant():
    x = torch.rand(50, 2, dtype=torch.float64)
    lifts = K.lifts(x, 2.0)
    torch.testing.assert_close(
        klein_kernels(lifts), klein_kernels(x)[:, None].expand(-1, lifts.shape[1], 3, 3)
    )


@pytest.mark.parametrize("metric", ["contrast", "pixels"])
@pytest.mark.parametrize(("size", "rank"), [(2, 3), (3, 5), (5, 5), (7, 5)])
def test_the_subspace_is_spanned_by_quadratic_polynomials(size, rank, metric):
    found = klein_subspace(size, metric)
    line = torch.linspace(-1, 1, size, dtype=torch.float64)
    y, x = torch.meshgrid(line, line, indexing="ij")
    monomials = kernel_coordinates(torch.stack([x, y, x * x, x * y, y * y]), metric)
    assert found.shape == (rank, size**2 - 1)
    torch.testing.assert_close(found @ found.T, torch.eye(rank, dtype=torch.float64))
    torch.testing.assert_close(monomials @ found.T @ found, monomials)


def test_the_pixel_metric_is_the_euclidean_one():
    x = torch.randn(30, 4, 4, dtype=torch.float64)
    centered = x - x.mean((1, 2), keepdim=True)
    torch.testing.assert_close(kernel_coordinates(x, "pixels").norm(dim=1), centered.flatten(1).norm(dim=1))
    with pytest.raises(ValueError, match="metric"):
        kernel_coordinates(x, "degrees")


@pytest.mark.parametrize("metric", ["contrast", "pixels"])
def test_energy_is_what_least_squares_explains(metric):
    """Against a regression on a thousand kernels of the family, weighted by the metric's matrix."""
    x = torch.randn(40, 3, 3, dtype=torch.float64)
    family = kernel_coordinates(klein_kernels(torch.rand(1000, 2, dtype=torch.float64)), metric)
    target = kernel_coordinates(x, metric).T
    fitted = family.T @ torch.linalg.lstsq(family.T, target, driver="gelsd").solution
    expected = fitted.square().sum(0) / target.square().sum(0)
    torch.testing.assert_close(klein_energy(x, metric), expected, atol=1e-8, rtol=0)


def test_energy_of_the_family_and_of_noise():
    assert (klein_energy(sample_klein_kernels(100)[0]) - 1).abs().max() < 1e-5
    noise = klein_energy(torch.randn(20_000, 3, 3), "pixels")  # a Beta(5/2, 3/2) variable
    assert abs(noise.mean() - 5 / 8) < 5 * math.sqrt(5 / 8 * 3 / 8 / 5 / 20_000)


@pytest.mark.parametrize("metric", ["contrast", "pixels"])
def test_distances_against_a_fine_grid(metric):
    x = torch.randn(100, 3, 3, dtype=torch.float64)
    distance, points = nearest_klein(x, metric)
    line = torch.arange(300, dtype=torch.float64) / 300
    grid = kernel_coordinates(klein_kernels(torch.cartesian_prod(line, line)), metric)
    grid, unit = (c / c.norm(dim=1, keepdim=True) for c in (grid, kernel_coordinates(x, metric)))
    brute = torch.cdist(unit, grid).amin(1)
    assert (brute - distance).max() < 0.01
    # Refined beyond the grid, but for a few that two places suit about equally.
    assert (distance <= brute + 1e-9).double().mean() >= 0.95
    assert (distance - brute).max() < 0.01
    found = kernel_coordinates(klein_kernels(points), metric)
    found = found / found.norm(dim=1, keepdim=True)
    torch.testing.assert_close((found - unit).norm(dim=1), distance)


def test_the_nearest_point_of_a_klein_kernel_is_its_own():
    kernels, points = sample_klein_kernels(500)
    distance, found = nearest_klein(3 * kernels + 1)  # scale and mean do not count
    assert distance.max() < 1e-3
    # Without their means two kernels of the family are seldom alike: nearly all find their own point.
    assert (K.distance(found, points) < 0.01).double().mean() > 0.98
    assert torch.allclose(nearest_klein(-kernels)[0], distance, atol=1e-3)


# --- kernels of networks -----------------------------------------------------------------------------


def small_network():
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3),
        torch.nn.BatchNorm2d(16),
        torch.nn.Conv2d(16, 16, 3),
        torch.nn.Conv2d(16, 8, 5),
    )


def test_harvest_takes_the_kernels_of_the_size_and_drops_dead_ones():
    state = small_network().state_dict()
    state["2.weight"][5] = 1e-6 * torch.randn(16, 3, 3)
    found = harvest_kernels(state)
    assert found.layers == {"0.weight": 48, "2.weight": 240}
    assert found.dropped == 16
    torch.testing.assert_close(found.kernels.flatten(1).norm(dim=1), torch.ones(288))
    assert found.kernels.mean((1, 2)).abs().max() < 1e-6
    first = state["0.weight"][0, 0]
    first = first - first.mean()
    torch.testing.assert_close(found.kernels[0], first / first.norm())
    assert len(harvest_kernels(state, 5).kernels) == 128


def test_harvest_measures_the_energy_of_the_means():
    weight = torch.randn(64, 32, 3, 3)
    found = harvest_kernels({"w": weight}, threshold=0.0)
    assert found.mean_fraction == pytest.approx(
        (9 * weight.mean((2, 3)).square().sum() / weight.square().sum()).item(), rel=1e-4
    )
    assert abs(found.mean_fraction - 1 / 9) < 0.02
    kept = harvest_kernels({"w": weight}, center=False).kernels
    torch.testing.assert_close(kept[0], weight[0, 0] / weight[0, 0].norm())


def test_harvest_reads_files_without_unpickling(tmp_path):
    network = small_network()
    expected = harvest_kernels(network.state_dict()).kernels
    safetensors.torch.save_file(network.state_dict(), tmp_path / "w.safetensors")
    torch.save({"epoch": 3, "state_dict": network.state_dict()}, tmp_path / "w.pt")
    for name in ("w.safetensors", "w.pt"):
        torch.testing.assert_close(harvest_kernels(tmp_path / name).kernels, expected)
    torch.save(network, tmp_path / "whole.pt")
    with pytest.raises(ValueError, match="state_dict"):
        harvest_kernels(tmp_path / "whole.pt")
    (tmp_path / "bad.safetensors").write_bytes(b"no weights")
    with pytest.raises(ValueError, match="damaged"):
        harvest_kernels(tmp_path / "bad.safetensors")


def test_harvest_by_a_models_name(monkeypatch):
    """torchvision's registry, with a download that is none; tensors only are asked for."""
    models = pytest.importorskip("torchvision").models
    asked = {}

    def get_state_dict(**options):
        asked.update(options)
        return small_network().state_dict()

    weights = types.SimpleNamespace(DEFAULT=types.SimpleNamespace(get_state_dict=get_state_dict))
    monkeypatch.setattr(models, "get_model_weights", lambda name: {"resnet18": weights}[name])
    assert len(harvest_kernels("resnet18").kernels) == 304
    assert asked["weights_only"] is True
    assert asked["check_hash"] is True


def test_harvest_says_what_is_missing(monkeypatch):
    pytest.importorskip("torchvision")
    with pytest.raises(ValueError, match="neither a file of weights"):
        harvest_kernels("resnet17")
    with pytest.raises(ValueError, match="no file"):
        harvest_kernels("missing.safetensors")
    with pytest.raises(ValueError, match="kernels there are 3x3, 5x5"):
        harvest_kernels(small_network().state_dict(), 7)
    with pytest.raises(ValueError, match="no 2-d kernels"):
        harvest_kernels({"w": torch.zeros(3, 3)})
    with pytest.raises(ValueError, match="NaN"):
        harvest_kernels({"w": torch.full((20, 20, 3, 3), math.nan)})
    for options in ({"size": 1}, {"threshold": 1.0}):
        with pytest.raises(ValueError, match="expected"):
            harvest_kernels({}, **options)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(ImportError, match="pip install torchvision"):
        harvest_kernels("resnet18")


def test_integers_count_as_real_numbers():
    """Distances and points of integer kernels were rounded to integers."""
    kernels = torch.randint(-5, 6, (6, 3, 3))
    for found, expected in zip(nearest_klein(kernels), nearest_klein(kernels.float()), strict=True):
        assert torch.equal(found, expected)
    assert torch.equal(klein_energy(kernels), klein_energy(kernels.float()))
    many = torch.randint(-5, 6, (150, 3, 3))
    assert describe_kernels(many) == describe_kernels(many.float())


@pytest.mark.parametrize("call", [nearest_klein, klein_energy, kernel_coordinates, describe_kernels])
@pytest.mark.parametrize(
    "bad", [[[1.0]], numpy.ones((150, 3, 3)), torch.ones(150, 3, 3, dtype=torch.complex64)]
)
def test_what_is_no_real_tensor_is_named(call, bad):
    with pytest.raises(TypeError, match="kernels: expected a torch.Tensor of real numbers, found"):
        call(bad)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_no_number_is_refused(bad):
    kernels = torch.randn(150, 3, 3)
    kernels[7, 1, 1] = bad
    for call in (nearest_klein, describe_kernels):
        with pytest.raises(ValueError, match="kernels: expected finite values"):
            call(kernels)
    net = torch.nn.Sequential(torch.nn.Conv2d(10, 15, 3))
    net[0].weight.data.copy_(kernels.view(15, 10, 3, 3))
    with pytest.raises(ValueError, match="layer '0'.*expected finite values"):
        tp.to_bayesian(net, init="pretrained")
