"""BLiTZ drives our layer, alone and next to its own, in a network of the architecture of its MNIST example."""

import copy
import math
import pickle
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import topoprior as tp
from topoprior.kernels.klein import klein_kernels

pytest.importorskip("blitz")
from blitz.modules import BayesianConv2d, BayesianLinear  # noqa: E402
from blitz.utils import variational_estimator  # noqa: E402

from topoprior.nn.blitz import BlitzConv2d  # noqa: E402

KLEIN_5X5 = tp.DecoderPrior.from_decoder(lambda z: klein_kernels(z, 5), tp.KleinBottle(), (5, 5))


@variational_estimator
class LeNet(nn.Module):
    """conv 5x5 (1, 6) - pool - conv 5x5 (6, 16) - pool - 256 - 120 - 84 - 10; linear layers BLiTZ's or plain."""

    def __init__(self, linear=BayesianLinear, **options):
        super().__init__()
        options = {"prior": KLEIN_5X5, **options}
        self.features = nn.Sequential(
            BlitzConv2d(1, 6, (5, 5), **options), nn.ReLU(), nn.MaxPool2d(2),
            BlitzConv2d(6, 16, 5, **options), nn.ReLU(), nn.MaxPool2d(2),
        )  # fmt: skip
        self.classifier = nn.Sequential(
            nn.Flatten(), linear(256, 120), nn.ReLU(), linear(120, 84), nn.ReLU(), linear(84, 10)
        )

    def forward(self, x):
        return self.classifier(self.features(x))


@pytest.fixture
def images():
    """Ten classes of 28x28 images: bars, one orientation a class, with noise; three of each."""
    y = torch.arange(30) % 10
    line = torch.linspace(-1, 1, 28)
    angle = (math.pi * y / 10)[:, None, None]
    across = line * angle.cos() + line[:, None] * angle.sin()
    return (across.abs() < 0.3).float()[:, None] + 0.1 * torch.randn(30, 1, 28, 28), y


def test_the_example_network_learns_by_sample_elbo(images):
    x, y = images
    net = LeNet()
    optimizer, losses = torch.optim.Adam(net.parameters(), 1e-3), []
    for _ in range(60):
        optimizer.zero_grad()
        loss = net.sample_elbo(x, y, nn.CrossEntropyLoss(), 2, complexity_cost_weight=1 / 50_000)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    mean, std = net.mfvi_forward(x, 5)
    assert (mean.argmax(1) == y).float().mean() > 0.5
    assert (std > 0).all()


def test_sample_elbo_is_cross_entropy_plus_weighted_kl(images):
    """The network's own draws repeated by the seed; the KL in closed form and without noise."""
    x, y = images
    net = LeNet(linear=nn.Linear)
    kl = tp.kl_divergence(net)
    torch.manual_seed(3)
    loss = net.sample_elbo(x, y, F.cross_entropy, 3, complexity_cost_weight=0.01)
    torch.manual_seed(3)
    nll = torch.stack([F.cross_entropy(net(x), y) for _ in range(3)]).mean()
    torch.testing.assert_close(loss, nll + 0.01 * kl)
    outputs, total, likelihood, complexity = net.sample_elbo_detailed_loss(x, y, F.cross_entropy, 3, 0.01)
    assert outputs.shape == (3, 30, 10)
    torch.testing.assert_close(complexity, 0.01 * kl)
    torch.testing.assert_close(total, likelihood + complexity)


def test_kl_next_to_blitzs_own_layers(images):
    net = LeNet()
    net(images[0])
    theirs = [
        m.log_variational_posterior - m.log_prior for m in net.classifier if isinstance(m, BayesianLinear)
    ]
    assert len(theirs) == 3
    torch.testing.assert_close(net.nn_kl_divergence(), tp.kl_divergence(net) + sum(theirs))


def test_frozen_uses_the_mean_and_its_kl_is_never_stale(images):
    x, y = images
    net = LeNet(linear=nn.Linear)
    before = net.nn_kl_divergence()  # before any forward pass
    net.freeze_()
    with tp.posterior_mean(net):
        expected = net(x)
    assert torch.equal(net(x), expected)
    assert torch.equal(net(x), net(x))
    torch.testing.assert_close(net.nn_kl_divergence(), before)
    net.sample_elbo(x, y, F.cross_entropy, 1, 0.01).backward()
    with torch.no_grad():
        for p in net.parameters():
            p.sub_(0.1 * p.grad) if p.grad is not None else None
    torch.testing.assert_close(net.nn_kl_divergence(), tp.kl_divergence(net))
    assert net.nn_kl_divergence() < before
    net.unfreeze_()
    assert not torch.equal(net(x), net(x))
    net.MOPED_()  # knows BLiTZ's posteriors only
    torch.testing.assert_close(net.nn_kl_divergence(), tp.kl_divergence(net))
    frozen = LeNet(linear=nn.Linear, freeze=True)
    assert torch.equal(frozen(x), frozen(x))


def test_arguments_are_in_blitzs_order():
    """Positionally: groups before stride; the output has the shape of BLiTZ's own layer's."""
    arguments = (4, 6, (3, 3), 2, 2, 1, 2, False)
    ours, x = BlitzConv2d(*arguments), torch.randn(2, 4, 9, 10)
    assert (ours.groups, ours.stride, ours.padding, ours.dilation) == (2, (2, 2), (1, 1), (2, 2))
    assert ours.bias_posterior is None
    assert ours(x).shape == BayesianConv2d(*arguments)(x).shape
    assert BlitzConv2d(4, 6, 3, padding="same", padding_mode="reflect")(x).shape == (2, 6, 9, 10)
    with pytest.raises(ValueError, match="decodes 3x3 kernels"):
        BlitzConv2d(4, 6, 5)


def test_copies_pickles_and_predictions(images):
    x, _ = images
    layer = BlitzConv2d(1, 6, 3)
    layer(x).sum().backward()  # BLiTZ's own layers cannot be copied after a forward pass
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        layer.freeze = other.freeze = True
        assert torch.equal(layer(x), other(x))
        torch.testing.assert_close(other.log_variational_posterior - other.log_prior, layer.kl())
    with tp.frozen_sample(layer):
        assert copy.deepcopy(layer).freeze, "frozen by BLiTZ, not by a context"
    assert isinstance(layer, tp.BayesConv2d)
    assert tp.predict(LeNet(linear=nn.Linear), x, 4).shape == (4, 30, 10)


def test_without_blitz_the_error_says_what_to_install():
    code = (
        "import sys; sys.modules['blitz'] = None\n"
        "try:\n    import topoprior.nn.blitz\n"
        "except ImportError as error:\n    assert 'pip install blitz-bayesian-pytorch' in str(error), error\n"
        "else:\n    raise SystemExit('no ImportError')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
