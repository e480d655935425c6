"""The comparison's parts: metrics against independent formulas, the ELBO, the networks, intervals."""

import math
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import topoprior as tp
from experiments.common import metrics
from experiments.priors import methods, networks, training
from experiments.priors.training import Budget

METHODS = ("klein", "gaussian", "blitz", "deterministic")


@pytest.fixture
def predictions() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    logits = 2 * torch.randn(500, 4, generator=generator)
    return logits.softmax(-1), torch.randint(4, (500,), generator=generator)


# Metrics


def test_metrics_by_hand(predictions: tuple[Tensor, Tensor]) -> None:
    probabilities, labels = predictions
    p, y = probabilities.double().tolist(), labels.tolist()
    n = len(y)
    accuracy = sum(max(range(4), key=row.__getitem__) == k for row, k in zip(p, y, strict=True)) / n
    nll = -sum(math.log(row[k]) for row, k in zip(p, y, strict=True)) / n
    brier = sum((row[j] - (j == k)) ** 2 for row, k in zip(p, y, strict=True) for j in range(4)) / n
    ece = 0.0
    for i in range(15):
        inside = [(max(row), row.index(max(row)) == k) for row, k in zip(p, y, strict=True)
                  if i / 15 < max(row) <= (i + 1) / 15]  # fmt: skip
        ece += abs(sum(c for c, _ in inside) - sum(right for _, right in inside)) / n
    expected = {"cls/Acc": accuracy, "cls/NLL": nll, "cls/Brier": brier, "cal/ECE": ece}
    assert metrics.evaluate(probabilities, labels) == pytest.approx(expected, abs=1e-6)


def test_metrics_of_certainty() -> None:
    labels = torch.tensor([0, 1, 2])
    right = metrics.evaluate(torch.eye(3), labels)
    assert right == {"cls/Acc": 1.0, "cls/NLL": 0.0, "cls/Brier": 0.0, "cal/ECE": 0.0}
    wrong = metrics.evaluate(torch.eye(3), labels.roll(1))
    assert wrong["cls/Acc"] == 0
    assert wrong["cls/Brier"] == 2
    assert wrong["cal/ECE"] == 1
    assert math.isfinite(wrong["cls/NLL"])


def test_reliability_gives_the_calibration_error(predictions: tuple[Tensor, Tensor]) -> None:
    bins = metrics.reliability(*predictions)
    assert sum(bins.counts) == 500
    gaps = zip(bins.counts, bins.confidence, bins.accuracy, strict=True)
    ece = sum(count / 500 * abs(confidence - accuracy) for count, confidence, accuracy in gaps)
    assert ece == pytest.approx(metrics.evaluate(*predictions)["cal/ECE"], abs=1e-6)


# Training


def test_elbo_scales_the_kl_by_the_training_set() -> None:
    logits, labels = torch.randn(10, 3), torch.randint(3, (10,))
    nll = -logits.log_softmax(-1)[torch.arange(10), labels].mean()
    kl = torch.tensor(500.0)
    for size, temperature, penalty in ((1000, 1.0, 0.5), (2000, 1.0, 0.25), (1000, 0.1, 0.05)):
        loss = training.elbo_loss(logits, labels, kl, size, temperature)
        torch.testing.assert_close(loss, nll + penalty)


def test_elbo_of_an_epoch_is_the_whole_bound() -> None:
    """Batches of equal size, averaged, times N: NLL of all examples plus the KL once."""
    logits, labels = torch.randn(60, 3), torch.randint(3, (60,))
    kl = torch.tensor(7.0)
    parts = [
        training.elbo_loss(a, b, kl, 60, 1.0)
        for a, b in zip(logits.split(20), labels.split(20), strict=True)
    ]
    whole = nn.functional.cross_entropy(logits, labels, reduction="sum") + kl
    torch.testing.assert_close(60 * torch.stack(parts).mean(), whole)


def test_a_deterministic_network_has_no_kl_and_no_warning() -> None:
    network = networks.build(methods.get_method("deterministic"), 1, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert networks.kl(network) == 0


def test_standardize_uses_training_images_only() -> None:
    train, test = torch.rand(20, 3, 8, 8) * 3 + 1, torch.rand(5, 3, 8, 8)
    scaled, other = training.standardize(train, test)
    torch.testing.assert_close(scaled.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(scaled.std((0, 2, 3)), torch.ones(3))
    back = other * train.std((0, 2, 3), keepdim=True) + train.mean((0, 2, 3), keepdim=True)
    torch.testing.assert_close(back, test)
    assert training.standardize(torch.zeros_like(train), test)[0].isfinite().all()


@pytest.mark.parametrize("total", [7, 100, 250])
def test_batches_show_every_image_equally_often(total: int) -> None:
    budget = Budget(steps=30, batch_size=100)
    batches = training._batches(total, budget, 0)
    assert len(batches) == 30
    counts = torch.bincount(torch.cat(batches), minlength=total)
    assert counts.max() - counts.min() <= 1


@pytest.mark.parametrize("name", METHODS)
def test_training_is_repeatable_and_learns(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 2
    images = torch.randn(60, 1, 8, 8, generator=generator) + 3 * labels[:, None, None, None]
    method = methods.get_method(name)
    budget = Budget(steps=40, batch_size=20, temperature=0.01)
    first, again = (training.train(method, images, labels, 2, budget, seed=1) for _ in range(2))
    for a, b in zip(first.network.parameters(), again.network.parameters(), strict=True):
        assert torch.equal(a, b)
    probabilities = training.predict(method, first.network, images, 4)
    assert (probabilities.argmax(1) == labels).float().mean() > 0.9
    torch.testing.assert_close(probabilities.sum(1), torch.ones(60))


# Networks


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(("channels", "size"), [(1, 8), (3, 8), (1, 28), (3, 33)])
def test_networks_take_images_of_any_size(name: str, channels: int, size: int) -> None:
    network = networks.build(methods.get_method(name), channels, 7)
    assert network(torch.randn(2, channels, size, size)).shape == (2, 7)
    assert networks.first_kernels(network).shape == (networks.WIDTHS[0], channels, 3, 3)


def test_methods_differ_in_convolutions_only() -> None:
    built = [networks.build(methods.get_method(name), 3, 10) for name in METHODS]
    for layers in zip(*built, strict=True):
        if isinstance(layers[-1], nn.Conv2d):
            for a, b in zip(layers[:-1], layers[1:], strict=True):
                for attribute in ("in_channels", "out_channels", "kernel_size", "groups"):
                    assert getattr(a, attribute) == getattr(b, attribute)
                assert (
                    a(torch.ones(1, a.in_channels, 9, 9)).shape
                    == b(torch.ones(1, b.in_channels, 9, 9)).shape
                )
        else:
            assert len({repr(layer) for layer in layers}) == 1


def test_blitz_network() -> None:
    """Its KL is finite, and near the closed form that ours has for the same posterior."""
    network = networks.build(methods.get_method("blitz"), 1, 10)
    draws = []
    for _ in range(20):
        network(torch.randn(2, 1, 8, 8))
        draws.append(networks.kl(network).item())
    assert all(map(math.isfinite, draws))
    closed = 0.0
    for layer in network:
        if hasattr(layer, "weight_sampler"):
            for sampler, prior in (
                (layer.weight_sampler, layer.weight_prior_dist),
                (layer.bias_sampler, layer.bias_prior_dist),
            ):
                posterior = torch.distributions.Normal(sampler.mu, nn.functional.softplus(sampler.rho))
                closed += torch.distributions.kl_divergence(posterior, prior.dist1).sum().item()
    assert sum(draws) / 20 == pytest.approx(closed, rel=0.02)


def test_all_start_from_the_same_scale() -> None:
    """He's variance, E w^2 = 2 / fan-in, whatever the prior."""
    for name in METHODS:
        method = methods.get_method(name)
        gain = method.settings.options.get("gain", math.sqrt(2)) * method.settings.options.get(
            "prior_scale", 1
        )
        weights = method.sample_prior((200, 50, 3, 3))
        assert weights.square().mean().item() == pytest.approx(gain**2 / 450, rel=0.05), name


def test_parameters_counted_once() -> None:
    images, labels = torch.randn(8, 1, 8, 8), torch.arange(8) % 2
    counts: dict[str, int] = {}
    for name in METHODS:
        trained = training.train(methods.get_method(name), images, labels, 2, Budget(1, 8), seed=0)
        counts[name] = trained.parameters
    linear = (9 * networks.WIDTHS[-1] + 1) * 2
    assert counts["gaussian"] == counts["blitz"] == 2 * counts["deterministic"] - linear
    assert counts["klein"] < counts["deterministic"]


def test_a_folder_is_a_prior(tmp_path: Path) -> None:
    tp.DecoderPrior.from_pretrained("klein-3x3").save_pretrained(tmp_path / "mine")
    network = networks.build(methods.get_method(str(tmp_path / "mine")), 1, 10)
    assert isinstance(network[1].prior, tp.DecoderPrior)
