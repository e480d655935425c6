"""Networks to Bayesian ones and back. Oracle: the network itself, at the posterior mean."""

import pytest
import torch
import torchvision
from torch import nn

import topoprior as tp
from topoprior.nn.base import BayesLayer

CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d)


def vit():
    net = torchvision.models.VisionTransformer(
        image_size=32, patch_size=8, num_layers=1, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=10
    )
    nn.init.normal_(net.heads.head.weight)  # torchvision starts it at 0
    return net


def vgg16():
    net = torchvision.models.vgg16(num_classes=10)
    net.classifier = nn.Linear(512 * 49, 10)  # its 120 million other weights are no convolutions
    return net


# Network, convolutions, those that keep a 3x3 prior.
NETWORKS = {
    "resnet18": (lambda: torchvision.models.resnet18(num_classes=10), 20, 16),
    "vgg16": (vgg16, 13, 13),
    "mobilenet_v2": (lambda: torchvision.models.mobilenet_v2(num_classes=10), 52, 1),
    "efficientnet_b0": (lambda: torchvision.models.efficientnet_b0(num_classes=10), 81, 1),
    "vit": (vit, 1, 0),
}
every_network = pytest.mark.parametrize("network", NETWORKS, ids=str)


def small_net():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 8, 3, groups=8, bias=False),
        nn.Conv2d(8, 4, 1),
        nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 5),
    )


def bayes_layers(model):
    return {name: module for name, module in model.named_modules() if isinstance(module, BayesLayer)}


def shake_batch_norms(model):
    """Statistics as after training, so that evaluation mode does something."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model.eval()


# --- torchvision's networks ------------------------------------------------------------------


@every_network
def test_every_convolution_becomes_bayesian(network):
    make, convs, klein = NETWORKS[network]
    model = make().eval()
    bayes = tp.to_bayesian(model)
    assert not [m for m in bayes.modules() if isinstance(m, CONVS)]
    layers = bayes_layers(bayes)
    assert len(layers) == convs
    assert sum(layer.prior_name == "klein-3x3" for layer in layers.values()) == klein
    assert all(
        layer.note.startswith("fallback") == (layer.prior_name == "gaussian") for layer in layers.values()
    )
    with torch.no_grad():
        x = torch.randn(2, 3, 32, 32)
        first, second = bayes(x), bayes(x)
        assert first.shape == (2, 10)
        assert not torch.equal(first, second)
        assert torch.isfinite(tp.kl_divergence(bayes))
    assert not bayes_layers(model), "the given model stays as it is"


@every_network
def test_pretrained_gaussian_at_the_mean_is_the_network_itself(network):
    """And so it is after the way back. Convolutions may sum in another order: rounding, not equality."""
    model = shake_batch_norms(NETWORKS[network][0]())
    bayes, x = tp.to_bayesian(model, "gaussian", init="pretrained"), torch.randn(2, 3, 32, 32)
    assert all(layer.projection_residual == 0 for layer in bayes_layers(bayes).values())
    with torch.no_grad(), tp.posterior_mean(bayes):
        torch.testing.assert_close(bayes(x), model(x))
    back = tp.to_deterministic(bayes)
    assert [type(m) for m in back.modules()] == [type(m) for m in model.modules()]
    assert {n: p.shape for n, p in back.state_dict().items()} == {
        n: p.shape for n, p in model.state_dict().items()
    }
    with torch.no_grad():
        torch.testing.assert_close(back(x), model(x))
    assert repr(back) == repr(model)


# --- which layers, with which prior ----------------------------------------------------------


def priors_of(bayes):
    return {name: layer.prior_name for name, layer in bayes_layers(bayes).items()}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"0": "klein-3x3", "2": "gaussian", "3": "gaussian", "4": "klein-3x3"}),
        ({"fallback": None}, {"0": "klein-3x3", "4": "klein-3x3"}),
        ({"fallback": "laplace"}, {"0": "klein-3x3", "2": "laplace", "3": "laplace", "4": "klein-3x3"}),
        ({"prior": "laplace"}, {"0": "laplace", "2": "laplace", "3": "laplace", "4": "laplace"}),
        ({"prior": "torus-3x3", "include": "0"}, {"0": "torus-3x3"}),
        ({"include": ["[04]"]}, {"0": "klein-3x3", "4": "klein-3x3"}),
        ({"include": nn.ConvTranspose2d}, {"4": "klein-3x3"}),
        ({"include": ["3", nn.ConvTranspose2d]}, {"3": "gaussian", "4": "klein-3x3"}),
        ({"exclude": [nn.ConvTranspose2d, "3"]}, {"0": "klein-3x3", "2": "gaussian"}),
        ({"exclude": lambda name, layer: layer.kernel_size != (3, 3), "fallback": None}, {"0": "klein-3x3", "4": "klein-3x3"}),
        ({"include": None, "exclude": None, "fallback": None}, {"0": "klein-3x3", "4": "klein-3x3"}),
        ({"include": "7", "linear_prior": "laplace"}, {"7": "laplace"}),
        ({"linear_prior": "gaussian", "exclude": CONVS}, {"7": "gaussian"}),
    ],
)  # fmt: skip
def test_rules(options, expected):
    options = dict(options)
    if callable(options.get("exclude")):  # asked about every layer that could be converted, Linear too
        choose = options["exclude"]
        options["exclude"] = lambda name, layer: not isinstance(layer, nn.Linear) and choose(name, layer)
    assert priors_of(tp.to_bayesian(small_net(), **options)) == expected


def test_several_priors_the_first_that_serves():
    net = nn.Sequential(nn.Conv2d(3, 4, 7), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 1))
    bayes = tp.to_bayesian(net, ["klein-3x3", "klein-7x7"])
    assert list(priors_of(bayes).values()) == ["klein-7x7", "klein-3x3", "gaussian"]


def test_a_name_stands_for_everything_inside_it():
    net = nn.ModuleDict({"body": small_net(), "head": nn.Conv2d(3, 3, 3)})
    assert set(priors_of(tp.to_bayesian(net, exclude="body"))) == {"head"}
    assert set(priors_of(tp.to_bayesian(net, include="body", fallback=None))) == {"body.0", "body.4"}


@pytest.mark.parametrize("conv", [nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.Linear], ids=str)
def test_geometry_device_dtype_mode_and_gradients_are_kept(conv):
    kwargs = {} if conv is nn.Linear else dict(stride=2, padding=1, dilation=2, groups=2)
    if conv is nn.ConvTranspose2d:
        kwargs["output_padding"] = 1
    args = (4, 6) if conv is nn.Linear else (4, 6, 3)
    plain = conv(*args, **kwargs, dtype=torch.float64).eval()
    plain.weight.requires_grad_(False)
    layer = tp.to_bayesian(plain, "gaussian", init="pretrained", linear_prior="gaussian")
    assert not layer.training
    assert layer.extra_repr() == plain.extra_repr()
    assert {p.dtype for p in layer.parameters()} == {torch.float64}
    assert not any(p.requires_grad for p in layer.weight_posterior.parameters())
    assert all(p.requires_grad for p in layer.bias_posterior.parameters())
    x = torch.randn(2, 4, *[9] * (plain.weight.dim() - 2), dtype=torch.float64)
    with tp.posterior_mean(layer):
        torch.testing.assert_close(layer(x), plain(x))
    back = tp.to_deterministic(layer)
    assert repr(back) == repr(plain)
    assert torch.equal(back.weight, plain.weight)
    assert torch.equal(back.bias, plain.bias)
    assert (back.weight.requires_grad, back.bias.requires_grad, back.training) == (False, True, False)


def test_a_shared_layer_stays_shared():
    conv = nn.Conv2d(3, 3, 3, padding=1)
    net = nn.Sequential(conv, nn.ReLU(), conv)
    bayes = tp.to_bayesian(net)
    assert bayes[0] is bayes[2]
    assert len(tp.summary(bayes).rows) == 1
    back = tp.to_deterministic(bayes)
    assert back[0] is back[2]


def test_in_place():
    net = small_net()
    assert tp.to_bayesian(net, inplace=True) is net
    assert bayes_layers(net)
    assert tp.to_deterministic(net, inplace=True) is net
    assert not bayes_layers(net)
    for convert, layer in (
        (tp.to_bayesian, nn.Conv2d(3, 3, 3)),
        (tp.to_deterministic, tp.BayesConv2d(3, 3, 3)),
    ):
        with pytest.raises(ValueError, match="inplace"):
            convert(layer, inplace=True)


def test_converting_twice_converts_what_is_left():
    bayes = tp.to_bayesian(small_net(), fallback=None)
    both = tp.to_bayesian(bayes, "laplace")
    assert priors_of(both) == {"0": "klein-3x3", "2": "laplace", "3": "laplace", "4": "klein-3x3"}


def test_a_network_that_is_bayesian_already_is_said_to_be_so():
    bayes = tp.to_bayesian(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3)))
    said = "layers are Bayesian already, so there is nothing to convert: found 2 BayesConv2d, 1 ReLU;"
    with pytest.raises(ValueError, match=said):
        tp.to_bayesian(bayes)
    with pytest.raises(ValueError, match="found 1 BayesConv2d;"):
        tp.to_bayesian(tp.BayesConv2d(1, 2, 3))


# --- bad arguments ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tp.to_bayesian(nn.Sequential(nn.Linear(2, 2), nn.ReLU())), "found 1 Linear, 1 ReLU"),
        (lambda: tp.to_bayesian(nn.Sequential(nn.Conv2d(2, 2, 1)), fallback=None), "no layer to convert"),
        (lambda: tp.to_bayesian(small_net(), include="conv*"), "include: 'conv\\*' matches no module"),
        (lambda: tp.to_bayesian(small_net(), exclude=["0", "9"]), "exclude: '9' matches no module"),
        (lambda: tp.to_bayesian(small_net(), init="trained"), "init: expected .* found 'trained'"),
        (lambda: tp.to_bayesian(small_net(), "klien-3x3"), "did you mean"),
        (lambda: tp.to_bayesian(small_net(), fallback="gausian"), "did you mean"),
        (
            lambda: tp.to_bayesian(small_net(), fallback="circle-3x3"),
            "found 1x1; priors that fit: .*gaussian",
        ),
        (lambda: tp.to_bayesian(small_net(), []), r"prior: expected one or several, found \[\]"),
        (lambda: tp.to_bayesian(small_net(), ""), "prior: '' is neither a known name"),
        (lambda: tp.to_bayesian(small_net(), fallback=""), "prior: '' is neither a known name"),
        (lambda: tp.to_bayesian(small_net(), linear_prior=""), "prior: '' is neither a known name"),
        (lambda: tp.BayesConv2d(3, 4, 3, prior=""), "prior: '' is neither a known name"),
        (lambda: tp.to_bayesian(nn.Sequential(nn.LazyConv2d(3, 3))), "'0' has no weights yet"),
        (lambda: tp.to_deterministic(nn.ReLU()), "no Bayesian layer, only 1 ReLU"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    "call",
    [
        lambda: tp.to_bayesian("resnet18"),
        lambda: tp.to_bayesian(small_net(), include=[3]),
        lambda: tp.to_bayesian(small_net(), 3),
        lambda: tp.to_deterministic(3),
        lambda: tp.summary(3),
    ],
)
def test_wrong_types(call):
    with pytest.raises(TypeError, match="expected"):
        call()
