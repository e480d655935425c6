"""What a network says of itself in print: one line a layer, and what its KL means."""

import math

import pytest
import torch
from torch import nn

import topoprior as tp


def test_a_network_prints_a_line_a_layer():
    net = nn.Sequential(tp.BayesConv2d(3, 8, 3), nn.ReLU(), tp.BayesLinear(8, 2, posterior="delta"))
    assert repr(net).splitlines() == [
        "Sequential(",
        "  (0): BayesConv2d(3, 8, kernel_size=(3, 3), stride=(1, 1), prior='klein-3x3')",
        "  (1): ReLU()",
        "  (2): BayesLinear(in_features=8, out_features=2, bias=True, prior='gaussian', posterior='delta')",
        ")",
    ]
    learned = tp.DecoderPrior.from_pretrained("klein-3x3", empirical_bayes=True)
    assert "prior='klein-3x3 (empirical Bayes)'" in repr(tp.BayesConv2d(3, 8, 3, prior=learned))


def net_of_kl(kl):
    """A Gaussian layer whose KL is so large, by its means: sum loc^2 / 2 s^2."""
    layer = tp.BayesLinear(10, 10, bias=False, prior=tp.Gaussian(1.0))
    with torch.no_grad():
        layer.weight_posterior.log_scale.zero_()
        layer.weight_posterior.loc.fill_(math.sqrt(2 * kl / 100))
    return nn.Sequential(layer)


@pytest.mark.parametrize(
    ("kl", "word"),
    [
        (200.0, "low enough for a posterior"),
        (300.0, "train on"),
        (5000.0, "far from a posterior: not converged"),
    ],
)
def test_what_the_kl_of_an_example_means(kl, word):
    table = tp.summary(net_of_kl(kl), 100, num_classes=10)
    assert table.kl_per_example == pytest.approx(kl / 100, rel=1e-5)
    assert f"KL / N: {kl / 100:.3g} nats an example, ln 10 = 2.3: " in str(table)
    assert word in table.verdict()
    assert "fallen back" not in str(table)
    assert "ln" not in tp.summary(net_of_kl(kl), 100).verdict()
    assert tp.summary(net_of_kl(kl)).verdict() == ""


def test_layers_at_their_prior_are_named():
    net = nn.Sequential(net_of_kl(0.5), net_of_kl(50.0))
    table = tp.summary(net, 100)
    assert [row.at_prior for row in table.rows] == [True, False]
    assert str(table).splitlines()[-1] == "fallen back to the prior: 0.0"


def test_bad_arguments():
    with pytest.raises(ValueError, match="num_data: expected at least 1, found 0"):
        tp.summary(net_of_kl(1.0), 0)
    with pytest.raises(ValueError, match="num_classes: expected at least 2, found 1"):
        tp.summary(net_of_kl(1.0), 10, num_classes=1)
    assert tp.summary(nn.Linear(2, 2), 10).verdict() == ""
