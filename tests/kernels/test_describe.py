"""Kernels in numbers: against what the numbers are of, one by one."""

import pytest
import torch

from topoprior.kernels import describe_homology, describe_kernels, sample_klein_kernels, unit_kernels
from topoprior.kernels.contrast import contrast


def test_analytic_kernels_are_near_and_noise_is_not():
    near, noise = sample_klein_kernels(400)[0], torch.randn(4000, 3, 3)
    found, other = describe_kernels(near), describe_kernels(noise)
    assert found["kernels"] == 400
    assert found["klein_energy"] == pytest.approx(1, abs=1e-5)
    assert found["klein_distance"]["90%"] < 1e-2
    assert found["mean_energy_share"] < 0.5
    # White noise has 1/9 of its energy in the mean; 5 of the 8 other dimensions are the Klein kernels'.
    assert other["mean_energy_share"] == pytest.approx(1 / 9, abs=0.02)
    assert other["klein_energy_pixels"] == pytest.approx(5 / 8, abs=0.03)
    assert other["klein_energy_of_noise"] == 5 / 8
    assert describe_kernels(noise) == other, "no random number is drawn from the global state"


def test_flat_kernels_are_left_out():
    kernels = torch.randn(50, 3, 3)
    kernels[:10] = 2.0
    units, kept = unit_kernels(kernels)
    assert kept.tolist() == [False] * 10 + [True] * 40
    torch.testing.assert_close(contrast(units), torch.ones(40))
    torch.testing.assert_close(units.mean((1, 2)), torch.zeros(40), atol=1e-6, rtol=0)
    for bad in (torch.ones(5, 3, 3), torch.zeros(0, 3, 3), torch.randn(5, 3, 2), torch.randn(5, 9)):
        with pytest.raises(ValueError, match="kernels: expected"):
            unit_kernels(bad)


def test_homology_in_plain_numbers():
    """Diagrams of a circle: a component, and one loop that lives long."""
    bars = [
        torch.tensor([[0.0, 0.1], [0.0, torch.inf]]).numpy(),
        torch.tensor([[0.2, 1.0], [0.2, 0.21]]).numpy(),
    ]
    found = describe_homology({2: bars, 3: bars}, 30)
    assert found["betti"] == {"Z/2": [1, 1], "Z/3": [1, 1]}
    assert "a circle" in found["reading"]
    assert found["longest_bars"]["Z/2"][1][0] == pytest.approx((0.2, 1.0))
