"""Compiled draws and KLs are the plain ones, and layers share them."""

import copy
import pickle

import pytest
import torch
from torch._dynamo.utils import counters

import topoprior as tp
from topoprior.priors.decoded.draw import Decode
from topoprior.priors.decoded.pixels import How
from topoprior.priors.kl import latent_kl


@pytest.mark.slow
@pytest.mark.parametrize("name", ["klein-3x3", "klein-5x5"])
def test_compiled_formulas_are_the_plain_ones(name):
    size = int(name[-1])
    layer = tp.BayesConv2d(5, 7, size, prior=name, bias=False)
    twin = copy.deepcopy(layer)
    assert tp.compile_posteriors(torch.nn.Sequential(layer)) == 1
    again = pickle.loads(pickle.dumps(layer)).weight_posterior
    assert again.compiled
    found = []
    for posterior in (again, twin.weight_posterior):
        torch.manual_seed(0)
        one, many = posterior.rsample(), posterior.rsample((4,))
        (one.sin().sum() + many.square().sum() + posterior.kl()).backward()
        found.append((one, many, posterior.kl(), posterior.loc.grad, posterior.log_scale.grad))
    for compiled, plain in zip(*found, strict=True):
        torch.testing.assert_close(compiled, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_compiled_formulas_under_transformations():
    posterior = tp.BayesConv2d(3, 4, 3, bias=False).weight_posterior.double()
    tp.compile_posteriors(posterior)
    noise = torch.randn(2, *posterior.loc.shape, dtype=torch.float64)

    def objective(loc, log_scale):
        weights = Decode.apply(
            loc, log_scale, noise, How(posterior.decoder.pixels, posterior.scales, True)
        )[0]
        return weights.sin().sum() + latent_kl(loc, log_scale, posterior.decoder.waves.periods)

    inputs = (posterior.loc, posterior.log_scale)
    assert torch.autograd.gradcheck(objective, inputs)
    assert torch.autograd.gradgradcheck(objective, inputs)
    rows = torch.stack([posterior.loc.detach()] * 3), torch.stack([posterior.log_scale.detach()] * 3)
    each = torch.vmap(torch.func.grad(objective))(*rows)
    torch.testing.assert_close(each[0], torch.autograd.grad(objective(*inputs), inputs[0])[0])


@pytest.mark.slow
def test_layers_of_many_sizes_share_what_is_compiled():
    """torch.compile takes the sizes of a parameter for fixed, and gives up after eight."""
    torch.compiler.reset()
    counters.clear()
    layers = [tp.BayesConv2d(3 + i, 20 + i, 3, bias=False) for i in range(10)]
    for layer in layers:
        tp.compile_posteriors(layer)
        layer.weight_posterior.rsample().sum().backward()
    assert counters["stats"]["unique_graphs"] <= 4
