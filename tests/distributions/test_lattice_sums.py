"""Sums of normals over a lattice: against brute force in mpmath, on any lattice."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from tests.distributions.test_wrapped_normal import DTYPES, TOLERANCE, close
from tests.spaces.cases import (
    brute_log_prob,
    brute_terms,
)
from topoprior import FlatManifold
from topoprior.distributions.lattice_sums import log_lattice_normal
from topoprior.distributions.theta import log_wrapped_normal

# --- one dimension -----------------------------------------------------------------------------


def brute_wrapped(x: Tensor, scale: float) -> Tensor:
    reach = math.ceil(10 * scale) + 2
    k = torch.arange(-reach, reach + 1, dtype=torch.float64)
    return (
        Normal(torch.zeros((), dtype=torch.float64), scale)
        .log_prob(x.double()[..., None] + k)
        .logsumexp(-1)
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [1e-3, 0.05, 0.2, 0.3, 0.36999, 0.37, 0.39894, 0.5, 1.0, 3.0, 30.0, 1e3])
def test_log_wrapped_normal(scale: float, dtype: torch.dtype) -> None:
    x = torch.linspace(-2.5, 2.5, 203).to(dtype)
    x = torch.cat([x, x.new_tensor([0.0, 0.5, -0.5, 1.0]), (x * scale).fmod(1)])
    s = torch.tensor(scale, dtype=dtype)
    got, expected = log_wrapped_normal(x, s), brute_wrapped(x, s.item())
    assert got.dtype == dtype
    peak = max(1.0, expected.exp().max().item())
    rounding = 8 * torch.finfo(dtype).eps / min(1.0, scale)  # x is known to so many stds
    assert (got.double().exp() - expected.exp()).abs().max() < (TOLERANCE[dtype] + rounding) * peak
    # Far in the tail as well: the relative error of the density.
    inside = (got.double() - expected).abs() / (1 + expected.abs())
    assert inside.max() < 1e3 * torch.finfo(dtype).eps / min(1.0, scale)


@pytest.mark.parametrize("dtype", DTYPES)
def test_log_wrapped_normal_is_finite_with_its_gradient(dtype: torch.dtype) -> None:
    x = torch.linspace(-1, 1, 41, dtype=dtype).requires_grad_()
    scale = torch.logspace(-6, 6, 25, dtype=dtype)[:, None].requires_grad_()
    value = log_wrapped_normal(x, scale)
    assert value.isfinite().all()
    for gradient in torch.autograd.grad(value.sum(), (x, scale)):
        assert gradient.isfinite().all()


def test_log_wrapped_normal_is_smooth_where_the_sums_meet() -> None:
    x = torch.linspace(0, 0.5, 26, dtype=torch.float64)
    below, above = (
        torch.tensor(0.37 + e, dtype=torch.float64, requires_grad=True) for e in (-1e-13, 1e-13)
    )
    a, b = log_wrapped_normal(x, below), log_wrapped_normal(x, above)
    close(a, b, 1e-11)
    for i in range(26):
        slopes = [torch.autograd.grad(v[i], s, retain_graph=True)[0] for v, s in ((a, below), (b, above))]
        close(slopes[0], slopes[1], 1e-9)


# --- any lattice -------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_log_lattice_normal_on_random_lattices(rank: int) -> None:
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        lattice = torch.randn(2, rank, generator=generator, dtype=torch.float64)
        factor = torch.linalg.cholesky(
            (lambda m: m @ m.T + 0.05 * torch.eye(2))(
                torch.randn(2, 2, generator=generator, dtype=torch.float64)
            )
        )
        if rank and brute_terms(FlatManifold(lattice), factor) > 5e3:
            continue
        x = torch.randn(5, 2, generator=generator, dtype=torch.float64)
        expected = brute_log_prob(FlatManifold(lattice), x, torch.zeros(2), factor)
        close(log_lattice_normal(x, factor, lattice), expected, 1e-10)
