"""Statistics of batch normalization over draws. Oracle: moments of all outputs of the layer before, by hand."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import topoprior as tp


def make():
    net = nn.Sequential(
        tp.BayesConv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Dropout(0.5), nn.Flatten(), nn.Linear(48, 2)
    )
    net[1].running_mean.fill_(7.0)
    net[2].eval()
    return net


def test_statistics_are_those_of_all_draws_and_batches():
    """Draw by draw, with the random numbers of the same seed; no other module draws any."""
    net, x = make(), torch.randn(12, 2, 6, 6)
    net[2] = nn.Identity()
    torch.manual_seed(3)
    tp.update_bn(net, iter(x.split(4)), num_samples=5)
    torch.manual_seed(3)
    with torch.no_grad():
        outputs = [net[0](part) for part in x.split(4) for _ in range(5)]
    for found, of in ((net[1].running_mean, torch.mean), (net[1].running_var, torch.var)):
        torch.testing.assert_close(found, torch.stack([of(y, (0, 2, 3)) for y in outputs]).mean(0))
    assert int(net[1].num_batches_tracked) == 15


def test_modes_and_momenta_are_put_back():
    net, data = make(), TensorDataset(torch.randn(12, 2, 6, 6), torch.zeros(12))
    modes = [module.training for module in net.modules()]
    tp.update_bn(net, DataLoader(data, 4))
    assert [module.training for module in net.modules()] == modes
    assert net[1].momentum == 0.1


def test_at_the_mean_it_is_torchs_own():
    """Of the deterministic network with the mean weights, by torch.optim.swa_utils.update_bn."""
    net, x = make(), torch.randn(12, 2, 6, 6)
    plain = tp.to_deterministic(net)
    with tp.posterior_mean(net):
        tp.update_bn(net, DataLoader(x, 4), num_samples=2)
    torch.optim.swa_utils.update_bn(DataLoader(x, 4), plain)
    torch.testing.assert_close(net[1].running_mean, plain[1].running_mean)
    torch.testing.assert_close(net[1].running_var, plain[1].running_var)


def test_draws_differ_from_batch_to_batch():
    """One batch, many draws: the mean of the statistics is that of the draws, their law's to 6 standard errors."""
    net, x = nn.Sequential(tp.BayesConv2d(2, 3, 3), nn.BatchNorm2d(3)), torch.randn(4, 2, 6, 6)
    tp.update_bn(net, [(x,)], num_samples=300)
    with torch.no_grad():
        means = torch.stack([net[0](x).mean((0, 2, 3)) for _ in range(600)])
        variances = torch.stack([net[0](x).var((0, 2, 3)) for _ in range(600)])
    for found, draws in ((net[1].running_mean, means), (net[1].running_var, variances)):
        error = draws.std(0) * (1 / 300 + 1 / 600) ** 0.5
        assert ((found - draws.mean(0)).abs() < 6 * error).all()  # 6 numbers: false alarm 1e-8


def test_every_draw_has_statistics_of_its_own():
    """Written out: moments of what a draw computes on the training data, over all batches, normalize what it predicts."""
    net, x, data = make().train(), torch.randn(5, 2, 6, 6), torch.randn(12, 2, 6, 6)
    net[2] = nn.Identity()  # draws no random numbers
    before = {name: value.clone() for name, value in net.state_dict().items()}
    torch.manual_seed(3)
    outputs = tp.sample_outputs(net, x, 4, bn_loader=list(data.split(4)))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert net[1].training
    assert net[0].drawn is None
    torch.manual_seed(3)
    expected = []
    with torch.no_grad():
        for _ in range(4):
            weight, bias = (draw[0] for draw in net[0].draw_samples(1))
            hidden = [F.conv2d(part, weight, bias) for part in data.split(4)]
            mean, var = (
                torch.stack([of(h, (0, 2, 3)) for h in hidden]).mean(0) for of in (torch.mean, torch.var)
            )
            normalized = F.batch_norm(F.conv2d(x, weight, bias), mean, var)
            expected.append(net[4](normalized.flatten(1)))
    net[0].drawn = None
    torch.testing.assert_close(outputs, torch.stack(expected))
    torch.manual_seed(3)
    loader = DataLoader(x, 2, generator=torch.Generator())  # takes no seed from the draws
    streamed = tp.predict(net, loader, 4, bn_loader=list(data.split(4)))
    torch.testing.assert_close(streamed, outputs.softmax(2))


def test_statistics_of_draws_need_batches_that_can_be_read_again():
    net, x = make(), torch.randn(4, 2, 6, 6)
    with pytest.raises(ValueError, match="bn_loader: expected batches that can be read for each draw"):
        tp.predict(net, x, 2, bn_loader=iter([x]))
    with pytest.raises(ValueError, match="antithetic: expected False with a bn_loader"):
        tp.predict(net, x, 2, antithetic=True, bn_loader=[x])
    assert float(net[1].running_mean[0]) == 7
    without = nn.Sequential(tp.BayesLinear(3, 2))
    assert tp.predict(without, torch.randn(4, 3), 2, antithetic=True, bn_loader=[]).shape == (2, 4, 2)


def test_what_goes_wrong_leaves_everything_as_it_was():
    net = make()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    for loader, error in (([], ValueError), ([torch.randn(4, 5, 6, 6)], RuntimeError)):
        with pytest.raises(error):
            tp.update_bn(net, loader)
        assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
        assert net[1].momentum == 0.1
        assert net[1].training
    with pytest.raises(ValueError, match="num_samples: expected at least 1, found 0"):
        tp.update_bn(net, [], 0)
    with pytest.raises(TypeError, match="model: expected"):
        tp.update_bn(None, [])
    tp.update_bn(nn.Linear(2, 2), [])


def test_a_batch_without_rows_counts_for_nothing():
    net, x = make(), torch.randn(4, 2, 6, 6)
    with tp.posterior_mean(net):
        tp.update_bn(net, [x])
        expected = net[1].running_mean.clone()
        tp.update_bn(net, [x[:0], x, (x[:0], torch.empty(0))])
    torch.testing.assert_close(net[1].running_mean, expected)
    assert int(net[1].num_batches_tracked) == 1
    with pytest.raises(ValueError, match="loader: expected batches, found none"):
        tp.update_bn(net, [x[:0]])
    torch.testing.assert_close(net[1].running_mean, expected)


def test_statistics_of_training_get_a_word():
    """Until they are made again, and from the next training step on; not with statistics of each draw's own, nor of a state."""

    def words(**options):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            tp.predict(net, x, 2, **options)
        return [str(word.message) for word in caught if "batch normalization" in str(word.message)]

    net, x = make(), torch.randn(12, 2, 6, 6)
    assert not words()  # nothing was trained
    net(x).square().mean().backward()
    (word,) = words()
    assert {"bn_loader", "topoprior.update_bn(model,"} <= set(word.split())
    assert not words(bn_loader=[x])
    assert words()
    tp.update_bn(net, [x])
    assert not words()
    assert not words(bn_loader=[x])
    assert not words()
    net(x)
    assert words()
    state, net = net.state_dict(), make()
    net.load_state_dict(state)
    assert not words()
