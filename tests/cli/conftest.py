"""Small data of the command line's tests."""

import numpy as np
import pytest
import torch

from topoprior.kernels.contrast import dct_coordinates
from topoprior.kernels.klein import klein_kernels


@pytest.fixture
def patches(tmp_path):
    """Patches near the Klein bottle, as DCT coordinates in a .npy file."""
    x = klein_kernels(torch.rand(800, 2)) + 0.02 * torch.randn(800, 3, 3)
    np.save(tmp_path / "patches.npy", dct_coordinates(x.double()).numpy())
    return tmp_path / "patches.npy"
