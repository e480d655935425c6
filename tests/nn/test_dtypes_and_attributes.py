"""What a layer lacks or refuses is said by name, at once: dtypes without a posterior, attributes of torch's layers."""

import copy

import pytest
import torch
import torchvision
from torch import nn

import topoprior as tp

REFUSED = [
    torch.complex64,
    torch.complex128,
    torch.int8,
    torch.int64,
    torch.bool,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
]
LAYERS = {
    "conv2d": lambda **options: tp.BayesConv2d(3, 4, 3, **options),
    "conv1d": lambda **options: tp.BayesConv1d(3, 4, 3, **options),
    "transposed": lambda **options: tp.BayesConvTranspose2d(3, 4, 3, **options),
    "linear": lambda **options: tp.BayesLinear(3, 4, **options),
    "delta": lambda **options: tp.BayesConv2d(3, 4, 3, posterior="delta", **options),
}


@pytest.mark.parametrize("dtype", REFUSED, ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_layers_refuse_dtypes_at_once(name, dtype):
    with pytest.raises(TypeError, match=rf"dtype: expected dtype float16.*found {dtype}"):
        LAYERS[name](dtype=dtype)


@pytest.mark.filterwarnings("ignore:Complex modules")
@pytest.mark.parametrize("dtype", [torch.complex64, torch.float8_e4m3fn], ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_to_another_dtype_is_refused_and_changes_nothing(name, dtype):
    layer = LAYERS[name]()
    before = copy.deepcopy(layer.state_dict())
    with pytest.raises(TypeError, match=rf"{type(layer).__name__}: .*found {dtype}"):
        layer.to(dtype)
    for name, value in layer.state_dict().items():
        assert torch.equal(value, before[name])
    assert layer.double().half().float().weight_posterior.mean().dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.complex64, torch.float8_e4m3fn], ids=str)
def test_conversion_names_the_layer(dtype):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, dtype=torch.float32))
    net[1].weight = nn.Parameter(net[1].weight.detach().to(dtype))
    with pytest.raises(TypeError, match=rf"layer '1', which exclude='1' leaves as it is.*found {dtype}"):
        tp.to_bayesian(net)
    bayes = tp.to_bayesian(net, exclude="1")
    assert isinstance(bayes[0], tp.BayesConv2d)
    assert bayes[1].weight.dtype == dtype


# --- attributes -------------------------------------------------------------------------------


class Reads(nn.Module):
    def __init__(self):
        super().__init__()
        self.proj = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.proj(x.to(self.proj.weight.dtype))


def test_a_parent_that_reads_the_weight_of_its_layer():
    bayes = tp.to_bayesian(nn.Sequential(Reads(), nn.Conv2d(4, 4, 3)))
    with pytest.raises(AttributeError, match=r"BayesConv2d has no 'weight'.*exclude='0\.proj'"):
        bayes(torch.randn(1, 3, 8, 8))
    bayes = tp.to_bayesian(nn.Sequential(Reads(), nn.Conv2d(4, 4, 3)), exclude="0.proj")
    assert bayes(torch.randn(1, 3, 8, 8)).shape == (1, 4, 4, 4)


@pytest.mark.parametrize("name", LAYERS)
def test_attributes_that_layers_lack(name):
    layer = LAYERS[name]()
    for missing in ("weight", "bias"):
        assert not hasattr(layer, missing)
        with pytest.raises(
            AttributeError, match=rf"layer\.{missing}_posterior\.mean\(\).*to_deterministic"
        ):
            getattr(layer, missing)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        layer.nothing  # noqa: B018


GEOMETRY = (
    "in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode", "output_padding",
    "transposed", "_reversed_padding_repeated_twice", "in_features", "out_features",
)  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_attributes_are_those_of_torch_or_named(name):
    """What a parent may read of a layer of torch.nn: the same, or an error that says what to exclude."""
    layer = LAYERS[name]()
    plain = tp.to_deterministic(layer)
    for attribute in GEOMETRY:
        assert getattr(layer, attribute, None) == getattr(plain, attribute, None)
    converted = tp.to_bayesian(nn.Sequential(plain), "gaussian", linear_prior="gaussian")[0]
    for attribute in vars(type(plain)).keys() - {"__constants__", "__annotations__"}:
        if not hasattr(layer, attribute):
            with pytest.raises(AttributeError, match=rf"no '{attribute}', which torch.nn.*exclude='0'"):
                getattr(converted, attribute)
    if name != "linear":
        assert not hasattr(layer, "_conv_forward")


@pytest.mark.parametrize("name", LAYERS)
def test_weights_are_not_set(name):
    """It would change nothing, and look as if it did."""
    layer = LAYERS[name]()
    for part, value in (("weight", nn.Parameter(torch.ones(3))), ("bias", None)):
        with pytest.raises(AttributeError, match=rf"{part}_posterior\.project_\(w\)"):
            setattr(layer, part, value)
    names = [name for name, _ in layer.named_parameters()]
    assert "weight" not in names
    assert "bias" not in names


class Lists(nn.Module):
    """As detectron2's pyramids: children under names, called through lists, tuples and dicts."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Conv2d(3, 3, 3) for _ in range(4))
        self.convs = [self.a, (self.b,)]
        self.by_name = {"c": [self.c]}
        self.__dict__["also"] = self.d

    def forward(self, x):
        return self.also(self.by_name["c"][0](self.convs[1][0](self.convs[0](x))))


@pytest.mark.parametrize("inplace", [False, True])
def test_layers_that_a_parent_also_keeps_in_lists(inplace):
    """All four are converted where they are called, and back; the network that was given is as before."""
    net, x = Lists(), torch.randn(1, 3, 12, 12)
    before = net(x)
    bayes = tp.to_bayesian(net, init="pretrained", prior="gaussian", inplace=inplace)
    with tp.posterior_mean(bayes):
        torch.testing.assert_close(bayes(x), before)
    for layer in (bayes.a, bayes.b, bayes.c, bayes.d):
        with torch.no_grad():
            before_one = bayes(x)
            layer.weight_posterior.log_scale.fill_(3.0)
        assert not torch.allclose(bayes(x), before_one)
    assert (net(x) == before).all() or inplace
    back = tp.to_deterministic(bayes)
    assert all(
        type(m) is nn.Conv2d for m in (back.also, back.convs[0], back.convs[1][0], back.by_name["c"][0])
    )
    torch.testing.assert_close(back(x), before)


def test_a_parameter_that_a_parent_keeps_in_a_list():
    """Its layer stays: the parent would go on to use what is no longer learned."""

    class Keeps(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.weights = [{"w": (self.conv.weight,)}]

        def forward(self, x):
            return nn.functional.conv2d(x, self.weights[0]["w"][0])

    net = nn.Sequential(Keeps(), nn.Conv2d(4, 4, 3))
    with pytest.warns(UserWarning, match=r"0\.conv \(shares a parameter"):
        bayes = tp.to_bayesian(net)
    assert type(bayes[0].conv) is nn.Conv2d
    assert isinstance(bayes[1], tp.BayesConv2d)
    assert bayes[0].weights[0]["w"][0] is bayes[0].conv.weight


# --- torch.fx ---------------------------------------------------------------------------------


def test_feature_extractor_of_torchvision():
    from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

    bayes = tp.to_bayesian(torchvision.models.resnet18(num_classes=10)).eval()
    extractor = create_feature_extractor(
        bayes, {"layer1": "low", "layer2.0.conv1": "inside", "fc": "logits"}
    )
    assert "layer1.0.conv1" in get_graph_node_names(bayes)[1]
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad(), tp.posterior_mean(bayes), tp.posterior_mean(extractor):
        found = extractor(x)
        torch.testing.assert_close(found["logits"], bayes(x))
        low = bayes.layer1(bayes.maxpool(bayes.relu(bayes.bn1(bayes.conv1(x)))))
        torch.testing.assert_close(found["low"], low)
    samples = tp.predict(extractor, x, 4, output="logits")
    assert len(samples.flatten(1).unique(dim=0)) == 4


@pytest.mark.parametrize("name", LAYERS)
def test_symbolic_traces_draw(name):
    layer = LAYERS[name]()
    net = torch.fx.symbolic_trace(nn.Sequential(layer, nn.ReLU()))
    x = torch.randn(2, 3, 8, 8) if "2d" in name or name in ("transposed", "delta") else torch.randn(2, 3, 3)
    assert net(x).shape == layer(x).shape
    with tp.posterior_mean(net):
        torch.testing.assert_close(net(x), layer_mean(layer, x).relu())
    if name != "delta":
        assert not torch.equal(net(x), net(x))


def layer_mean(layer, x):
    with tp.posterior_mean(layer):
        return layer(x)


def test_output_size_is_part_of_the_trace():
    class Up(nn.Module):
        def __init__(self):
            super().__init__()
            self.up = tp.BayesConvTranspose2d(3, 4, 3, stride=2)

        def forward(self, x):
            return self.up(x, output_size=(18, 18))

    assert torch.fx.symbolic_trace(Up())(torch.randn(1, 3, 8, 8)).shape == (1, 4, 18, 18)
