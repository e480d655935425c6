"""The closed-form bound of a normal with a full covariance on a torus, against quadrature."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import kl_divergence

from topoprior import FlatManifold, KleinBottle, Torus, UniformOn, WrappedNormal, cover_kl

HEXAGONAL = FlatManifold([[1.0, -0.5], [0.0, math.sqrt(3) / 2]])
SKEW = FlatManifold([[1.0, 7.3], [0.0, 1.0]])


def gap(space: FlatManifold, scale_tril: Tensor) -> float:
    q = WrappedNormal(space, torch.tensor([0.3, 0.1], dtype=torch.float64), scale_tril=scale_tril)
    p = UniformOn(space, dtype=torch.float64)
    return (cover_kl(q, p) - kl_divergence(q, p)).item()


def test_a_law_that_covers_the_torus_evenly_costs_nothing() -> None:
    """In the coordinates as they stand the bound was .409, where the divergence is 1.8e-5."""
    assert 0 <= gap(Torus(2), torch.tensor([[3.0, 0.0], [1.854, 0.1]], dtype=torch.float64)) < 1e-6


@pytest.mark.parametrize(
    "space", [Torus(2), HEXAGONAL, SKEW, KleinBottle()], ids=["torus", "hexagonal", "skew", "klein"]
)
def test_it_bounds_the_divergence_tightly(space: FlatManifold) -> None:
    generator = torch.Generator().manual_seed(0)
    slack = math.log(space.num_sheets) + 0.02
    for _ in range(12):
        stds = 10 ** (3.2 * torch.rand(2, generator=generator, dtype=torch.float64) - 2.2)
        turn = torch.linalg.qr(torch.randn(2, 2, generator=generator, dtype=torch.float64)).Q
        found = gap(space, torch.linalg.cholesky(turn @ stds.square().diag() @ turn.T))
        assert -1e-9 < found < slack
