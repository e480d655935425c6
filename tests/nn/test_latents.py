"""Latents that learn faster; everything that is done to parameters is as without."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

import topoprior as tp


def conv(prior="klein-3x3"):
    return nn.Sequential(
        tp.BayesConv2d(3, 8, 3, prior=prior), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )


def gradients(net):
    torch.manual_seed(0)
    (net(torch.randn(4, 3, 6, 6)).square().sum() + tp.kl_divergence(net)).backward()


DECODED = ["klein-3x3", "torus-3x3", "euclidean-3x3"]


@pytest.mark.parametrize("prior", DECODED)
@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.SGD, torch.optim.AdamW])
def test_steps_of_latents_are_longer_by_the_factor(prior, kind):
    """Beside the same step without: latents move 20 times as far, all else the same."""
    moved = []
    net = conv(prior)
    for factor in (1.0, 20.0):
        other = copy.deepcopy(net)
        optimizer = kind(other.parameters(), lr=1e-3)
        with tp.faster_latents(other, factor):
            gradients(other)
            optimizer.step()
        pairs = zip(net.named_parameters(), other.parameters(), strict=True)
        moved.append({name: (b - a).detach() for (name, a), b in pairs})
    mask = net[0].weight_posterior.latent_mask()
    for name, usual in moved[0].items():
        ratio = torch.where(mask, 20.0, 1.0) if name == "0.weight_posterior.loc" else 1.0
        torch.testing.assert_close(moved[1][name], ratio * usual, rtol=1e-2, atol=1e-5)


@pytest.mark.parametrize("prior", DECODED)
@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.SGD, torch.optim.AdamW])
def test_groups_give_latents_a_rate_of_their_own(prior, kind):
    """A step beside those of networks with one rate, the usual or the latents': centers at theirs, all else as usual."""
    net = conv(prior)
    found = []
    for groups in (
        lambda net: tp.parameter_groups(net, 1e-3, latent_lr=2e-2),
        lambda net: [{"params": net.parameters(), "lr": 1e-3}],
        lambda net: [{"params": net.parameters(), "lr": 2e-2}],
    ):
        other = copy.deepcopy(net)
        optimizer = kind(groups(other), weight_decay=0.0)
        gradients(other)
        optimizer.step()
        found.append(dict(other.named_parameters()))
    grouped, slow, fast = found
    for name, value in grouped.items():
        expected = fast[name] if name == "0.weight_posterior.loc" else slow[name]
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)


def test_groups_have_every_parameter_once_and_decay_what_is_no_posterior():
    net = nn.Sequential(
        tp.BayesConv2d(3, 8, 3), nn.BatchNorm2d(8), tp.BayesConv2d(8, 8, 3, prior="gaussian"), nn.Flatten(),
        tp.BayesConv2d(8, 8, 3, posterior="delta"), nn.Linear(8, 2),
    )  # fmt: skip
    net.append(net[0])
    for options in ({}, {"latent_lr": 0.1}):
        groups = tp.parameter_groups(net, 1e-3, weight_decay=0.3, **options)
        seen = [id(p) for group in groups for p in group["params"]]
        assert sorted(seen) == sorted(map(id, net.parameters()))
        decaying = [p for group in groups if group["weight_decay"] for p in group["params"]]
        assert {id(p) for p in decaying} == {id(p) for i in (1, 5) for p in net[i].parameters()}
        assert all(group["weight_decay"] in (0, 0.3) for group in groups)
        rates = {id(p): group["lr"] for group in groups for p in group["params"]}
        in_prior_units = [net[0].weight_posterior.loc, *net[4].weight_posterior.parameters()]
        assert {rates[id(p)] for p in in_prior_units} == {options.get("latent_lr", 2e-2)}
        assert (
            rates[id(net[0].weight_posterior.log_scale)] == rates[id(net[2].weight_posterior.loc)] == 1e-3
        )


def test_the_rate_of_latents_stays_within_bounds_by_default():
    for lr, own in ((1e-3, 0.02), (0.025, 0.025), (0.1, 0.03)):
        assert [group["lr"] for group in tp.parameter_groups(conv(), lr)] == [lr, own]


@pytest.mark.parametrize("prior", ["klein-3x3", "klein-fixed", "euclidean-3x3"])
@pytest.mark.parametrize("posterior", ["mean-field", "delta"])
def test_latent_parameters_have_size_1_in_every_layer(prior, posterior):
    """What the default rate takes for granted: stds between .2 and 1.5 whatever the layer's width, where weights shrink."""
    for inputs in (1, 100):
        q = tp.BayesConv2d(inputs, 200, 3, prior=prior, posterior=posterior).weight_posterior
        for parameter in q.latent_parameters():
            assert 0.2 < parameter.std() < 1.5


def test_groups_under_schedulers_states_and_copies():
    """A state of the optimizer, a copy of it and a pickle go on as it does, with the rates of a schedule."""
    net = conv()

    def make(net):
        optimizer = torch.optim.AdamW(tp.parameter_groups(net, 1e-3, latent_lr=2e-2))
        return optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)

    optimizer, schedule = make(net)
    gradients(net)
    optimizer.step()
    schedule.step()
    loaded = copy.deepcopy(net)
    other = make(loaded)[0]
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    copies = [
        (net, optimizer),
        (loaded, other),
        copy.deepcopy((net, optimizer)),
        pickle.loads(pickle.dumps((net, optimizer))),
    ]
    for each, stepper in copies:
        assert sorted({group["lr"] for group in stepper.param_groups}) == [5e-4, 1e-2]
        each.zero_grad()
        gradients(each)
        stepper.step()
    for each, _ in copies[1:]:
        for a, b in zip(each.parameters(), net.parameters(), strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": 0}, "lr: expected a positive"),
        ({"lr": 1, "latent_lr": -1}, "latent_lr"),
        ({"lr": 1, "weight_decay": -1}, "weight_decay"),
    ],
)
def test_bad_rates_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        tp.parameter_groups(conv(), **options)


def test_the_context_says_what_to_use():
    with pytest.warns(DeprecationWarning, match="parameter_groups") as found, tp.faster_latents(conv(), 20):
        pass
    assert found[0].filename == __file__


def test_only_inside_and_only_of_the_model():
    net, other = conv(), conv()
    other.load_state_dict(net.state_dict())
    before = copy.deepcopy(net.state_dict())
    optimizer = torch.optim.SGD([*net.parameters(), *other.parameters()], lr=1e-4)
    with tp.faster_latents(net, 10):
        gradients(net)
        gradients(other)
        optimizer.step()
    steps = [m[0].weight_posterior.loc - before["0.weight_posterior.loc"] for m in (net, other)]
    torch.testing.assert_close(steps[0][:2], 10 * steps[1][:2], rtol=1e-2, atol=1e-5)
    kept = net[0].weight_posterior.loc.detach().clone()
    optimizer.step()
    torch.testing.assert_close(net[0].weight_posterior.loc - kept, steps[1], rtol=1e-2, atol=1e-5)


def test_parameters_are_the_same_objects_in_the_same_order():
    net = conv()
    names, objects = zip(*net.named_parameters(), strict=True)
    averaged = AveragedModel(net)
    with tp.faster_latents(net, 20):
        assert tuple(net.state_dict()) == tuple(averaged.module.state_dict())
        inside = copy.deepcopy(net.state_dict())
        pickle.loads(pickle.dumps(net))
        copies = [copy.deepcopy(net)]
    found, same = zip(*net.named_parameters(), strict=True)
    assert found == names
    assert all(a is b for a, b in zip(objects, same, strict=True))
    conv().load_state_dict(inside)
    averaged.update_parameters(net)
    copies.append(averaged.module)
    vector = nn.utils.parameters_to_vector(net.parameters())
    for other in copies:
        assert torch.equal(nn.utils.parameters_to_vector(other.parameters()), vector)


def test_the_state_of_an_optimizer_goes_on_in_a_fresh_network():
    net = conv()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    with tp.faster_latents(net, 20):
        gradients(net)
        optimizer.step()
        fresh = conv()
        fresh.load_state_dict(net.state_dict())
        other = torch.optim.Adam(fresh.parameters(), lr=1e-3)
        other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        with tp.faster_latents(fresh, 20):
            for each, stepper in ((net, optimizer), (fresh, other)):
                each.zero_grad()
                gradients(each)
                stepper.step()
    for a, b in zip(net.parameters(), fresh.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_gradients_are_clipped_as_without():
    norms = []
    net = conv()
    for factor in (1.0, 20.0):
        other = copy.deepcopy(net)
        with tp.faster_latents(other, factor):
            gradients(other)
            norms.append(nn.utils.clip_grad_norm_(other.parameters(), 0.1))
    assert norms[0] == norms[1]


def test_a_posterior_of_ones_own_is_served():
    """Layers ask `latent_mask` and `compile_`, not the class."""

    class Mine(tp.MeanFieldPosterior):
        asked = None

        def latent_mask(self):
            return torch.arange(self.loc.numel()).reshape(self.shape) % 2 == 0

        def compile_(self, on=True):
            self.asked = on
            return True

    class Prior(tp.Gaussian):
        def posterior(self, shape, **options):
            return Mine(self, shape, **options)

    layer = tp.BayesLinear(4, 2, bias=False, prior=Prior())
    before = layer.weight_posterior.loc.detach().clone()
    with tp.faster_latents(layer, 5):
        layer.weight_posterior.loc.grad = torch.ones(2, 4)
        torch.optim.SGD(layer.parameters(), lr=1e-2).step()
    moved = (before - layer.weight_posterior.loc).detach().flatten()
    torch.testing.assert_close(moved, torch.tensor([0.05, 0.01] * 4), rtol=1e-3, atol=0)
    assert tp.compile_posteriors(layer) == 1
    assert layer.weight_posterior.asked is True
