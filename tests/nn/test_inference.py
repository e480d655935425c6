"""Functions of whole models. Oracles: passes one draw at a time, closed forms, torch.distributions."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import topoprior as tp
from topoprior.nn import inference


def small_net():
    """A convolution of each kind of prior, what evaluation mode changes, a Bayesian last layer."""
    return nn.Sequential(
        tp.BayesConv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(),
        tp.BayesConv2d(8, 6, 3, prior="gaussian", bias=False),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        tp.BayesLinear(6, 4),
    )


def plain_pass(net, x, draws, s):
    """The network above, written out, with draw ``s`` of each of its three Bayesian layers."""
    (w1, b1), (w2, _), (w3, b3) = draws
    h = F.conv2d(x, w1[s], b1[s], padding=1)
    h = F.relu(F.batch_norm(h, net[1].running_mean, net[1].running_var, net[1].weight, net[1].bias))
    return F.linear(F.conv2d(h, w2[s]).mean((2, 3)), w3[s], b3[s])


# --- predictions -----------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 6])
def test_samples_are_plain_passes_with_the_same_draws(batch):
    net, x = small_net().eval(), torch.randn(batch, 3, 8, 8)
    net[1].running_mean.normal_()
    torch.manual_seed(1)
    outputs = tp.sample_outputs(net, x, 5)
    torch.manual_seed(1)
    draws = [net[i].draw_samples(5) for i in (0, 4, 7)]
    expected = torch.stack([plain_pass(net, x, draws, s) for s in range(5)])
    torch.testing.assert_close(outputs, expected)
    torch.manual_seed(1)
    for i in (0, 4, 7):
        net[i].drawn = None
    torch.testing.assert_close(tp.predict(net, x, 5), expected.softmax(-1))


@pytest.mark.parametrize("antithetic", [False, True])
@pytest.mark.parametrize("drawn_weights", [1, 1500, 2**22])
def test_draws_do_not_depend_on_max_batch_or_the_batch(monkeypatch, drawn_weights, antithetic):
    """From one input a pass to everything at once, whether weights are drawn singly, in twos or all at once."""
    monkeypatch.setattr(inference, "_DRAWN_WEIGHTS", drawn_weights)
    net, x = small_net(), torch.randn(6, 3, 8, 8)

    def sampled(x, max_batch):
        torch.manual_seed(0)
        return tp.predict(net, x, 8, max_batch=max_batch, antithetic=antithetic)

    whole = sampled(x, 1000)
    for max_batch in (None, 1, 4, 6, 13, 18):
        torch.testing.assert_close(sampled(x, max_batch), whole)
    torch.testing.assert_close(sampled(x[:2], None), whole[:, :2])
    assert sampled(x[:0], None).shape == (8, 0, 4)


@pytest.mark.parametrize("max_batch", [None, 2, 10])
def test_no_pass_is_larger_than_max_batch(max_batch):
    net, rows = small_net(), []
    net[0].register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    tp.predict(net, torch.randn(3, 3, 8, 8), 30, max_batch=max_batch)
    assert max(rows) <= (max_batch or 64)
    assert sum(rows) == 90


def test_weights_are_drawn_in_bounded_memory(monkeypatch):
    net, counts = small_net(), []
    weights = sum(net[i].weight_posterior.shape.numel() for i in (0, 4, 7))
    monkeypatch.setattr(inference, "_DRAWN_WEIGHTS", 4 * weights)
    draw = net[0].draw_samples
    net[0].draw_samples = lambda count, **options: counts.append(count) or draw(count, **options)
    tp.predict(net, torch.randn(3, 3, 8, 8), 10)
    assert counts == [4, 4, 2]


def test_moments_of_a_linear_layer():
    """y = x W^T + b is normal, with mean and variance in closed form; 5 standard errors, 20,000 samples."""
    layer, x, count = tp.BayesLinear(4, 3), torch.randn(5, 4), 20_000
    w, b = layer.weight_posterior, layer.bias_posterior
    with torch.no_grad():
        y = tp.sample_outputs(layer, x, count)
        mean = F.linear(x, w.mean(), b.mean())
        variance = F.linear(x.square(), (2 * w.log_scale).exp(), (2 * b.log_scale).exp())
    assert ((y.mean(0) - mean).abs() < 5 * (variance / count).sqrt()).all()
    assert ((y.var(0) / variance - 1).abs() < 5 * math.sqrt(2 / count)).all()


def test_antithetic_pairs_cancel_in_a_linear_layer():
    layer, x = tp.BayesLinear(4, 3), torch.randn(5, 4)
    with tp.posterior_mean(layer), torch.no_grad():
        mean = layer(x)
    torch.testing.assert_close(tp.sample_outputs(layer, x, 8, antithetic=True).mean(0), mean)
    assert not torch.allclose(tp.sample_outputs(layer, x, 8).mean(0), mean)


def test_classes_are_in_dimension_1():
    net = nn.Sequential(tp.BayesConv2d(3, 5, 3, padding=1))
    probabilities = tp.predict(net, torch.randn(2, 3, 6, 7), 4)
    assert probabilities.shape == (4, 2, 5, 6, 7)
    torch.testing.assert_close(probabilities.sum(2), torch.ones(4, 2, 6, 7))
    assert tp.predictive_entropy(probabilities).shape == (2, 6, 7)


def test_predict_leaves_no_trace():
    """Modes, gradients and contexts are as before, after an error as well."""
    net, x = small_net(), torch.randn(2, 3, 8, 8)
    net[3].eval()

    def state():
        layers = [(layer.use_mean, layer.drawn) for layer in inference.bayes_layers(net)]
        return [module.training for module in net.modules()], layers

    before, statistics = state(), net[1].running_mean.clone()
    assert not tp.predict(net, x, 4).requires_grad
    assert state() == before
    assert torch.equal(net[1].running_mean, statistics)
    with pytest.raises(ValueError, match="expected an input of size 3 in dimension 1"):
        tp.predict(net, x[:, :2], 4)
    assert state() == before


def test_half_precision_networks_predict_in_float32():
    net = nn.Sequential(tp.BayesLinear(4, 3)).bfloat16()
    probabilities = tp.predict(net, torch.randn(5, 4, dtype=torch.bfloat16), 4)
    assert probabilities.dtype == torch.float32
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(4, 5))


def test_a_deterministic_model():
    net, x = nn.Linear(4, 3), torch.randn(5, 4)
    with pytest.warns(
        UserWarning, match="no Bayesian layer in this Linear, so its 2 samples are all the same"
    ):
        predicted = tp.predict(net, x, 2)
    torch.testing.assert_close(predicted, net(x).softmax(-1).detach().expand(2, 5, 3))


def test_a_layer_used_twice_has_one_draw():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = tp.BayesLinear(4, 4)

        def forward(self, x):
            return self.layer(x) - self.layer(x)

    assert (tp.sample_outputs(Twice(), torch.randn(3, 4), 5) == 0).all()


# --- contexts --------------------------------------------------------------------------------


def test_frozen_sample():
    net, x = small_net().eval(), torch.randn(2, 3, 8, 8)
    with tp.frozen_sample(net) as same:
        assert same is net
        first = net(x)
        assert torch.equal(first, net(x))
        torch.testing.assert_close(net(x[:1]), first[:1])
        torch.testing.assert_close(tp.sample_outputs(net, x, 3), first.detach().expand(3, -1, -1))
        first.sum().backward()
    assert all(p.grad is not None for p in net[4].weight_posterior.parameters())
    assert not torch.equal(first, net(x))
    with tp.frozen_sample(net):
        assert not torch.equal(first, net(x)), "another draw"


def test_the_innermost_context_counts():
    net, x = small_net().eval(), torch.randn(2, 3, 8, 8)
    with tp.posterior_mean(net):
        mean = net(x)
        with tp.frozen_sample(net):
            draw = net(x)
            assert not torch.equal(draw, mean)
            with tp.posterior_mean(net):
                assert torch.equal(net(x), mean)
            assert torch.equal(net(x), draw)
        assert torch.equal(net(x), mean)
        torch.testing.assert_close(tp.sample_outputs(net, x, 3), mean.detach().expand(3, -1, -1))
    with pytest.raises(KeyError), tp.frozen_sample(net):
        raise KeyError
    assert not torch.equal(net(x), net(x))
