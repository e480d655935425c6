"""Networks converted with their weights. Oracle: the network itself, at the mean and under draws."""

import math

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

import topoprior as tp
from topoprior.nn.base import BayesLayer


def bayes_layers(model):
    return [module for module in model.modules() if isinstance(module, BayesLayer)]


def random_network(name):
    """With statistics as after training, so that evaluation mode does something."""
    model = getattr(torchvision.models, name)(num_classes=10)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model.eval()


def distance_of_draws(bayes, x, num_samples=4):
    """|draw - mean| / |mean| of the outputs, averaged over the draws."""
    with torch.no_grad(), tp.posterior_mean(bayes):
        mean = bayes(x)
    draws = tp.sample_outputs(bayes, x, num_samples)
    return ((draws - mean).flatten(1).norm(dim=1) / mean.norm()).mean().item()


@pytest.mark.parametrize(
    "network", ["resnet18", "mobilenet_v2", pytest.param("vgg16", marks=pytest.mark.slow)]
)
def test_pretrained_klein_reports_what_it_could_not_represent(network):
    model = random_network(network)
    include = ["conv1", "layer1"] if network == "resnet18" else None
    bayes, x = tp.to_bayesian(model, init="pretrained", include=include), torch.randn(2, 3, 32, 32)
    for layer in bayes_layers(bayes):
        residual = layer.projection_residual
        assert residual == 0 if layer.prior_name == "gaussian" else 0 < residual < 1
    back = tp.to_deterministic(bayes)
    with torch.no_grad(), tp.posterior_mean(bayes):
        torch.testing.assert_close(back(x), bayes(x))
    assert "residual" in str(tp.summary(bayes))


def test_kernels_on_the_klein_bottle_survive_the_round_trip():
    prior = tp.DecoderPrior.from_pretrained("klein-3x3")
    model = nn.Sequential(nn.Conv2d(6, 8, 3), nn.ConvTranspose2d(8, 6, 3, groups=2)).eval()
    with torch.no_grad():
        model[0].weight.copy_(prior.sample((8, 6, 3, 3)))
        model[1].weight.copy_(prior.sample((8, 3, 3, 3)))
    bayes, x = tp.to_bayesian(model, init="pretrained"), torch.randn(2, 6, 8, 8)
    for layer in bayes_layers(bayes):
        assert layer.projection_residual < 0.05
    with torch.no_grad():
        y = model(x)
        assert (tp.to_deterministic(bayes)(x) - y).norm() < 0.1 * y.norm()


# --- draws -----------------------------------------------------------------------------------


@pytest.mark.parametrize("network", ["resnet18", "mobilenet_v2"])
@pytest.mark.parametrize("prior", ["gaussian", "klein-3x3"])
def test_draws_compute_nearly_what_the_mean_computes(network, prior):
    """Twenty to fifty layers deep, with random weights. Stds of a tenth of the prior's make it .12 to .44."""
    include = ["conv1", "layer1"] if (network, prior) == ("resnet18", "klein-3x3") else None
    bayes = tp.to_bayesian(random_network(network), prior, init="pretrained", include=include)
    assert distance_of_draws(bayes, torch.randn(2, 3, 32, 32)) < 0.1


def oriented_bars(count):
    """16 x 16 images of bars, a class an orientation."""
    y = torch.randint(10, (count,))
    line, angle = torch.linspace(-1, 1, 16), (math.pi * y / 10)[:, None, None]
    across = line * angle.cos() + line[:, None] * angle.sin() + 0.3 * torch.randn(count, 1, 1)
    return (across.abs() < 0.25).float()[:, None] + 0.3 * torch.randn(count, 1, 16, 16), y


def test_draws_of_a_trained_depthwise_network_classify_as_it_does():
    """Its weights are far from the scale of any fan-in, which is what the prior's stds follow."""

    def block(width):
        depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        return [
            depthwise, nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 1), nn.BatchNorm2d(width), nn.ReLU()
        ]  # fmt: skip

    net = nn.Sequential(
        nn.Conv2d(1, 24, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), *block(24), *block(24), *block(24),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 10),
    )  # fmt: skip
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(100):
        x, y = oriented_bars(32)
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
    x, y = oriented_bars(300)
    with torch.no_grad():
        accuracy = (net.eval()(x).argmax(1) == y).float().mean()
    assert accuracy > 0.8
    for prior in ("gaussian", "klein-3x3"):
        bayes = tp.to_bayesian(net, prior, init="pretrained")
        draws = tp.sample_outputs(bayes, x, 8).argmax(-1)
        assert (draws == y).float().mean() > accuracy - 0.05


EVERY_POSTERIOR = {
    "gaussian": "gaussian",
    "student-t": "student-t",
    "correlated": "correlated-gaussian",
    "klein": "klein-3x3",
    "klein, residual": tp.DecoderPrior.from_pretrained("klein-3x3", residual_fraction=0.1),
    "klein, learned scales": tp.DecoderPrior.from_pretrained("klein-3x3", empirical_bayes=True),
    "klein, no mean part": tp.DecoderPrior.from_pretrained("klein-3x3", mean_fraction=0.0),
    "fixed": "klein-fixed",
    "euclidean": "euclidean-3x3",
}


@pytest.mark.parametrize("size", [1e-3, 1.0])
@pytest.mark.parametrize("name", EVERY_POSTERIOR)
def test_stds_follow_the_size_of_the_weights(name, size):
    """Of 1,000 draws: at most relative_scale for each of up to three parts, and what the latents add to it."""
    net = nn.Sequential(nn.Conv2d(6, 8, 3))
    with torch.no_grad():
        net[0].weight.copy_(size * tp.get_prior("klein-3x3").sample((8, 6, 3, 3)))
    layer = tp.to_bayesian(net, EVERY_POSTERIOR[name], init="pretrained", relative_scale=0.03)[0]
    posterior = layer.weight_posterior
    with torch.no_grad():
        mean = posterior.mean().square().mean().sqrt()
        spread = posterior.rsample((1000,)).var(0).mean().sqrt()
        biases = layer.bias_posterior.rsample((1000,)).std(0)
    latents = 0.0 if posterior.latent_mask() is None else 0.08
    assert spread < (0.03 * math.sqrt(3) * 1.1 + latents) * mean
    assert biases.max() < 0.03 * max(net[0].bias.square().mean().sqrt(), mean) * 1.15  # 6 standard errors


def test_weights_of_zero_are_measured_by_the_prior():
    """The last layer of a residual branch often starts at 0: narrow, not infinitely so."""
    net = nn.Sequential(nn.Conv2d(6, 8, 3), nn.Conv2d(8, 8, 3))
    for parameter in net.parameters():
        nn.init.zeros_(parameter)
    for prior in ("gaussian", "klein-3x3"):
        bayes = tp.to_bayesian(net, prior, init="pretrained")
        assert torch.isfinite(tp.kl_divergence(bayes))
        draws = torch.stack([m.weight_posterior.rsample((100,)).std() for m in bayes])
        unit = torch.tensor([math.sqrt(2 / (9 * fan_in)) for fan_in in (6, 8)])
        assert (draws < 0.05 * unit).all()
        assert (draws > 0.001 * unit).all()


def test_a_wide_start_is_one_option_away_and_a_narrow_one_costs_its_logarithm():
    net = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False))
    wide = tp.to_bayesian(net, "gaussian", init="pretrained", relative_scale=1e6)[0].weight_posterior
    start = tp.Gaussian().init_scale * math.sqrt(2 / 27)
    torch.testing.assert_close(wide.log_scale.exp(), torch.full_like(wide.loc, start))
    kls = [
        tp.to_bayesian(net, "gaussian", init="pretrained", relative_scale=c)[0].kl() for c in (0.002, 0.001)
    ]
    torch.testing.assert_close(kls[1] - kls[0], torch.tensor(216 * math.log(2)), rtol=1e-3, atol=0)
    for bad in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="relative_scale: expected a positive number"):
            tp.to_bayesian(net, init="pretrained", relative_scale=bad)
