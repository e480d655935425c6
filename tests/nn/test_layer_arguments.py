"""Arguments of layers, which no prior changes: geometry, draws, errors."""

import math

import pytest
import torch
from torch import nn

import topoprior as tp
from tests.nn.test_layers import LAYERS, make
from topoprior.nn.layers import transpose_kernels

# --- arguments, which no prior changes -------------------------------------------------------

GEOMETRIES = {
    "stride, padding, dilation": dict(stride=2, padding=(2, 1), dilation=2),
    "tuples": dict(stride=(2, 1), padding=(0, 2), dilation=(1, 2)),
    "depthwise": dict(groups=4, out=4),
    "same": dict(padding="same", kernel_size=(3, 5)),
    "same, dilated": dict(padding="same", dilation=2),
    "valid": dict(padding="valid"),
    "circular": dict(padding=1, padding_mode="circular"),
    "reflect": dict(padding=(1, 2), padding_mode="reflect"),
    "replicate, same": dict(padding="same", padding_mode="replicate"),
}


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_conv_geometry_is_torchs(geometry):
    kwargs = dict(GEOMETRIES[geometry])
    args = (4, kwargs.pop("out", 6), kwargs.pop("kernel_size", 3))
    layer, plain = tp.BayesConv2d(*args, **kwargs, prior="gaussian"), nn.Conv2d(*args, **kwargs)
    _same_function(layer, plain, torch.randn(2, 4, 9, 10))
    assert layer.extra_repr() == plain.extra_repr()


@pytest.mark.parametrize(
    "kwargs",
    [
        dict(),
        dict(stride=2, padding=1, output_padding=1),
        dict(stride=(3, 2), padding=(1, 0), output_padding=(2, 1), groups=2, bias=False),
        dict(dilation=2, groups=2),
    ],
    ids=str,
)
def test_transposed_geometry_is_torchs(kwargs):
    args = (4, 6, 3)
    layer = tp.BayesConvTranspose2d(*args, **kwargs, prior="gaussian")
    plain = nn.ConvTranspose2d(*args, **kwargs)
    _same_function(layer, plain, torch.randn(2, 4, 5, 6))
    positional = tp.BayesConvTranspose2d(4, 6, 3, 2, 1, 1, 2, False, 1, "zeros")
    assert (positional.output_padding, positional.groups, positional.dilation) == ((1, 1), 2, (1, 1))


def test_output_size_of_the_transposed_layer():
    layer, plain = tp.BayesConvTranspose2d(4, 6, 3, 2, 1), nn.ConvTranspose2d(4, 6, 3, 2, 1)
    x = torch.randn(2, 4, 5, 6)
    for size in ((9, 12), (10, 11)):
        _same_function(layer, plain, x, output_size=size)
    assert layer(x, output_size=(2, 6, 10, 12)).shape == (2, 6, 10, 12)
    layer.draw_samples(2)
    assert layer(x, output_size=(10, 12)).shape == (2, 6, 10, 12)
    for size in ((8, 12), (11, 12), (10,)):
        with pytest.raises(ValueError, match="output_size: expected"):
            layer(x, output_size=size)


def _same_function(layer, plain, x, **options):
    transposed = isinstance(plain, nn.ConvTranspose2d)
    with tp.posterior_mean(layer), torch.no_grad():
        weight = layer.weight_posterior.mean()
        plain.weight.copy_(transpose_kernels(weight, plain.groups) if transposed else weight)
        if plain.bias is not None:
            plain.bias.copy_(layer.bias_posterior.mean())
        torch.testing.assert_close(layer(x, **options), plain(x, **options))
        torch.testing.assert_close(layer(x[0], **options), plain(x[0], **options))


def test_kernels_transpose_to_torchs_layout_and_back():
    """An output of the transposed layer reads in / groups inputs: the fan-in that scales follow."""
    weight = torch.randn(6, 2, 3, 3)
    torchs = transpose_kernels(weight, 2)
    assert torchs.shape == nn.ConvTranspose2d(4, 6, 3, groups=2).weight.shape
    assert torch.equal(transpose_kernels(torchs, 2), weight)
    x, y = torch.zeros(1, 4, 1, 1), torch.nn.functional.conv_transpose2d
    x[0, 3] = 1  # input 3 is number 1 of the second group, which feeds outputs 3 to 5
    torch.testing.assert_close(y(x, torchs, groups=2)[0, 3:], weight[3:, 1])


def test_wide_layers_loop_over_draws_even_at_batch_one():
    layer = tp.BayesConv2d(256, 128, 3, padding=1, prior="gaussian")
    x = torch.randn(2, 256, 2, 2)
    weight, bias = layer.draw_samples(2)
    expected = [nn.functional.conv2d(x[i : i + 1], weight[i], bias[i], padding=1) for i in range(2)]
    torch.testing.assert_close(layer(x), torch.cat(expected))


def test_draws_of_linear_layers_take_any_leading_shape():
    layer, x = tp.BayesLinear(7, 5), torch.randn(6, 4, 3, 7)
    weight, bias = layer.draw_samples(3)
    expected = [nn.functional.linear(p, weight[i], bias[i]) for i, p in enumerate(x.chunk(3))]
    torch.testing.assert_close(layer(x), torch.cat(expected))


def test_antithetic_draws_of_a_layer_mirror_each_other():
    weight, bias = tp.BayesConv2d(2, 3, 3, prior="gaussian").draw_samples(6, antithetic=True)
    for draws in (weight, bias):
        center = (draws[:3] + draws[3:]) / 2
        torch.testing.assert_close(center, center[:1].expand_as(center))


def test_draws_inside_posterior_mean_are_the_mean():
    layer = tp.BayesLinear(4, 3)
    with tp.posterior_mean(layer):
        weight, bias = layer.draw_samples(5)
        assert weight.shape == (5, 3, 4)
        assert bias.shape == (5, 3)
        assert torch.equal(weight[4], layer.weight_posterior.mean())
        layer.drawn = None


def test_parameter_count_is_below_a_plain_conv():
    count = sum(p.numel() for p in tp.BayesConv2d(64, 128, 3, bias=False).parameters())
    assert count == 8 * 64 * 128
    assert count < nn.Conv2d(64, 128, 3, bias=False).weight.numel()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: tp.BayesConv2d(3, 4, 3, prior="klien-3x3"), "did you mean 'klein-3x3'"),
        (lambda: tp.BayesConv2d(3, 4, 5), "3x3 kernels, found 5x5; priors that fit: .*gaussian"),
        (lambda: tp.BayesConv1d(3, 4, 3, prior="klein-3x3"), "3x3 kernels, found 3; .*gaussian"),
        (lambda: tp.BayesConv3d(3, 4, 3, prior="klein-3x3"), "3x3 kernels, found 3x3x3; .*gaussian"),
        (lambda: tp.BayesConvTranspose2d(3, 4, (2, 4)), "3x3 kernels, found 2x4; .*gaussian"),
        (lambda: tp.BayesLinear(3, 4, prior="klein-3x3"), "3x3 kernels, found a linear layer; .*gaussian"),
        (lambda: tp.BayesConv2d(3, 4, 3, groups=2), "divisible"),
        (lambda: tp.BayesConv2d(3, 4, 3, padding_mode="mirror"), "padding_mode"),
        (lambda: tp.BayesConvTranspose2d(3, 4, 3, padding_mode="circular"), "padding mode"),
        (lambda: tp.BayesLinear(0, 4), "in_features: expected at least 1, found 0"),
        (lambda: tp.BayesConv2d(3, 4, 0, prior="gaussian"), "kernel_size: expected at least 1, found 0"),
        (
            lambda: tp.BayesConv2d(3, 4, (3, -1), prior="gaussian"),
            "kernel_size: expected at least 1, found -1",
        ),
        (lambda: tp.BayesConv1d(3, 0, 3), "out_channels: expected at least 1, found 0"),
        (lambda: tp.BayesLinear(4, 2).draw_samples(0), "num_samples: expected at least 1, found 0"),
        (lambda: tp.BayesLinear(4, 2).draw_samples(3, antithetic=True), "even"),
    ],
)
def test_bad_arguments_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("case", LAYERS, ids=str)
def test_input_that_does_not_split_into_the_draws(case):
    layer, x = make(case, "gaussian")
    layer.draw_samples(3)
    with pytest.raises(ValueError, match="input: expected a multiple of 3 rows"):
        layer(x)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: tp.BayesLinear(4, 2.5), "out_features: expected an int, found 2.5"),
        (lambda: tp.BayesLinear(True, 2), "in_features: expected an int, found True"),
        (lambda: tp.BayesConv2d(3, "4", 3), "out_channels: expected an int, found '4'"),
        (lambda: tp.BayesConv2d(3, 4, 3.0), "kernel_size: expected an int, found 3.0"),
        (lambda: tp.BayesConv2d(3, 4, (3, True)), "kernel_size: expected an int, found True"),
        (lambda: tp.BayesLinear(4, 2).draw_samples(2.0), "num_samples: expected an int, found 2.0"),
    ],
)
def test_arguments_of_a_wrong_type_are_named(build, message):
    with pytest.raises(TypeError, match=message):
        build()


def test_prior_of_a_wrong_type():
    with pytest.raises(TypeError, match="WeightPrior"):
        tp.BayesConv2d(3, 4, 3, prior=3)


def test_a_prior_of_ones_own():
    class Doubled(tp.Gaussian):
        def std(self, shape):
            return 2 * super().std(shape)

    layer = tp.BayesLinear(50, 50, prior=Doubled())
    assert layer.weight_posterior.prior_scale == pytest.approx(2 * math.sqrt(2 / 50))
    assert layer.prior_name == "Doubled"


@pytest.mark.parametrize(
    ("layer", "shape"),
    [(tp.BayesConv2d(3, 4, 3), (2, 1, 8, 8)), (tp.BayesConvTranspose2d(3, 4, 3), (2, 1, 8, 8)), (tp.BayesLinear(4, 2), (2, 5))],
)  # fmt: skip
def test_many_draws_of_an_input_of_another_width_say_so(layer, shape):
    """Not of the shape into which draws are folded."""
    with pytest.raises(ValueError, match=rf"{type(layer).__name__}: expected an input of size [34] in dim.*{shape[-1]}\)"):  # fmt: skip
        tp.sample_outputs(torch.nn.Sequential(layer), torch.zeros(shape), 8)
