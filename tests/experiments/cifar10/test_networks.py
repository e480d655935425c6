"""experiments.cifar10: networks, kinds of convolution, kernels stored smaller."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from experiments.cifar10 import compress, methods, networks
from tests.experiments.cifar10.things import network


def test_numbers_of_parameters():
    resnet = network("resnet20", "nn.Conv2d")
    assert methods.numbers(resnet)["numbers"] == 269_722  # He et al.: .27 million
    plain, klein = (methods.numbers(network("narrow", m)) for m in ("nn.Conv2d", "klein"))
    assert plain["kernel numbers"] == 9 * (3 * 32 + 32 * 32 + 32 * 64 + 3 * 64 * 64)
    assert 9 * klein["kernel numbers"] == 4 * plain["kernel numbers"]
    assert {len(method.candidates()) for method in methods.METHODS.values()} == {4}


@pytest.mark.parametrize("name", networks.NETWORKS)
@pytest.mark.parametrize("method", methods.METHODS)
def test_every_method_learns_in_every_network(name, method):
    net = network(name, method)
    x = torch.randn(4, 3, 32, 32)
    F.cross_entropy(net(x), torch.arange(4)).backward()
    assert net(x).shape == (4, 10)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_a_klein_start_is_in_the_span_of_the_priors_kernels():
    torch.manual_seed(0)
    weight = methods.METHODS["klein-start"].convolution(16, 64).weight.detach()
    expected = methods.tp.get_prior("klein-3x3").kernel_covariance(weight.shape).double()
    kernels = weight.flatten(2).flatten(0, 1).double()
    values, vectors = torch.linalg.eigh(expected)
    outside = kernels @ vectors[:, values < 1e-9]
    assert outside.shape[1] >= 3
    assert outside.square().mean().sqrt() < 1e-3 * kernels.square().mean().sqrt()
    assert kernels.square().sum(1).mean() == pytest.approx(2 / 16, rel=0.2)  # six standard errors


def test_rates_that_were_chosen_are_candidates():
    assert set(methods.CHOSEN) == set(methods.METHODS)
    for name, rates in methods.CHOSEN.items():
        assert dict(rates) in methods.METHODS[name].candidates()


def test_bytes_are_within_half_a_step():
    x = (
        torch.randn(5, 3, 2, generator=torch.Generator().manual_seed(0))
        * torch.logspace(-3, 3, 5)[:, None, None]
    )
    found, size = compress.in_8_bits(x)
    step = x.flatten(1).abs().amax(1)[:, None, None] / 127
    assert ((found - x).abs() <= step / 2 * 1.001).all()
    places = found / step
    torch.testing.assert_close(places, places.round())
    assert size == 30 + 4 * 5


def test_a_networks_own_kernels_are_those_of_the_singular_value_decomposition():
    net = network("narrow", "nn.Conv2d")
    before = torch.cat(
        [m.weight.detach().flatten(2).flatten(0, 1) for m in net.modules() if isinstance(m, nn.Conv2d)]
    )
    assert compress.plain(net, 4, bits=False) == 4 * (4 * len(before) + 4 * 9)
    after = torch.cat(
        [m.weight.detach().flatten(2).flatten(0, 1) for m in net.modules() if isinstance(m, nn.Conv2d)]
    )
    u, s, v = torch.linalg.svd(before.double(), full_matrices=False)
    torch.testing.assert_close(after.double(), u[:, :4] * s[:4] @ v[:4], atol=1e-6, rtol=1e-4)


def test_points_on_a_grid_are_near():
    """Lifts are brought into the unit square and rounded there: the kernel moves by less than its slope times half a place."""
    net = network("narrow", "klein")
    layer = next(m for m in net.modules() if isinstance(m, methods.tp.BayesConv2d))
    z = layer.weight_posterior.z
    with torch.no_grad():
        z[0, 0] = torch.tensor([1.3, -0.2])  # another lift of (.3, .2)
        z[0, 1] = torch.tensor([0.999, 0.3])  # rounds to the far side
    before = layer.weight_posterior.mean().detach().clone()
    kernels = sum(
        m.weight_posterior.alpha.numel() for m in net.modules() if isinstance(m, methods.tp.BayesConv2d)
    )
    assert compress.points(net, latents=True, amplitudes=False) == (2 + 4 + 4) * kernels
    assert (z * 256 == (z * 256).round()).all()
    assert z[0, 0].tolist() == pytest.approx([0.3, 0.2], abs=1 / 500)
    after = layer.weight_posterior.mean().detach()
    assert (after - before).norm() < 0.02 * before.norm()
