"""What a network says of itself in print: one line a layer, and what its KL means."""

import math
import re
import warnings

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
        (200.0, "as low as a posterior's"),
        (300.0, "train on"),
        (5000.0, "far from a posterior: not converged"),
    ],
)
def test_what_the_kl_of_an_example_means(kl, word):
    """100 examples of 10 classes: a KL above 100 ln 10 = 230.3 is warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        table = tp.summary(net_of_kl(kl), 100, num_classes=10)
        assert "ln" not in tp.summary(net_of_kl(kl), 100).verdict()
        assert tp.summary(net_of_kl(kl)).verdict() == ""
    assert [str(w.message).split(",")[0] for w in caught] == (
        [f"model: KL / N is {kl / 100:.3g} nats"] if kl > 100 * math.log(10) else []
    )
    assert all(w.filename == __file__ for w in caught)
    assert table.kl_per_example == pytest.approx(kl / 100, rel=1e-5)
    assert f"KL / N: {kl / 100:.3g} nats an example, ln 10 = 2.3: " in str(table)
    assert word in table.verdict()
    assert "fallen back" not in str(table)


def test_layers_at_their_prior_are_named():
    """.01 nats a weight, 100 weights a layer."""
    net = nn.Sequential(net_of_kl(0.99), net_of_kl(1.01), net_of_kl(0.0))
    with pytest.warns(UserWarning, match=r"the posterior of 0\.0, 2\.0 has fallen back to the prior"):
        table = tp.summary(net, 100)
    assert [row.at_prior for row in table.rows] == [True, False, True]
    assert str(table).splitlines()[-1] == "fallen back to the prior: 0.0, 2.0"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tp.summary(net)  # nothing is known of data: no word


@pytest.mark.parametrize(("temperature", "kl"), [(1.0, 50.0), (1.0, 0.0), (1.0, 5.0), (0.1, 50.0)])
def test_a_long_training_says_what_the_summary_says(temperature, kl):
    """10 examples of 3 classes, batches of 5: after 1,000 losses and after 2,000; never at another temperature."""
    net, y = net_of_kl(kl), torch.zeros(5, dtype=torch.int64)
    logits = torch.eye(3)[y]  # a cross entropy of .55 nats
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for step in range(1, 2600):
            tp.elbo_loss(logits, y, net, 10, temperature)
            if step == 999:
                assert not caught
        said = len(caught)
        words = [str(w.message) for w in caught]
        assert all(w.filename == __file__ for w in caught)
        tp.summary(net, 10, num_classes=3)
    expected = [str(w.message) for w in caught[said:]] if temperature == 1 else []
    assert len(expected) == (temperature == 1 and kl != 5.0)
    assert words == [f"after {n} losses: {e}" for n in ("1,000", "2,000") for e in expected]


@pytest.mark.parametrize(
    ("kl", "right", "said"), [(5.0, 5.0, False), (5.0, 0.7, True), (5.0, 0.0, True), (50.0, 0.0, False)]
)
def test_a_bound_below_that_of_a_constant_prediction_is_named(kl, right, said):
    """10 examples, ln 3 = 1.1; KL / N = .5, and a cross entropy of .01, .69 and 1.1 nats. The KL itself is named first.

    In a batch whose likelihood scatters the word waits: there the loss is 3.0 with a standard error of 1.4."""
    y = torch.arange(4) % 2
    word = "after 1,000 losses: model: cross entropy [+] KL / N is .* nats or more, above ln 3 = 1.1"
    sure = right * torch.eye(3)[y]
    for logits, expected in ((sure, said), (sure + 5 * torch.eye(3)[[0] * 4], False)):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            net = net_of_kl(kl)
            for _ in range(1000):
                tp.elbo_loss(logits, y, net, 10)
        assert any(re.match(word, str(w.message)) for w in caught) == expected


def test_a_training_on_many_data_is_judged_after_ten_passes():
    net, x, y = net_of_kl(0.0), torch.zeros(1, 10), torch.zeros(1, dtype=torch.int64)
    logits = net(x)[:, :3].detach()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(1999):
            tp.elbo_loss(logits, y, net, 200)
    with pytest.warns(UserWarning, match="after 2,000 losses: model: the posterior of 0 has fallen back"):
        tp.elbo_loss(logits, y, net, 200)


def test_points_have_no_kl_to_judge():
    """-log p of a delta posterior is neither a KL above ln C nor, at its mode, a layer fallen back."""
    delta = tp.BayesLinear(10, 10, posterior="delta")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = tp.summary(delta, 2, num_classes=10)
        assert table.kl > 2 * math.log(10)
        assert table.verdict() == ""
        with torch.no_grad():
            delta.weight_posterior.u.zero_()
        assert not tp.summary(delta, 2, num_classes=10).rows[0].at_prior
    mixed = nn.Sequential(delta, net_of_kl(20.0))
    with pytest.warns(UserWarning, match="KL / N is 10 nats"):
        assert tp.summary(mixed, 2, num_classes=10).kl_per_example == pytest.approx(10, rel=1e-5)


def test_bad_arguments():
    with pytest.raises(ValueError, match="num_data: expected at least 1, found 0"):
        tp.summary(net_of_kl(1.0), 0)
    with pytest.raises(ValueError, match="num_classes: expected at least 2, found 1"):
        tp.summary(net_of_kl(1.0), 10, num_classes=1)
    assert tp.summary(nn.Linear(2, 2), 10).verdict() == ""
