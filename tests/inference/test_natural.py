"""Natural-gradient VI: exact optima of conjugate models, units."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import topoprior as tp
from topoprior.inference import NaturalGradient

NOISE = 0.5


@pytest.mark.parametrize("unit", [1.0, 1000.0])
def test_a_conjugate_model_reaches_the_exact_optimum(unit: float) -> None:
    """The best mean-field normal of a linear-Gaussian model has the posterior's mean and the diagonal of its precision.

    64 equal outputs. Inputs in other units do not change how fast it gets there.
    """
    n, copies, prior_std = 30, 64, 0.7
    x, y = torch.randn(n, 2, dtype=torch.float64), torch.randn(n, 1, dtype=torch.float64)
    design = torch.cat([x, torch.ones(n, 1, dtype=torch.float64)], 1)
    precision = design.T @ design / NOISE**2 + torch.diag(
        torch.tensor([prior_std, prior_std, 1.0]).double().pow(-2)
    )
    mean = torch.linalg.solve(precision, design.T @ y.squeeze(1) / NOISE**2)
    net = tp.BayesLinear(2, copies, prior=tp.Gaussian(prior_std / unit), dtype=torch.float64)
    steps = 600
    optimizer = NaturalGradient(net, num_data=n)
    schedule = torch.optim.lr_scheduler.ExponentialLR(
        optimizer, 0.01 ** (1 / steps)
    )  # averages the noise away
    for _ in range(steps):
        optimizer.zero_grad()
        nll = (net(unit * x) - y).square().sum(1).mean() / (2 * NOISE**2)
        (nll + tp.kl_divergence(net) / n).backward()
        optimizer.step()
        schedule.step()
    w, b = net.weight_posterior, net.bias_posterior
    loc = torch.cat([w.loc * unit, b.loc[:, None]], 1)
    scale = torch.cat([w.log_scale.exp() * unit, b.log_scale.exp()[:, None]], 1)
    std = precision.diagonal().rsqrt()
    assert (((loc - mean) / std).abs().mean(0) < 0.15).all()
    assert ((scale / std).log().mean(0).abs() < 0.05).all()


def test_latents_without_data_become_uniform() -> None:
    """Only the KL is left: amplitudes go to N(0, 1), latents to a width at which kappa is nothing."""
    net = nn.Sequential(tp.BayesConv2d(4, 4, 3, bias=False))
    optimizer = NaturalGradient(net, num_data=1, lr=0.2, scale_lr=0.1)
    for _ in range(
        300
    ):  # posteriors start at a hundredth of the prior's width, and the step of a location is as its width squared
        optimizer.zero_grad()
        tp.kl_divergence(net).backward()
        optimizer.step()
    assert tp.kl_divergence(net) < 0.05 * 16
    posterior = net[0].weight_posterior
    torch.testing.assert_close(
        posterior.log_scale[2:], torch.zeros_like(posterior.log_scale[2:]), atol=0.02, rtol=0
    )
    torch.testing.assert_close(posterior.loc[2:], torch.zeros_like(posterior.loc[2:]), atol=0.05, rtol=0)


def test_state_is_saved() -> None:
    net, x = tp.BayesLinear(3, 2), torch.randn(8, 3)

    def step(optimizer: NaturalGradient) -> None:
        torch.manual_seed(0)
        optimizer.zero_grad()
        (net(x).square().mean() + tp.kl_divergence(net) / 8).backward()
        optimizer.step()

    first = NaturalGradient(net, num_data=8)
    step(first)
    state = {name: p.clone() for name, p in net.state_dict().items()}
    saved = copy.deepcopy(first.state_dict())
    step(first)
    after = {name: p.clone() for name, p in net.state_dict().items()}
    net.load_state_dict(state)
    second = NaturalGradient(net, num_data=8)
    second.load_state_dict(saved)
    step(second)
    assert all(torch.equal(net.state_dict()[name], p) for name, p in after.items())


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="net: found no posterior"):
        NaturalGradient(tp.BayesLinear(3, 2, posterior="delta"), num_data=8)
    with pytest.raises(ValueError, match="lr"):
        NaturalGradient(tp.BayesLinear(3, 2), num_data=8, lr=-1.0)
    with pytest.raises(ValueError, match="num_data"):
        NaturalGradient(tp.BayesLinear(3, 2), num_data=0)
