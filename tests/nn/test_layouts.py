"""Weights laid out as their input is, and in autocast's dtype: the same numbers, whatever they are kept as."""

import pytest
import torch
from torch import nn

import topoprior as tp

LAST = torch.channels_last


def seeded(function, *args):
    torch.manual_seed(3)
    return function(*args)


@pytest.mark.parametrize("prior", ["klein-3x3", "gaussian", "residual"])
@pytest.mark.parametrize("shape", [(7, 5), (2, 3), (40, 900)])  # the last in more than one block of work
def test_a_draw_for_channels_last(prior, shape):
    with_residual = tp.DecoderPrior.from_pretrained("klein-3x3", residual_fraction=0.2)
    layer = tp.BayesConv2d(shape[1], shape[0], 3, prior=with_residual if prior == "residual" else prior)
    posterior = layer.weight_posterior
    x = torch.randn(2, shape[1], 6, 6)
    found = [
        seeded(posterior.rsample),
        seeded(posterior.rsample_for, x),
        seeded(posterior.rsample_for, x.to(memory_format=LAST)),
    ]
    if prior == "klein-3x3":
        assert found[1].is_contiguous()
        assert found[2].is_contiguous(memory_format=LAST)
    upstream = torch.randn(posterior.shape)
    parameters = list(posterior.parameters())
    gradients = [torch.autograd.grad(weight, parameters, upstream) for weight in found]
    for weight, gradient in zip(found[1:], gradients[1:], strict=True):
        assert torch.equal(weight, found[0])
        torch.testing.assert_close(gradient, gradients[0])
    flipped = torch.autograd.grad(seeded(posterior.rsample), parameters, upstream.to(memory_format=LAST))
    torch.testing.assert_close(flipped, gradients[0])


def test_a_draw_under_autocast_is_the_rounded_draw():
    posterior, x = tp.BayesConv2d(5, 7, 3).weight_posterior, torch.randn(2, 5, 6, 6)
    expected = seeded(posterior.rsample)
    upstream = torch.randn(posterior.shape).bfloat16()
    for given in (x, x.to(memory_format=LAST)):
        with torch.autocast("cpu", torch.bfloat16):
            weight = seeded(posterior.rsample_for, given)
            assert seeded(posterior.rsample).dtype == torch.float32
        assert torch.equal(weight, expected.bfloat16())
        found = torch.autograd.grad(weight, posterior.loc, upstream)
        torch.testing.assert_close(
            found, torch.autograd.grad(seeded(posterior.rsample), posterior.loc, upstream.float())
        )
    double = tp.BayesConv2d(5, 7, 3, dtype=torch.float64).weight_posterior
    with torch.autocast("cpu", torch.bfloat16):  # which leaves float64 alone
        assert double.rsample_for(x.double()).dtype == torch.float64


@pytest.mark.parametrize("name", ["klein-3x3", "klein-5x5"])  # by multiply-adds, by matrix products
def test_gradients_are_not_rounded_where_autocast_is_on(name):
    posterior = tp.BayesConv2d(5, 7, int(name[-1]), prior=name, bias=False).weight_posterior
    weight, upstream = posterior.rsample(), torch.randn(posterior.shape)
    expected = torch.autograd.grad(weight, posterior.loc, upstream, retain_graph=True)
    with torch.autocast("cpu", torch.bfloat16):
        found = torch.autograd.grad(weight, posterior.loc, upstream)
    assert torch.equal(found[0], expected[0])


@pytest.mark.parametrize("bfloat16", [False, True])
def test_networks_compute_the_same_in_channels_last(bfloat16):
    net = nn.Sequential(
        tp.BayesConv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        tp.BayesConv2d(8, 6, 3, groups=2),
        tp.BayesConvTranspose2d(6, 4, 3),
    )
    x = torch.randn(2, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        expected, found = seeded(net, x), seeded(net, x.to(memory_format=LAST))
        shared = (
            seeded(tp.sample_outputs, net, x, 3),
            seeded(tp.sample_outputs, net, x.to(memory_format=LAST), 3),
        )
    digits = {"rtol": 2e-2, "atol": 2e-2} if bfloat16 else {}
    torch.testing.assert_close(found, expected, **digits)
    torch.testing.assert_close(*shared, **digits)
    assert found.is_contiguous(memory_format=LAST)


def test_noise_of_parameters_in_channels_last_has_their_layout():
    net = tp.BayesConv2d(6, 8, 3, prior="gaussian").to(memory_format=LAST)
    posterior = net.weight_posterior
    draws = torch.stack([posterior.rsample() for _ in range(2000)])
    assert draws[0].is_contiguous(memory_format=LAST)
    scale = posterior.log_scale.exp()
    # 432 means within 6 standard errors: false alarm below 1e-6.
    assert ((draws.mean(0) - posterior.loc).abs() < 6 * scale / 2000**0.5).all()
