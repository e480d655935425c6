"""The loss: by hand, over batches and positions, for a posterior of one's own."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.distributions import Categorical

import topoprior as tp
from tests.nn.test_inference import small_net

X, Y = torch.zeros(2, 4), torch.zeros(2, dtype=torch.long)


# --- the loss --------------------------------------------------------------------------------


def test_elbo_loss_by_hand():
    """Mean NLL + T KL / N, the likelihood from torch.distributions."""
    net = nn.Sequential(tp.BayesLinear(4, 8), nn.ReLU(), tp.BayesLinear(8, 3))
    x, y = torch.randn(10, 4), torch.randint(3, (10,))
    logits = net(x)
    expected = -Categorical(logits=logits).log_prob(y).mean() + 0.3 * tp.kl_divergence(net) / 500
    torch.testing.assert_close(tp.elbo_loss(logits, y, net, 500, 0.3), expected)
    torch.testing.assert_close(tp.elbo_loss(logits, F.one_hot(y, 3).float(), net, 500, 0.3), expected)
    soft = torch.rand(10, 3).softmax(-1)
    cross = -(soft * logits.log_softmax(-1)).sum(-1).mean()
    torch.testing.assert_close(tp.elbo_loss(logits, soft, net, 500, 0.0), cross)


def test_batches_add_up_to_the_elbo_of_the_data():
    """Summed over an epoch of equal batches the KL counts once: N times their mean is -ELBO."""
    net, x, y = tp.BayesLinear(4, 3), torch.randn(60, 4), torch.randint(3, (60,))
    with tp.frozen_sample(net):
        losses = [tp.elbo_loss(net(a), b, net, 60) for a, b in zip(x.split(12), y.split(12), strict=True)]
        log_likelihood = Categorical(logits=net(x)).log_prob(y).sum()
    torch.testing.assert_close(60 * torch.stack(losses).mean(), tp.kl_divergence(net) - log_likelihood)


def test_elbo_loss_sums_over_positions():
    net, x, y = tp.BayesConv2d(3, 5, 3), torch.randn(4, 3, 6, 6), torch.randint(5, (4, 4, 4))
    logits = net(x)
    nll = -Categorical(logits=logits.movedim(1, -1)).log_prob(y).sum() / 4
    torch.testing.assert_close(tp.elbo_loss(logits, y, net, 100), nll + tp.kl_divergence(net) / 100)
    y[0] = -100
    kept = -Categorical(logits=logits[1:].movedim(1, -1)).log_prob(y[1:]).sum() / 4
    torch.testing.assert_close(tp.elbo_loss(logits, y, net, 100, 0), kept)


def test_kl_per_layer():
    net = small_net()
    shared = nn.ModuleDict({"a": net, "b": net[0]})
    kls = tp.kl_per_layer(shared)
    assert list(kls) == ["a.0", "a.4", "a.7"]
    torch.testing.assert_close(torch.stack(list(kls.values())).sum(), tp.kl_divergence(shared))
    torch.testing.assert_close(kls["a.4"], net[4].kl())
    assert tp.kl_per_layer(nn.Linear(2, 2)) == {}
    with pytest.warns(UserWarning, match="so the KL is 0"):
        assert tp.kl_divergence(nn.Linear(2, 2)) == 0


class Pinned(tp.WeightPosterior):
    """Nothing to learn, and no parameters: weights that are what they are."""

    def __init__(self, shape):
        super().__init__()
        self.shape = torch.Size(shape)

    def reset_parameters(self):
        pass

    def rsample(self, sample_shape=(), *, antithetic=False):
        return torch.ones(*sample_shape, *self.shape)

    def mean(self):
        return torch.ones(self.shape)

    def kl(self):
        return torch.tensor(2.5)

    def project_(self, weight):
        return torch.tensor(1.0)


class PinnedPrior(tp.WeightPrior):
    def posterior(self, shape, *, device=None, dtype=None):
        return Pinned(shape)

    def sample(self, shape):
        return torch.ones(*shape)


def test_a_posterior_without_parameters():
    net = nn.Sequential(tp.BayesLinear(4, 3, bias=False, prior=PinnedPrior()), tp.BayesLinear(3, 3))
    torch.testing.assert_close(tp.kl_divergence(net), 2.5 + net[1].kl())
    assert tp.kl_divergence(net[0]) == 2.5
    tp.elbo_loss(net(X), Y, net, 10).backward()
    assert tp.predict(net, X, 3).shape == (3, 2, 3)
    assert tp.summary(net).rows[0].kl == 2.5


def test_a_shared_posterior_counts_once():
    for prior in ("klein-3x3", "gaussian"):
        net = nn.Sequential(tp.BayesConv2d(4, 4, 3, prior=prior), tp.BayesConv2d(4, 4, 3, prior=prior))
        net[1].weight_posterior = net[0].weight_posterior
        expected = net[0].weight_posterior.kl() + net[0].bias_posterior.kl() + net[1].bias_posterior.kl()
        torch.testing.assert_close(tp.kl_divergence(net), expected)
        kls = tp.kl_per_layer(net)
        torch.testing.assert_close(kls["0"] + kls["1"], expected)
        torch.testing.assert_close(kls["1"], net[1].bias_posterior.kl())
        assert tp.summary(net).kl == pytest.approx(expected.item())


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("start", [0.0, 0.2])
def test_kl_warmup(schedule, start):
    factors = [tp.kl_warmup(step, 10, start=start, schedule=schedule) for step in range(15)]
    assert factors[0] == start
    assert factors[5] == pytest.approx((1 + start) / 2)
    assert factors[10:] == [1.0] * 5
    assert all(a < b for a, b in zip(factors[:10], factors[1:11], strict=True))
    quarter = {"linear": 0.3, "cosine": (1 - math.cos(0.3 * math.pi)) / 2}[schedule]
    assert factors[3] == pytest.approx(start + (1 - start) * quarter)
