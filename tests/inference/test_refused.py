"""What sampling refuses, and what it names."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import topoprior as tp
from tests.inference.test_networks import network, quick
from topoprior.inference import SamplingError


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    return torch.randn(12, 1, 4, 4), torch.randint(3, (12,))


# --- bad input -----------------------------------------------------------------------------------


def test_bad_input(data: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    net, (x, y) = network(), data
    with pytest.raises(ValueError, match="num_chains: expected at least 1, found 0"):
        quick(net, data, num_chains=0)
    with pytest.raises(ValueError, match="data: inputs: expected finite"):
        quick(net, (x * math.nan, y))
    with pytest.raises(ValueError, match="as many targets as inputs, found 11 and 12"):
        quick(net, (x, y[1:]))
    with pytest.raises(ValueError, match="at least one example"):
        quick(net, (x[:0], y[:0]))
    with pytest.raises(TypeError, match="data: expected a pair"):
        quick(net, x)
    with pytest.raises(ValueError, match="net: found no Bayesian layer"):
        quick(nn.Linear(3, 2), data)
    with pytest.raises(
        ValueError, match="net: expected delta posteriors.*weight_posterior is a MeanFieldPosterior"
    ):
        quick(tp.BayesLinear(3, 2), data)
    with pytest.raises(ValueError, match="method: expected one of 'hmc', 'baoab', found 'nuts'"):
        quick(net, data, method="nuts")
    for options, said in [
        ({"num_samples": 0}, "num_samples: expected at least 1"),
        ({"warmup": -1}, "warmup: expected at least 0"),
        ({"thinning": 0}, "thinning: expected at least 1"),
        ({"num_workers": 0}, "num_workers: expected at least 1"),
        ({"trajectory": -1.0}, "trajectory"),
        ({"target": 1.5}, "target"),
        ({"max_steps": 0}, "max_steps: expected at least 1"),
        ({"method": "baoab", "friction": 0.0}, "friction"),
        ({"method": "baoab", "energy_error": math.nan}, "energy_error"),
    ]:
        with pytest.raises(ValueError, match=said):
            quick(net, data, **options)
    with pytest.raises(TypeError, match="step_length"):  # neither the plan's nor the sampler's
        quick(net, data, step_length=1.0)
    with pytest.raises(ValueError, match="start: expected"):
        quick(net, data, start="map")
    with pytest.raises(TypeError, match="model"):
        quick("net", data)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="folder: cannot write"):
        quick(net, data, folder=tmp_path / "file")


def test_likelihoods_that_are_broadcast_are_refused(data: tuple[Tensor, Tensor]) -> None:
    """(12, 1) - (12,) is (12, 12): a sum of 144 terms that says nothing of 12 examples."""
    x, y = data[0], torch.randn(12)
    net = nn.Sequential(nn.Flatten(), tp.BayesLinear(16, 1, posterior="delta"))

    def squares(output: Tensor, target: Tensor) -> Tensor:
        return -(output - target).square()

    for ask in (quick, tp.log_joint):
        with pytest.raises(
            ValueError, match=r"log_likelihood: expected .* found \(12, 12\) of outputs \(12, 1\)"
        ):
            ask(net, (x, y), log_likelihood=squares)
        with pytest.raises(TypeError, match="log_likelihood: expected a tensor, found float"):
            ask(net, (x, y), log_likelihood=lambda output, target: 1.0)
        with pytest.raises(ValueError, match="as many targets as inputs, found 11 and 12"):
            ask(net, (x, y[1:]), log_likelihood=squares)
    with pytest.raises(ValueError, match=r"at least one example, found targets \(\)"):
        quick(net, (x, y[0]), log_likelihood=squares)
    assert tp.log_joint(net, (x, y[:, None]), log_likelihood=squares).isfinite()


def test_coordinates_that_are_not_given_are_named(data: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(ValueError, match="params: expected a tensor 0.weight_posterior.z, found none"):
        tp.log_joint(network(), data, params={})


def test_chains_that_diverge_are_named_and_the_others_kept(data: tuple[Tensor, Tensor]) -> None:
    net, calls = network(), [0]

    def breaks_in_the_second_chain(output: Tensor, target: Tensor) -> Tensor:
        calls[0] += 1
        likelihood = -F.cross_entropy(output, target, reduction="sum")
        return likelihood * math.nan if calls[0] > 40 else likelihood

    with pytest.warns(
        UserWarning, match=r"chain 1: position or gradient of .*u.* is not finite at iteration"
    ):
        samples = tp.sample_posterior(
            net, data, method="baoab", num_chains=2, num_samples=6, warmup=20, progress=False,
            log_likelihood=breaks_in_the_second_chain,
        )  # fmt: skip
    assert samples.num_chains == 1
    calls[0] = 20
    with pytest.raises(SamplingError, match="all chains diverged"):
        tp.sample_posterior(
            net, data, method="baoab", num_chains=1, num_samples=6, warmup=20, progress=False,
            log_likelihood=breaks_in_the_second_chain,
        )  # fmt: skip


def test_a_start_without_density_is_refused(data: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(ValueError, match="chain 0: .* is not finite at the start"):
        quick(network(), data, log_likelihood=lambda output, target: output.sum() * math.nan)


def test_hmc_refuses_what_is_not_finite_and_warns(data: tuple[Tensor, Tensor]) -> None:
    """A wall: the density ends at |u| = 2 in NaN. HMC stays inside and says how often it met it."""
    net = tp.BayesLinear(1, 1, bias=False, prior=tp.Gaussian(1.0), posterior="delta")
    x, y = torch.ones(1, 1), torch.zeros(1)

    def wall(output: Tensor, target: Tensor) -> Tensor:
        return torch.where(output.abs() < 2, 0 * output, torch.nan).sum()

    with pytest.warns(UserWarning, match="divergent trajectories"):
        samples = tp.sample_posterior(
            net, (x, y), num_chains=1, num_samples=100, warmup=20, start="current", progress=False,
            log_likelihood=wall,
        )  # fmt: skip
    assert samples.parameters["weight_posterior.u"].abs().max() < 2
