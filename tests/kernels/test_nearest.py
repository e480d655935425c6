"""The nearest decodable kernel against a dense search, and many small least-squares problems."""

import pytest
import torch

import topoprior as tp
from topoprior.kernels.nearest import amplitudes, nearest_kernels
from topoprior.utils.least_squares import levenberg_marquardt


def dense(prior, side):
    """Kernels at every point of a fine grid of the space, or of three prior stds of the plane."""
    if isinstance(prior, tp.EuclideanDecoderPrior):
        axes = [torch.linspace(-3, 3, side, dtype=torch.float64)] * prior.dim
    else:
        axes = [torch.arange(side, dtype=torch.float64) / side * p for p in prior.covering.periods]
    z = torch.cartesian_prod(*axes).reshape(-1, len(axes))
    return prior.decode(z.float()).double().flatten(1)


def least_left(kernels, decoded, offset):
    """By projection on the span of each kernel and the constant, one after the other."""
    across = decoded - decoded.mean(1, keepdim=True) if offset else decoded
    across = torch.nn.functional.normalize(across, dim=1)
    explained = (kernels @ across.T).square().amax(1)
    if offset:
        explained += kernels.sum(1).square() / kernels.shape[1]
    return (kernels.square().sum(1) - explained).clamp_min(0).sqrt()


@pytest.mark.parametrize("offset", [True, False])
@pytest.mark.parametrize(
    "name", ["circle-3x3", "klein-3x3", "klein-5x5", "klein-natural-3x3", "torus-3x3", "euclidean-3x3"]
)
def test_no_point_of_a_dense_grid_is_nearer(name, offset):
    """200 noise kernels of norm 1. Measured on 500: at most 6 are farther than the least distance by more than .002
    (euclidean, natural; of the former search 7 to 28 percent were). 14 or more of 200 at this rate: 1 in 10^7."""
    prior = tp.get_prior(name)
    kernels = torch.randn(200, prior.kernel_size[0] ** 2, dtype=torch.float64)
    kernels = torch.nn.functional.normalize(kernels, dim=1)
    z = nearest_kernels(prior.decoder.search, kernels, offset=offset)
    decoded = prior.decode(z.float()).double().flatten(1)
    alpha, level = amplitudes(kernels, decoded, offset=offset).split(1, -1)
    left = (kernels - alpha * decoded - level).norm(dim=1)
    missed = left - least_left(kernels, dense(prior, 300), offset)
    assert (missed > 0.002).sum() < 14
    assert missed.max() < 0.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_was_decoded_is_found(dtype):
    prior = tp.get_prior("klein-natural-3x3")
    z = prior.covering.sample_uniform(torch.Size([300]), dtype, torch.device("cpu"))
    kernels = (torch.randn(300, 1) * prior.decode(z).flatten(1) + torch.randn(300, 1)).to(dtype)
    found = prior.decode(nearest_kernels(prior.waves, kernels)).flatten(1)
    alpha, level = amplitudes(kernels, found).split(1, -1)
    left = (alpha * found + level - kernels).norm(dim=1) / kernels.norm(dim=1)
    assert left.quantile(0.97) < 1e-3


def test_flat_and_zero_kernels():
    prior = tp.get_prior("klein-3x3")
    kernels = torch.stack([torch.zeros(9), torch.ones(9)])
    z = nearest_kernels(prior.waves, kernels)
    assert torch.isfinite(z).all()
    torch.testing.assert_close(
        amplitudes(kernels, prior.decode(z).flatten(1)), torch.tensor([[0.0, 0.0], [0.0, 1.0]])
    )
    assert nearest_kernels(prior.waves, kernels[:0]).shape == (0, 2)


def test_levenberg_marquardt_solves_each_problem():
    """Rosenbrock's valley from 50 starts: r = (10 (y - x^2), 1 - x), least 0 at (1, 1)."""

    def linearize(p):
        x, y = p
        r = torch.stack([10 * (y - x * x), 1 - x])
        j = torch.stack(
            [torch.stack([-20 * x, -torch.ones_like(x)]), torch.stack([10 * torch.ones_like(x), 0 * x])]
        )
        return r.square().sum(0), (j * r).sum(1), (j[:, None] * j).sum(2)

    start = 2 * torch.randn(2, 50, dtype=torch.float64)
    found, error = levenberg_marquardt(linearize, start, steps=100)
    assert (error <= linearize(start)[0]).all()
    torch.testing.assert_close(found, torch.ones_like(found), atol=1e-6, rtol=0)
