"""The methods: every kind of layer builds, learns, starts where it should, and has its rates."""

import copy
import math
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import topoprior as tp
from experiments.common import metrics
from experiments.priors import methods, networks, optimizer, training
from experiments.priors.methods import METHODS, STARTS, Settings, get_method
from experiments.priors.training import Budget

# --- methods -----------------------------------------------------------------------------------


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("name", [m for m in METHODS if m not in methods.ENSEMBLES])
def test_every_method_builds_and_learns_a_step(name: str, start: str) -> None:
    if name.startswith("blitz"):
        pytest.importorskip("blitz")
    method = get_method(name, start=start)
    images, labels = torch.randn(8, 1, 12, 12), torch.arange(8) % 2
    trained = training.train(method, images, labels, 2, Budget(2, 8, network="small"), seed=0)
    assert math.isfinite(trained.kl)
    assert training.predict(method, trained.network, images, 2).isfinite().all()


@pytest.mark.parametrize(
    "name", ["gaussian", "laplace", "correlated-gaussian", "deterministic", "blitz-mixture"]
)
def test_klein_start_is_a_klein_draw(name: str) -> None:
    """Centers on the Klein bottle: what its decoder cannot represent is nothing."""
    if name.startswith("blitz"):
        pytest.importorskip("blitz")
    network = networks.build(get_method(name, start="klein"), 1, 10, "small")
    layer: Any = networks.first_layer(network)
    if isinstance(layer, tp.BayesConv2d):
        weight = layer.weight_posterior.mean()
    else:
        weight = layer.weight_mu if name.startswith("blitz") else layer.weight
    posterior = tp.DecoderPrior.from_pretrained("klein-3x3").posterior(weight.shape)
    assert posterior.project_(weight.detach()) < 0.02
    own: Any = networks.build(get_method("deterministic"), 1, 10, "small")[1]
    assert posterior.project_(own.weight.detach()) > 0.1


def test_blitz_mixture_has_the_energy_of_the_others() -> None:
    pytest.importorskip("blitz")
    weights = get_method("blitz-mixture").sample_prior((200, 50, 3, 3))
    assert weights.square().mean().item() == pytest.approx(2 / 450, rel=0.05)
    assert weights.abs().lt(1e-3 * weights.std()).float().mean() > 0.1  # half of them are near 0


@pytest.mark.parametrize("name", methods.ENSEMBLES)
def test_ensemble_averages_the_probabilities_of_five_networks(name: str) -> None:
    method = get_method(name)
    images, labels = torch.randn(8, 1, 12, 12), torch.arange(8) % 2
    trained = training.train(method, images, labels, 2, Budget(2, 8), seed=0)
    network = trained.network
    members: Any = list(network.members)  # type: ignore[union-attr, arg-type]
    assert len(members) == methods.ENSEMBLE_SIZE
    single = training.train(get_method(methods.ENSEMBLES[name]), images, labels, 2, Budget(2, 8), seed=0)
    with (
        tp.posterior_mean(network),
        tp.posterior_mean(single.network),
    ):  # no noise: nothing to average but members
        mean = torch.stack([member(images).softmax(1) for member in members]).mean(0)
        torch.testing.assert_close(training.predict(method, network, images, 7), mean)
        torch.testing.assert_close(members[0](images), single.network(images))
    assert trained.parameters == 5 * single.parameters


@pytest.mark.parametrize(("samples", "draws"), [(16, 3), (3, 1)])
def test_an_ensemble_has_as_many_draws_as_one_network(
    samples: int, draws: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def predict(network: nn.Module, images: Tensor, number: int, **_: object) -> Tensor:
        asked.append(number)
        return torch.ones(number, len(images), 2) / 2

    monkeypatch.setattr(tp, "predict", predict)
    for name in ("klein-ensemble", "klein", "deterministic"):
        training.predict(get_method(name), nn.Identity(), torch.zeros(1, 1), samples)
    assert asked == [draws, samples, 1]


def test_warmup() -> None:
    budget = Budget(steps=10, warmup=0.5)
    assert [budget.warmup_factor(step) for step in (0, 1, 5, 9)] == pytest.approx([0, 0.2, 1, 1])
    assert Budget().warmup_factor(0) == 1


# --- how fast what learns ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["klein", "klein-residual", "euclidean-3x3"])
def test_latents_learn_faster_by_the_factor(name: str) -> None:
    """Adam's first step has the length of the learning rate in every coordinate: in latents, a multiple of it."""
    torch.manual_seed(0)
    network = networks.build(get_method(name), 1, 10, "small")
    nn.init.normal_(network[-1].weight)  # at 0 no gradient would pass
    before = {key: value.clone() for key, value in network.state_dict().items()}
    posterior: Any = networks.first_layer(network).weight_posterior
    with tp.faster_latents(network, 20.0):
        adam = optimizer.make_optimizer(network, Settings(1e-3, 0.0))
        (network(torch.randn(4, 1, 28, 28)).square().sum() + networks.kl(network)).backward()
        for group in adam.param_groups:
            group["eps"] = 1e-30
        adam.step()
    assert network.state_dict().keys() == before.keys()  # nothing is left of the units
    moved = (posterior.loc - before["1.weight_posterior.loc"]).detach().abs()
    latents, rest = (moved[:2], moved[2:]) if name != "euclidean-3x3" else (moved[..., :2], moved[..., 2:])
    torch.testing.assert_close(latents, torch.full_like(latents, 0.02), rtol=1e-2, atol=0)
    torch.testing.assert_close(rest, torch.full_like(rest, 1e-3), rtol=1e-2, atol=0)
    copy.deepcopy(network), pickle.dumps(network)
    with pytest.raises(ValueError, match="factor: expected a positive number, found 0"):
        tp.faster_latents(network, 0).__enter__()


@pytest.mark.parametrize("name", METHODS)
def test_every_parameter_has_one_rate(name: str) -> None:
    if name.startswith("blitz"):
        pytest.importorskip("blitz")
    network = networks.build(get_method(name), 1, 10, "resnet8")
    groups = optimizer.make_optimizer(network, Settings(1e-3, 0.5, relative_rate=4.0)).param_groups
    seen = [id(p) for group in groups for p in group["params"]]
    assert sorted(seen) == sorted(map(id, network.parameters()))
    rate = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert rate[id(network[-1].weight)] == (1e-3, 0.5)
    first = networks.first_layer(network)
    if name in ("deterministic", "ensemble"):
        assert rate[id(first.weight)] == (4e-3, 0.5)
    elif name.startswith("blitz"):
        network(torch.randn(2, 1, 8, 8)).sum().backward()
        assert rate[id(first.weight_sampler.mu)] == (4e-3, 0.0)
        assert first.weight_sampler.mu.grad is not None
        assert rate[id(first.weight_sampler.rho)] == (1e-3, 0.0)
    else:
        decoded = name in ("klein", "klein-residual", "klein-ensemble", "euclidean-3x3")
        assert rate[id(first.weight_posterior.loc)] == (1e-3 if decoded else 4e-3, 0.0)
        assert rate[id(first.weight_posterior.log_scale)] == (1e-3, 0.0)


def test_watching_changes_nothing() -> None:
    """The draws of training are the same, and the curve ends with the network that comes back."""
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(30, 1, 12, 12, generator=generator), torch.arange(30) % 3
    budget, method = Budget(8, 10, samples=2), get_method("klein")
    watch = training.Watch(images, labels, points=4, samples=2)
    plain = training.train(method, images, labels, 3, budget, 0)
    watched = training.train(method, images, labels, 3, budget, 0, watch=watch)
    for a, b in zip(plain.network.parameters(), watched.network.parameters(), strict=True):
        assert torch.equal(a, b)
    assert [point["step"] for point in watched.curve] == [1, 2, 4, 8]
    plain_method = get_method("deterministic")
    last = training.train(plain_method, images, labels, 3, budget, 0, watch=watch)
    expected = metrics.evaluate(training.predict(plain_method, last.network, images, 1), labels)
    assert {**last.curve[-1], "step": 8} == {"step": 8, **expected}
    assert training.Watch(images, labels, 1).steps(8) == {8}
