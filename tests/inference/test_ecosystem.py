"""Other libraries on delta posteriors: SG-MCMC by `posteriors`, Laplace's method by laplace-torch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import topoprior as tp
from topoprior.inference import cyclical

NOISE = 0.5


def regression() -> tuple[tp.BayesLinear, Tensor, Tensor, Tensor, Tensor]:
    """A linear layer, data, and the posterior's mean and covariance in whitened coordinates (u, u, bias)."""
    net = tp.BayesLinear(2, 1, prior=tp.Gaussian(0.7), posterior="delta", dtype=torch.float64)
    x, y = torch.randn(40, 2, dtype=torch.float64), torch.randn(40, 1, dtype=torch.float64)
    design = torch.cat([0.7 * x, torch.ones(40, 1, dtype=torch.float64)], 1)
    covariance = torch.linalg.inv(design.T @ design / NOISE**2 + torch.eye(3, dtype=torch.float64))
    return net, x, y, covariance @ design.T @ y.squeeze(1) / NOISE**2, covariance


def gaussian(output: Tensor, target: Tensor) -> Tensor:
    return -(output - target).square() / (2 * NOISE**2)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["sghmc", "cyclical sgld"])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_stochastic_gradients(method: str) -> None:
    """Minibatches of 20 from 40: the mean within half a posterior std, stds within a factor of 2. Those are the errors of
    the methods at these steps; over 400 correlation times, or 20 cycles, chance is far smaller."""
    posteriors = pytest.importorskip("posteriors")
    net, x, y, mean, covariance = regression()
    rate, temperature = cyclical(0.004, cycle=200)
    params = {name: p.detach().clone() for name, p in net.named_parameters()}

    def log_posterior(params, batch):
        return tp.log_joint(net, batch, 40, params, log_likelihood=gaussian), torch.tensor(0.0)

    if method == "sghmc":
        sampler = posteriors.sgmcmc.sghmc.build(log_posterior, lr=0.01, alpha=10.0)
    else:
        sampler = posteriors.sgmcmc.sgld.build(log_posterior, lr=rate, temperature=temperature)
    state, draws = sampler.init(params), []
    for step in range(3000 if method == "sghmc" else 4000):
        rows = torch.randint(40, (20,))
        state, _ = sampler.update(state, (x[rows], y[rows]))
        if step >= 500 and (method == "sghmc" or temperature(step)):
            draws.append(torch.cat([p.detach().flatten() for p in state.params.values()]))
    found, std = torch.stack(draws), covariance.diagonal().sqrt()
    assert ((found.mean(0) - mean).abs() < 0.5 * std).all()
    assert ((found.std(0) / std).log().abs() < 0.69).all()


def test_cycles() -> None:
    """The mean rate is half the first; noise in the last three quarters; steps may be tensors."""
    rate, temperature = cyclical(0.1, cycle=8)
    rates = [rate(torch.tensor(step)) for step in range(16)]
    assert rates[:8] == rates[8:] == sorted(rates[:8], reverse=True)
    assert sum(rates[1:8]) == pytest.approx(7 * 0.05)
    assert [temperature(torch.tensor(step)) for step in range(8)] == [0.0] * 2 + [1.0] * 6
    with pytest.raises(ValueError, match="lr"):
        cyclical(0.0, 8)
    with pytest.raises(ValueError, match="cycle: expected at least 2"):
        cyclical(0.1, 1)
    with pytest.raises(ValueError, match="explore"):
        cyclical(0.1, 8, 1.0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_laplace_is_exact_where_the_posterior_is_normal() -> None:
    laplace = pytest.importorskip("laplace")
    net, x, y, mean, covariance = regression()
    with torch.no_grad():
        net.weight_posterior.u.copy_(mean[:2][None])
        net.bias_posterior.u.copy_(mean[2:])
    loader = DataLoader(TensorDataset(x, y), batch_size=8)
    fit = laplace.Laplace(
        net,
        "regression",
        subset_of_weights="all",
        hessian_structure="full",
        sigma_noise=NOISE,
        prior_precision=1.0,
    )
    fit.fit(loader)
    torch.testing.assert_close(fit.posterior_covariance.double(), covariance, rtol=1e-4, atol=1e-6)
