"""Posteriors of networks: a closed form, log densities, predictions, files, interruptions, bad input."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import topoprior as tp
from topoprior.inference import BAOAB, PosteriorSamples, diagnose, log_joint, log_prior, run_chain
from topoprior.inference.potential import NetworkPotential, categorical
from topoprior.utils.files import CheckpointError

NOISE = 0.5


def gaussian(output: Tensor, target: Tensor) -> Tensor:
    return -(output - target).square() / (2 * NOISE**2)


def network(prior: str | tp.WeightPrior = "klein-3x3") -> nn.Sequential:
    return nn.Sequential(
        tp.BayesConv2d(1, 3, 3, prior=prior, posterior="delta"),
        nn.ReLU(),
        nn.Flatten(),
        tp.BayesLinear(3 * 4, 3, posterior="delta"),
    )


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    return torch.randn(12, 1, 4, 4), torch.randint(3, (12,))


def quick(net: nn.Module, data: tuple[Tensor, Tensor], **options: object) -> PosteriorSamples:
    given = {"num_chains": 2, "num_samples": 6, "warmup": 20, "progress": False, **options}
    if given.get("method", "hmc") == "hmc":
        given.setdefault("max_steps", 10)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of divergences in so short a warm-up
        return tp.sample_posterior(net, data, **given)


# --- right ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["hmc", "baoab"])
def test_a_linear_gaussian_layer_in_closed_form(method: str) -> None:
    """64 outputs with the same targets are 64 independent regressions. Means and second moments of weights and bias by
    Student's t over the outputs, false alarm 1e-6 each."""
    copies = 64
    net = tp.BayesLinear(2, copies, prior=tp.Gaussian(0.7), posterior="delta", dtype=torch.float64)
    x, y = torch.randn(10, 2, dtype=torch.float64), torch.randn(10, 1, dtype=torch.float64)
    design = torch.cat([x, torch.ones(10, 1, dtype=torch.float64)], 1)
    prior_precision = torch.tensor([0.7, 0.7, 1.0], dtype=torch.float64).pow(-2)
    covariance = torch.linalg.inv(design.T @ design / NOISE**2 + torch.diag(prior_precision))
    mean = covariance @ design.T @ y.squeeze(1) / NOISE**2
    samples = tp.sample_posterior(
        net, (x, y.expand(-1, copies)), method=method, num_chains=1, num_samples=100, warmup=250,
        thinning=1 if method == "hmc" else 8, log_likelihood=gaussian, progress=False,
    )  # fmt: skip
    w = 0.7 * samples.parameters["weight_posterior.u"][0]
    theta = torch.cat([w, samples.parameters["bias_posterior.u"][0, ..., None]], -1)  # (time, copies, 3)
    products = (theta[..., :, None] * theta[..., None, :]).flatten(-2)
    exact = torch.cat([mean, (covariance + mean[:, None] * mean).flatten()])
    found = torch.cat([theta, products], -1).mean(0)
    assert stats.ttest_1samp(found.numpy(), exact.numpy(), axis=0).pvalue.min() > 1e-6


def test_without_examples_that_tell_anything_the_prior(data: tuple[Tensor, Tensor]) -> None:
    """A likelihood of 0 leaves the prior: latents uniform (chi-squared), amplitudes normal (KS), false alarm 1e-6 each."""
    net = nn.Sequential(tp.BayesConv2d(16, 16, 3, posterior="delta"))
    x, y = torch.zeros(1, 16, 3, 3), torch.zeros(1)
    samples = tp.sample_posterior(
        net, (x, y), log_likelihood=lambda out, y: 0 * out.sum(), num_chains=1, num_samples=2, warmup=40,
        thinning=20, progress=False,
    )  # fmt: skip
    first, last = samples.parameters["0.weight_posterior.z"][0]
    assert (tp.KleinBottle().distance(first, last).flatten() > 0.01).double().mean() > 0.9  # it has moved
    for s in range(2):
        z = samples.parameters["0.weight_posterior.z"][0, s].flatten(0, 1)
        u, v = tp.KleinBottle().project(z).unbind(-1)
        cells = torch.bincount((u * 4).long().clamp(max=3) * 4 + (v * 4).long().clamp(max=3), minlength=16)
        assert stats.chisquare(cells.numpy()).pvalue > 1e-6
        alpha = samples.parameters["0.weight_posterior.alpha"][0, s].flatten()
        assert stats.kstest(alpha.numpy(), "norm").pvalue > 1e-6


def test_log_prior_and_log_joint(data: tuple[Tensor, Tensor]) -> None:
    net, (x, y) = network(), data
    normal = torch.distributions.Normal(0.0, 1.0)
    # The area of the Klein bottle is 1, so latents add log 1.
    by_hand = sum(normal.log_prob(p).sum() for name, p in net.named_parameters() if not name.endswith(".z"))
    torch.testing.assert_close(log_prior(net), by_hand)
    params = {name: 2 * p.detach() for name, p in net.named_parameters()}
    twice = sum(normal.log_prob(p).sum() for name, p in params.items() if not name.endswith(".z"))
    torch.testing.assert_close(log_prior(net, params), twice)
    likelihood = -F.cross_entropy(net(x), y, reduction="sum")
    torch.testing.assert_close(log_joint(net, data), by_hand + likelihood)
    torch.testing.assert_close(log_joint(net, data, num_data=120), by_hand + 10 * likelihood)
    gradients = torch.func.grad(lambda params: log_joint(net, data, 120, params))(params)
    with torch.no_grad():
        for name, p in net.named_parameters():
            p.copy_(params[name])
    expected = torch.autograd.grad(log_joint(net, data, 120), list(net.parameters()))
    for found, wanted in zip(gradients.values(), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    elbo = tp.elbo_loss(net(x), y, net, num_data=120)
    also = torch.autograd.grad(-120 * elbo, list(net.parameters()))
    for found, wanted in zip(also, expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)


def klein(**options: Any) -> tp.WeightPrior:
    return tp.DecoderPrior.from_pretrained("klein-3x3", **options)


@pytest.mark.parametrize(
    "priors",
    [
        ("klein-3x3", "klein-3x3"), ("gaussian", "gaussian"), ("laplace", "laplace"), ("euclidean-3x3", "euclidean-3x3"),
        ("correlated-gaussian", "correlated-gaussian"), ("klein-3x3", "torus-3x3"), (klein(gain=3.0), klein(mean_fraction=0.5)),
        (klein(mean_fraction=0.0), "klein-3x3"), (klein(residual_fraction=0.2), "klein-3x3"),
    ],
)  # fmt: skip
def test_the_energy_of_chains_is_minus_the_log_joint(priors: tuple[Any, Any]) -> None:
    """Taken together for speed, layer by layer and in a function of named parameters it is one density; so are its gradients."""
    net = nn.Sequential(
        tp.BayesConv2d(1, 3, 3, padding=1, prior=priors[0], posterior="delta"),
        nn.Tanh(),
        tp.BayesConv2d(3, 2, 3, prior=priors[1], posterior="delta"),
        nn.Flatten(),
        tp.BayesLinear(2 * 4, 3, posterior="delta"),
    ).double()
    data = torch.randn(12, 1, 4, 4).double(), torch.randint(3, (12,))
    potential = NetworkPotential(net, data, categorical)
    energies, log_joints = [], []
    for _ in range(2):
        q = torch.randn(potential.space.size).double().requires_grad_()
        expected = tp.log_joint(net, data, params=potential.space.unflatten(q))
        (gradient,) = torch.autograd.grad(-expected, q)
        energy, found = potential(q)
        torch.testing.assert_close(
            found, gradient, rtol=1e-5, atol=1e-5
        )  # float32 in the decoders' own numbers
        energies.append(energy)
        log_joints.append(expected.item())
    assert energies[0] - energies[1] == pytest.approx(log_joints[1] - log_joints[0], rel=1e-6)
    before = net(data[0])
    assert torch.equal(before, net(data[0]))  # its own weights are in use again
    with pytest.raises(ValueError, match="target"):  # before any gradient
        NetworkPotential(net, (data[0], data[1] + 9), categorical)
    assert torch.equal(before, net(data[0]))


def test_the_gradient_of_chains_is_no_function_of_its_own() -> None:
    """It is written by hand, so a second derivative, which would be wrong, is refused."""
    net = nn.Sequential(tp.BayesConv2d(1, 1, 3, posterior="delta"), nn.Flatten())
    potential = NetworkPotential(net, (torch.randn(2, 1, 4, 4), torch.tensor([0, 1])), categorical)
    q = torch.randn(potential.space.size, requires_grad=True)
    (gradient,) = torch.autograd.grad(potential.log_density_at(q), q, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.square().sum().backward()


def test_the_posterior_fits_the_data() -> None:
    """Two classes that one kernel tells apart: predictions after sampling, which the prior's draws do not give."""
    x = torch.randn(40, 1, 4, 4)
    y = (x[:, 0, :, :2].sum((1, 2)) > x[:, 0, :, 2:].sum((1, 2))).long()
    net = network()
    samples = quick(net, (x, y), method="baoab", num_samples=30, warmup=200, thinning=5)
    accuracy = (samples.predict(x).mean(0).argmax(1) == y).double().mean()
    assert accuracy > 0.9
    energy = samples.stats["energy"]
    assert energy.mean() < 40 * math.log(2) + sum(p.numel() for p in net.parameters())


def used_twice() -> nn.Sequential:
    conv, norm = tp.BayesConv2d(2, 2, 3, padding=1, posterior="delta"), nn.BatchNorm2d(2)
    first = tp.BayesConv2d(1, 2, 3, padding=1, posterior="delta")
    last = tp.BayesLinear(2 * 16, 3, posterior="delta")
    return nn.Sequential(first, conv, norm, nn.Tanh(), conv, norm, nn.Flatten(), last)


def test_a_layer_that_is_used_twice(data: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    """It has one set of parameters, whatever their name; torch's functional_call would take them from it."""
    net, x = used_twice().eval(), data[0]
    before = dict(net.named_parameters())
    params = {name: p.detach() + 0.1 for name, p in before.items()}
    found = tp.log_joint(net, data, params=params)
    aliases = {name.replace("1.", "4.", 1).replace("2.", "5.", 1): p for name, p in params.items()}
    assert set(aliases) & set(params) < set(params)
    again = tp.log_joint(net, data, params={**aliases, **params})
    after = dict(net.named_parameters())
    assert all(after[name] is p for name, p in before.items())
    with torch.no_grad():
        for p in before.values():
            p += 0.1
    torch.testing.assert_close(found, tp.log_joint(net, data))
    torch.testing.assert_close(again, found)
    options = {"method": "baoab", "num_chains": 1, "warmup": 5, "folder": tmp_path}
    samples = quick(net, data, num_samples=3, **options)
    torch.testing.assert_close(samples.predict(x)[2], samples.network(2)(x).softmax(-1))
    assert set(dict(samples.net.named_parameters())) == set(before)
    samples.save(tmp_path / "samples.safetensors")
    elsewhere = used_twice().eval()  # as in a new process
    loaded = PosteriorSamples.load(tmp_path / "samples.safetensors", elsewhere)
    assert torch.equal(loaded.predict(x), samples.predict(x))
    elsewhere[2].load_state_dict(net[2].state_dict())
    longer = quick(elsewhere, data, num_samples=4, **options)
    assert torch.equal(longer.stats["energy"][:, :3], samples.stats["energy"])


# --- what comes back -----------------------------------------------------------------------------


def test_samples(data: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    net, (x, _) = network(), data
    before = {name: p.clone() for name, p in net.state_dict().items()}
    samples = quick(net, data)
    assert all(torch.equal(net.state_dict()[name], p) for name, p in before.items())
    assert net.training
    assert samples.parameters["0.weight_posterior.z"].shape == (2, 6, 3, 1, 2)
    assert set(samples.parameters) == {name for name, _ in net.named_parameters()}
    p = samples.predict(x, max_batch=5)
    assert p.shape == (12, 12, 3)
    loader = DataLoader(TensorDataset(*data), batch_size=5)
    torch.testing.assert_close(samples.predict(loader, max_batch=3), p)
    with pytest.raises(TypeError, match="x: expected a tensor .* found list"):
        samples.predict([[1.0]])
    with pytest.raises(ValueError, match="x: expected a loader of batches, found none"):
        samples.predict(iter(()))
    with pytest.raises(ValueError, match="max_batch: expected at least 1"):
        samples.predict(x, max_batch=0)
    for index in (0, 7):
        torch.testing.assert_close(samples.network(index)(x).softmax(-1), p[index])
    torch.testing.assert_close(samples.network(7)(x), samples.outputs(x)[7])
    samples.save(tmp_path / "samples.safetensors")
    loaded = PosteriorSamples.load(tmp_path / "samples.safetensors", net)
    assert torch.equal(loaded.predict(x), samples.predict(x))
    assert loaded.step_sizes == samples.step_sizes
    with pytest.raises(CheckpointError, match="expected shape"):
        PosteriorSamples.load(tmp_path / "samples.safetensors", network("gaussian"))
    other = network(tp.DecoderPrior.from_pretrained("klein-3x3", gain=3.0))
    with pytest.raises(CheckpointError, match="scales: expected that of the layer's own prior"):
        PosteriorSamples.load(tmp_path / "samples.safetensors", other)
    (tmp_path / "samples.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="damaged"):
        PosteriorSamples.load(tmp_path / "samples.safetensors", net)


def test_samples_bring_the_rest_of_their_network(data: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    """In a new process the deterministic layers start elsewhere; another architecture is refused."""

    def partly(*more: nn.Module) -> nn.Sequential:
        return nn.Sequential(network()[0], nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 3), *more)

    x, path = data[0], tmp_path / "samples.safetensors"
    net = partly()
    net(x)  # moves the statistics of batch normalization
    samples = quick(net, data)
    samples.save(path)
    fresh = partly()
    weight = fresh[3].weight.clone()
    assert torch.equal(PosteriorSamples.load(path, fresh).predict(x), samples.predict(x))
    assert torch.equal(fresh[3].weight, weight)
    with pytest.raises(CheckpointError, match="4.bias is not in the file"):
        PosteriorSamples.load(path, partly(nn.Linear(3, 3)))


def test_diagnostics() -> None:
    """R-hat of chains from one law is 1, of chains in different places large; constants do not count."""
    numbers = {
        "acceptance": torch.full((4, 200), 0.8),
        "temperature": torch.ones(4, 200),
        "divergences": torch.zeros(4, 200),
    }
    p = torch.rand(4, 200, 5, 2)
    fine = diagnose(p, numbers)
    assert fine.r_hat.max() < 1.05
    assert fine.ess.min() > 300
    assert fine.converged
    apart = diagnose(p + torch.arange(4.0)[:, None, None, None], numbers)
    assert apart.r_hat.min() > 1.5
    assert not apart.converged
    p[..., 0] = 1.0
    assert torch.equal(diagnose(p, numbers).r_hat[:, 0], torch.ones(5).double())
    assert "r-hat of predictions" in str(fine)
    with pytest.raises(ValueError, match="4 draws"):
        diagnose(p[:, :3], numbers)


# --- the same numbers ----------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["hmc", "baoab"])
def test_a_killed_run_goes_on_to_the_same_numbers(
    method: str, data: tuple[Tensor, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("topoprior.inference.chains._SAVE_SECONDS", 0.0)  # after every move
    net = network()
    whole = quick(net, data, method=method)
    for allowed in (15, 40, 80):  # more than once, in the warm-up and among the draws
        left = [allowed]

        def log_likelihood(output: Tensor, target: Tensor, left: list[int] = left) -> Tensor:
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            return -F.cross_entropy(output, target, reduction="sum")

        with pytest.raises(KeyboardInterrupt):
            quick(
                net, data, method=method, folder=tmp_path, log_likelihood=log_likelihood, num_samples=2000
            )
    resumed = quick(net, data, method=method, folder=tmp_path)
    for name, p in whole.parameters.items():
        assert torch.equal(resumed.parameters[name], p), name
    longer = quick(net, data, method=method, folder=tmp_path, num_samples=8)
    assert torch.equal(longer.stats["energy"][:, :6], whole.stats["energy"])
    with pytest.raises(ValueError, match="folder: .* of a run with seed = 0, this one has 5"):
        quick(net, data, method=method, folder=tmp_path, seed=5)
    with pytest.raises(ValueError, match="folder: .* of a run with data"):
        quick(net, (data[0] + 1, data[1]), method=method, folder=tmp_path)
    with pytest.raises(ValueError, match="folder: .* of a run with another density or likelihood"):
        quick(net, data, method=method, folder=tmp_path, log_likelihood=lambda f, y: -F.cross_entropy(f, y))


def test_a_deep_network_goes_on(tmp_path: Path) -> None:
    """What decides its numbers, every tensor by name, takes more text than the configuration of a prior may have."""
    settings = {"rest": {f"layer{i}.weight_posterior.coordinates.scales": "0" * 40 for i in range(2000)}}
    potential = NetworkPotential(
        tp.BayesLinear(1, 1, posterior="delta"), (torch.ones(1, 1), torch.zeros(1, 1)), gaussian
    )
    options = {"warmup": 1, "path": tmp_path / "chain", "settings": settings}
    first, longer = (
        run_chain(potential, BAOAB(), torch.zeros(2), num_samples=n, **options) for n in (1, 2)
    )
    assert torch.equal(longer.draws[:1], first.draws)


@pytest.mark.slow
def test_processes_give_the_same_numbers(data: tuple[Tensor, Tensor]) -> None:
    net = network()
    one, two = quick(net, data), quick(net, data, num_workers=2)
    for name, p in one.parameters.items():
        torch.testing.assert_close(two.parameters[name], p)


def test_another_seed_gives_other_draws(data: tuple[Tensor, Tensor]) -> None:
    net = network()
    first, second = quick(net, data), quick(net, data, seed=1)
    name = "3.weight_posterior.u"
    assert not torch.equal(first.parameters[name], second.parameters[name])
    assert not torch.equal(first.parameters[name][0], first.parameters[name][1])
