"""Layers that to_bayesian leaves as they are, and says so. Oracle: the network itself."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

import topoprior as tp
from topoprior.nn.base import BayesLayer


def priors_of(bayes):
    return {name: m.prior_name for name, m in bayes.named_modules() if isinstance(m, BayesLayer)}


class Scaled(nn.Conv2d):
    def forward(self, input):
        return 2 * super().forward(input)


def parametrized():
    return parametrizations.weight_norm(nn.Conv2d(3, 3, 3))


def pruned():
    return prune.l1_unstructured(nn.Conv2d(3, 3, 3), "weight", 0.5)


def hooked(kind):
    conv = nn.Conv2d(3, 3, 3)
    getattr(conv, f"register_{kind}_hook")(lambda *_: None)
    return conv


def with_more(what):
    conv = nn.Conv2d(3, 3, 3)
    if what == "parameter":
        conv.register_parameter("extra", nn.Parameter(torch.ones(3)))
    elif what == "buffer":
        conv.register_buffer("extra", torch.ones(3))
    else:
        conv.add_module("extra", nn.Identity())
    return conv


def patched():
    conv = nn.Conv2d(3, 3, 3)
    conv.forward = lambda x: 2 * nn.functional.conv2d(x, conv.weight, conv.bias)
    return conv


HOOKS = [
    "forward",
    "forward_pre",
    "full_backward",
    "full_backward_pre",
    "state_dict_post",
    "state_dict_pre",
    "load_state_dict_pre",
    "load_state_dict_post",
]


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (parametrized, "parametrized"),
        (pruned, "pruned"),
        *((lambda kind=kind: hooked(kind), "carries hooks") for kind in HOOKS),
        (lambda: with_more("parameter"), "holds more than weight and bias: extra"),
        (lambda: with_more("buffer"), "holds more than weight and bias: extra"),
        (lambda: with_more("module"), "holds more than weight and bias: extra"),
        (lambda: prune.l1_unstructured(nn.Conv2d(3, 3, 3), "bias", 0.5), "carries hooks"),
        (patched, "has a forward of its own"),
        (lambda: torch.nn.utils.weight_norm(nn.Conv2d(3, 3, 3)), "pruned or weight-normed"),
        (lambda: Scaled(3, 3, 3), "a subclass, Scaled"),
    ],
)
def test_layers_that_hold_more_than_weights_are_left_with_a_warning(make, reason):
    net = nn.Sequential(nn.Conv2d(3, 3, 3), make()).eval()
    with pytest.warns(UserWarning, match=rf"1 \({reason}"):
        bayes = tp.to_bayesian(net, init="pretrained", prior="gaussian")
    assert set(priors_of(bayes)) == {"0"}
    assert reason in tp.summary(bayes).rows[1].note
    x = torch.randn(2, 3, 8, 8)
    with tp.posterior_mean(bayes):
        torch.testing.assert_close(bayes(x), net(x))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tp.to_bayesian(net, exclude="1")


def test_tied_weights_are_left_with_a_warning():
    net = nn.Sequential(nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3))
    net[2].weight = net[1].weight
    with pytest.warns(UserWarning, match=r"1 \(shares a parameter .* 2 \(shares a parameter"):
        assert set(priors_of(tp.to_bayesian(net))) == {"0"}


def test_layers_whose_weights_the_parent_reads_are_left():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
            self.head = nn.Linear(8, 3)

        def forward(self, x):
            return self.head(self.block(self.attention(x, x, x)[0]))

    bayes = tp.to_bayesian(Net().eval(), linear_prior="gaussian")
    assert set(priors_of(bayes)) == {"head"}
    assert "MultiheadAttention reads its weights" in str(tp.summary(bayes))
    with torch.no_grad():
        assert bayes(torch.randn(2, 5, 8)).shape == (2, 5, 3)


@pytest.mark.parametrize(("kind", "size"), [(nn.ConvTranspose1d, 1), (nn.ConvTranspose3d, 3)])
def test_transposed_layers_without_counterpart_are_named(kind, size):
    plain = [nn.Conv1d, nn.Conv2d, nn.Conv3d][size - 1]
    net = nn.Sequential(plain(3, 4, 3), kind(4, 3, 3))
    with pytest.warns(UserWarning, match=rf"1 \(no Bayesian {kind.__name__}\)"):
        bayes = tp.to_bayesian(net, "gaussian")
    row = tp.summary(bayes).rows[1]
    assert (row.type, row.prior, row.note) == (kind.__name__, None, f"no Bayesian {kind.__name__}")
    assert row.parameters == sum(p.numel() for p in net[1].parameters())
    assert tp.predict(bayes, torch.randn(2, 3, *[6] * size), 2).shape == (2, 2, 3, *[6] * size)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tp.to_bayesian(net, "gaussian", exclude=kind)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN, nn.LSTMCell])
def test_recurrent_layers_are_named(kind):
    net = nn.ModuleDict({"conv": nn.Conv2d(3, 4, 3), "memory": kind(4, 4)})
    with pytest.warns(UserWarning, match=rf"left deterministic: memory \(no Bayesian {kind.__name__}\)"):
        tp.to_bayesian(net)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tp.to_bayesian(net, exclude=kind)
        tp.to_bayesian(net, include="conv")


def test_a_prior_that_serves_few_layers():
    """Below a tenth of the convolutions that were asked for."""
    pointwise = nn.Sequential(*[nn.Conv2d(3, 3, 1) for _ in range(11)])
    one = nn.Sequential(nn.Conv2d(3, 3, 3), pointwise)
    with pytest.warns(UserWarning, match="klein-3x3 served 0 of 11 convolutions, the others got gaussian"):
        tp.to_bayesian(pointwise)
    with pytest.warns(
        UserWarning, match="klein-3x3 served 1 of 12 convolutions, the others stay deterministic"
    ):
        tp.to_bayesian(one, fallback=None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tp.to_bayesian(one, "gaussian")
        tp.to_bayesian(one[:1])
        tp.to_bayesian(nn.Sequential(one[0], *pointwise[:9]))
        tp.to_bayesian(nn.Linear(2, 2), linear_prior="gaussian")
