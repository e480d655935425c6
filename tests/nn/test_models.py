"""Models as people have them: several inputs, dicts, tuples, loaders, ensembles, traced ones."""

import warnings
from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import topoprior as tp


class Two(nn.Module):
    """Of an image and numbers; what it returns is asked for."""

    def __init__(self, returns=lambda logits: logits):
        super().__init__()
        self.image, self.numbers = tp.BayesConv2d(3, 4, 3), tp.BayesLinear(5, 4)
        self.returns = returns

    def forward(self, image, numbers, scale=1.0):
        return self.returns(self.image(image).mean((2, 3)) + scale * self.numbers(numbers))


IMAGE, NUMBERS = torch.randn(6, 3, 5, 5), torch.randn(6, 5)


def seeded(model, x, *args, **options):
    torch.manual_seed(5)
    return tp.predict(model, x, *args, **options)


@pytest.fixture
def net():
    return Two().eval()


def by_hand(net, samples, scale=1.0):
    """Plain passes, with the draws that a seed gives."""
    torch.manual_seed(5)
    with torch.no_grad():
        (w, b), (v, c) = net.image.draw_samples(samples), net.numbers.draw_samples(samples)
        net.image.drawn = net.numbers.drawn = None
        outputs = [
            nn.functional.conv2d(IMAGE, w[s], b[s]).mean((2, 3))
            + scale * nn.functional.linear(NUMBERS, v[s], c[s])
            for s in range(samples)
        ]
    return torch.stack(outputs).softmax(-1)


@pytest.mark.parametrize("max_batch", [None, 1, 4, 6, 100])
def test_several_inputs_by_place_and_by_name(net, max_batch):
    expected = by_hand(net, 3)
    for x in ((IMAGE, NUMBERS), [IMAGE, NUMBERS], {"numbers": NUMBERS, "image": IMAGE}):
        torch.testing.assert_close(seeded(net, x, 3, max_batch=max_batch), expected)


def test_what_is_no_tensor_goes_along(net):
    expected = by_hand(net, 3, scale=0.5)
    for x in ((IMAGE, NUMBERS, 0.5), {"image": IMAGE, "numbers": NUMBERS, "scale": 0.5}):
        torch.testing.assert_close(seeded(net, x, 3, max_batch=4), expected)


class Result:
    def __init__(self, logits):
        self.logits = logits


@pytest.mark.parametrize(
    ("returns", "output"),
    [
        (lambda y: {"out": y, "aux": 2 * y}, "out"),
        (lambda y: OrderedDict(aux=2 * y, out=y), "out"),
        (lambda y: (2 * y, y), 1),
        (lambda y: [2 * y, y], -1),
        (Result, "logits"),
        (Result, lambda result: result.logits),
        (lambda y: 2 * y, lambda y: y / 2),
    ],
)
def test_parts_of_what_a_model_returns(net, returns, output):
    expected = by_hand(net, 3)
    net.returns = returns
    torch.testing.assert_close(seeded(net, (IMAGE, NUMBERS), 3, output=output), expected)


def test_the_error_says_what_there_is_to_pick(net):
    net.returns = lambda y: {"out": y, "aux": y}
    with pytest.raises(ValueError, match="found dict; output= picks one of the keys 'out', 'aux'"):
        tp.predict(net, (IMAGE, NUMBERS))
    with pytest.raises(ValueError, match="output: expected the keys 'out', 'aux', found 'logits'"):
        tp.predict(net, (IMAGE, NUMBERS), output="logits")


@pytest.mark.parametrize("drawn_weights", [1, 2**22])
def test_a_loader_is_its_batches_together(net, monkeypatch, drawn_weights):
    """Each draw serves all batches, of which the last is smaller; targets in the loader are left alone."""
    monkeypatch.setattr(tp.nn.inference, "_DRAWN_WEIGHTS", drawn_weights)
    one = nn.Sequential(tp.BayesConv2d(3, 4, 3), nn.Flatten(), tp.BayesLinear(36, 3))
    data = TensorDataset(IMAGE, torch.arange(6))
    whole = seeded(one, IMAGE, 5)
    torch.testing.assert_close(seeded(one, DataLoader(data, 4), 5), whole)
    torch.testing.assert_close(seeded(one, DataLoader(IMAGE, 4), 5), whole)
    torch.testing.assert_close(seeded(one, (part for part in IMAGE.split(4)), 5, max_batch=3), whole)
    named = [{"image": IMAGE[:4], "numbers": NUMBERS[:4]}, {"image": IMAGE[4:], "numbers": NUMBERS[4:]}]
    both = seeded(net, (IMAGE, NUMBERS), 3)
    torch.testing.assert_close(seeded(net, iter(named), 3), both)
    torch.testing.assert_close(seeded(net, iter([((IMAGE, NUMBERS), "label")]), 3), both)


def test_an_ensemble_is_its_members_one_after_the_other():
    nets = [nn.Sequential(tp.BayesLinear(5, 3)) for _ in range(3)]
    torch.manual_seed(5)
    expected = torch.cat([tp.predict(each, NUMBERS, 4) for each in nets])
    for ensemble in (nets, tuple(nets), nn.ModuleList(nets)):
        torch.testing.assert_close(seeded(ensemble, NUMBERS, 4), expected)
    streamed = seeded(nets, DataLoader(NUMBERS, 4), 4)
    assert streamed.shape == expected.shape == (12, 6, 3)
    plain = [nn.Linear(5, 3) for _ in range(3)]
    members = torch.stack([each(NUMBERS).softmax(-1) for each in plain]).detach()
    torch.testing.assert_close(tp.predict(plain, NUMBERS, 1), members)


# --- draws that cannot be folded --------------------------------------------------------------


def small():
    return nn.Sequential(tp.BayesConv2d(3, 4, 3), nn.Flatten(), tp.BayesLinear(36, 3)).eval()


class Hidden(nn.Module):
    """Holds its network where torch does not see it."""

    def __init__(self):
        super().__init__()
        self.nets = (small(),)

    def forward(self, x):
        return self.nets[0](x)


def traced():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(small(), IMAGE, check_trace=False)


MODELS = {
    "traced": traced,
    "a traced part": lambda: nn.Sequential(traced(), nn.ReLU(), tp.BayesLinear(3, 3)),
    "exported": lambda: torch.export.export(small(), (IMAGE,)).module(),
    "hidden": Hidden,
    "data parallel": lambda: nn.DataParallel(small()),
}


@pytest.mark.parametrize("name", MODELS)
def test_every_sample_has_a_draw_of_its_own(name):
    model = MODELS[name]()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        samples = tp.predict(model, IMAGE, 16, max_batch=96)
    assert len(samples.flatten(1).unique(dim=0)) == 16
    assert (tp.mutual_information(samples) > 0).all()


# --- words about silent mistakes --------------------------------------------------------------


def test_the_network_before_conversion_is_told_from_the_converted_one():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(36, 3))
    bayes, y = tp.to_bayesian(net), torch.arange(6) % 3
    for call in (
        lambda: tp.kl_divergence(net),
        lambda: tp.elbo_loss(net(IMAGE), y, net, 100),
        lambda: tp.predict(net, IMAGE, 3),
    ):
        with pytest.warns(
            UserWarning, match="to_bayesian, which left it as it is: use what that returned"
        ) as found:
            call()
        assert found[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tp.kl_divergence(bayes), tp.elbo_loss(bayes(IMAGE), y, bayes, 100), tp.predict(bayes, IMAGE, 3)
        tp.predict(net, IMAGE, 1)  # one sample is what it says
        tp.elbo_loss(net(IMAGE), y, net, 100, temperature=0.0)


def test_probabilities_in_place_of_logits():
    net = nn.Sequential(tp.BayesLinear(5, 3), nn.Softmax(-1))
    with pytest.warns(UserWarning, match="outputs are probabilities already"):
        tp.predict(net, NUMBERS, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        logs = nn.Sequential(net[0], nn.LogSoftmax(-1))
        torch.testing.assert_close(seeded(logs, NUMBERS, 3), seeded(net[0], NUMBERS, 3))
        tp.predict(net[0], NUMBERS[:0], 3)
