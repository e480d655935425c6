"""Every sample has its own draw of every layer: where layers are copied, hidden, given no batch of rows, or traced."""

import copy
import io

import pytest
import torch
from torch import nn

import topoprior as tp

X = torch.randn(4, 3, 6, 6)
SAMPLES = 6


def small():
    return nn.Sequential(
        tp.BayesConv2d(3, 5, 3), nn.ReLU(), nn.Flatten(), tp.BayesLinear(80, 3, prior="laplace")
    )


class OneUnseen(nn.Module):
    """A layer that torch sees, at its mean here, and one that it does not."""

    def __init__(self):
        super().__init__()
        net = small()
        self.unseen, self.head = [net[:3]], net[3]

    def forward(self, x):
        return self.head(self.unseen[0](x))


class Copies(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = small()

    def forward(self, x):
        return copy.deepcopy(self.net)(x)


class TimeFirst(nn.Module):
    """Gives its layer (time, batch, ...): rows that are no batch of examples."""

    def __init__(self):
        super().__init__()
        self.layer = tp.BayesLinear(6, 3)

    def forward(self, x):
        return self.layer(x.flatten(1, 2).transpose(0, 1)).mean(0)


class OneByOne(nn.Module):
    """An example at a time, by vmap."""

    def __init__(self):
        super().__init__()
        self.net = small()

    def forward(self, x):
        return torch.vmap(lambda row: self.net(row[None])[0], randomness="same")(x)


def distinct(samples):
    return len(samples.flatten(1).unique(dim=0))


@pytest.mark.parametrize("make", [OneUnseen, Copies, OneByOne])
def test_every_sample_has_a_draw_of_what_is_not_seen(make):
    net = make()
    seen = net.head if isinstance(net, OneUnseen) else nn.Identity()
    with tp.posterior_mean(seen):
        assert distinct(tp.sample_outputs(net, X, SAMPLES)) == SAMPLES
        assert distinct(tp.sample_outputs(net, [X[:3], X[3:]][:1], SAMPLES)) == SAMPLES
    assert tp.mutual_information(tp.predict(net, X, SAMPLES)).min() > 1e-6


@pytest.mark.parametrize("times", [12, 13])
def test_rows_that_are_no_batch(times):
    """A multiple of the draws or not: as the draws one by one, which the same seed gives."""
    rows = 4
    net, x = TimeFirst(), torch.randn(rows, times, 1, 6)
    torch.manual_seed(1)
    found = tp.sample_outputs(net, x, SAMPLES)
    torch.manual_seed(1)
    torch.testing.assert_close(found, tp.sample_outputs(net, x, SAMPLES, max_batch=rows))


def test_a_fold_is_left_as_it_was_entered():
    """After a network that does not fold, and inside of a forward pass, others fold."""
    net = small()

    class Asks(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = tp.BayesLinear(3, 3)

        def forward(self, x):
            torch.manual_seed(2)
            return self.head(tp.predict(net, X, SAMPLES).mean(0).repeat(len(x) // len(X), 1))

    torch.manual_seed(2)
    expected = tp.predict(net, X, SAMPLES).mean(0)
    found = tp.sample_outputs(Asks(), X, SAMPLES)
    assert distinct(found) == SAMPLES
    tp.predict(OneUnseen(), X, SAMPLES)
    torch.manual_seed(2)
    torch.testing.assert_close(tp.predict(net, X, SAMPLES).mean(0), expected)
    with tp.frozen_sample(net):
        torch.testing.assert_close(net(X[:1]), net(X)[:1])  # one draw takes any number of rows


@pytest.mark.parametrize("layer", [tp.BayesLinear(6, 2), tp.BayesConv1d(3, 2, 3), tp.BayesConv2d(3, 2, 3), tp.BayesConvTranspose2d(3, 2, 3)])  # fmt: skip
def test_one_example_is_no_batch(layer):
    """To torch's layers an input may have no batch dimension; predictions are of batches."""
    x = X[0, :, 0] if isinstance(layer, tp.BayesConv1d) else X[0]
    x = x[0, 0] if isinstance(layer, tp.BayesLinear) else x
    with pytest.raises(ValueError, match=r"expected a batch, of . dimensions.*x\[None\]"):
        tp.sample_outputs(layer, x, SAMPLES)
    assert tp.sample_outputs(layer, x[None], SAMPLES).shape[:2] == (SAMPLES, 1)
    with tp.frozen_sample(layer):
        torch.testing.assert_close(layer(x), layer(x[None])[0])


# --- TorchScript and torch.export ------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.torch.jit", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("prior", ["klein-3x3", "euclidean-3x3", "gaussian", "klein-fixed"])
def test_a_traced_network_is_saved_and_frozen(prior):
    net = nn.Sequential(tp.BayesConv2d(3, 4, 3, prior=prior), nn.Flatten()).eval()
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(net, X, check_trace=False), file)
    file.seek(0)
    for traced in (
        torch.jit.load(file),
        torch.jit.freeze(torch.jit.trace(net, X, check_trace=False)),
    ):
        outputs = tp.sample_outputs(traced, X, 200)
        with tp.posterior_mean(net):
            mean = net(X)
        torch.testing.assert_close(outputs.mean(0), mean, atol=8 * float(outputs.std(0).max()) / 200**0.5, rtol=0)  # fmt: skip
        assert distinct(outputs) == 200


@pytest.mark.filterwarnings("ignore:.torch.jit")
def test_script_is_refused_by_name():
    with pytest.raises(TypeError, match=r"torch\.jit\.script: BayesConv2d draws.*to_deterministic"):
        torch.jit.script(small())
    plain = tp.to_deterministic(small())
    torch.testing.assert_close(torch.jit.script(plain)(X), plain(X))


@pytest.mark.filterwarnings("ignore:.torch.jit", "ignore::torch.jit.TracerWarning")
def test_contexts_say_what_they_do_not_reach():
    exported = torch.export.export(small(), (X,)).module()
    for context in (tp.posterior_mean, tp.frozen_sample):
        with pytest.warns(UserWarning, match=f"{context.__name__} does not reach"), context(exported):
            pass
    net = small()
    with tp.posterior_mean(net):  # no word where all is seen
        traced = torch.jit.trace(net, X)
    assert torch.equal(traced(X), traced(X))


@pytest.mark.parametrize("layer", [tp.BayesLinear(6, 2), tp.BayesConv2d(3, 2, 3)])
def test_a_layer_alone_has_no_graph(layer):
    with pytest.raises(TypeError, match=r"torch\.fx: .*trace nn\.Sequential\(layer\)"):
        torch.fx.symbolic_trace(layer)
    graph = torch.fx.symbolic_trace(nn.Sequential(layer))
    assert graph(X).shape == layer(X).shape
