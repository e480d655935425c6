"""Layers x priors: one table, every law. Oracles: torch.nn's layers, a loop over the draws."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

import topoprior as tp
from topoprior.nn.convolution import transpose_kernels
from topoprior.priors.registry import prior_names

# Bayesian layer, torch.nn layer, arguments, shape of one input.
LAYERS = {
    "conv1d": (tp.BayesConv1d, nn.Conv1d, (4, 6, 3), dict(padding=1), (4, 9)),
    "conv2d": (tp.BayesConv2d, nn.Conv2d, (4, 6, 3), dict(padding=1), (4, 7, 8)),
    "conv2d 1x1": (tp.BayesConv2d, nn.Conv2d, (4, 6, 1), dict(bias=False), (4, 5, 5)),
    "conv2d 5x5": (tp.BayesConv2d, nn.Conv2d, (2, 4, 5), {}, (2, 7, 8)),
    "conv2d 7x7": (tp.BayesConv2d, nn.Conv2d, (2, 4, 7), dict(stride=2), (2, 9, 9)),
    "conv2d groups": (tp.BayesConv2d, nn.Conv2d, (4, 6, 3), dict(groups=2, bias=False), (4, 7, 8)),
    "conv3d": (tp.BayesConv3d, nn.Conv3d, (4, 6, (3, 1, 2)), dict(padding=1), (4, 5, 6, 5)),
    "transposed": (
        tp.BayesConvTranspose2d,
        nn.ConvTranspose2d,
        (4, 6, 3),
        dict(stride=2, groups=2),
        (4, 5, 6),
    ),
    "linear": (tp.BayesLinear, nn.Linear, (7, 5), {}, (7,)),
}


def _shape(case: str) -> tuple[int, ...]:
    bayes, plain, args, kwargs, _ = LAYERS[case]
    weight = plain(*args, **kwargs).weight
    if plain is nn.ConvTranspose2d:
        weight = transpose_kernels(weight, kwargs["groups"])
    return tuple(weight.shape)


PRIORS = prior_names()
COMBINATIONS = [
    (case, prior) for prior in PRIORS for case in LAYERS if tp.get_prior(prior).serves(_shape(case))
]
every_layer = pytest.mark.parametrize(("case", "prior"), COMBINATIONS, ids=str)


def make(case, prior, **options):
    bayes, _, args, kwargs, shape = LAYERS[case]
    return bayes(*args, **kwargs, prior=prior, **options), torch.randn(
        2, *shape, dtype=options.get("dtype")
    )


def plain_layer(case, layer):
    """torch.nn's layer with the posterior's mean."""
    _, kind, args, kwargs, _ = LAYERS[case]
    plain, weight = kind(*args, **kwargs), layer.weight_posterior.mean()
    with torch.no_grad():
        plain.weight.copy_(transpose_kernels(weight, layer.groups) if case == "transposed" else weight)
        if plain.bias is not None:
            layer.bias_posterior.loc.normal_()
            plain.bias.copy_(layer.bias_posterior.mean())
    return plain


def test_every_prior_serves_a_layer():
    assert {prior for _, prior in COMBINATIONS} == set(PRIORS)
    assert {case for case, _ in COMBINATIONS} == set(LAYERS)


@every_layer
def test_posterior_mean_computes_what_torch_computes(case, prior):
    layer, x = make(case, prior)
    plain = plain_layer(case, layer)
    with tp.posterior_mean(layer):
        y = layer(x)
        torch.testing.assert_close(y, plain(x))
        torch.testing.assert_close(layer(x[0]), plain(x[0]))
        assert torch.equal(y, layer(x))


@every_layer
def test_forward_samples_in_training_and_evaluation(case, prior):
    layer, x = make(case, prior)
    for mode in (True, False):
        layer.train(mode)
        first, second = layer(x), layer(x)
        assert first.shape == plain_layer(case, layer)(x).shape
        assert not torch.equal(first, second)


@every_layer
def test_every_parameter_gets_a_finite_gradient(case, prior):
    layer, x = make(case, prior)
    (layer(x).square().mean() + 1e-3 * layer.kl()).backward()
    for name, parameter in layer.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
            assert parameter.grad.abs().sum() > 0, name


@every_layer
def test_kl_is_a_finite_scalar_that_says_what_it_is(case, prior):
    layer, _ = make(case, prior)
    assert layer.kl().shape == ()
    assert torch.isfinite(layer.kl())
    assert layer.weight_posterior.kl_kind in ("exact", "bound", "approximation")


@every_layer
def test_many_draws_at_once_equal_a_loop_over_them(case, prior):
    layer, _ = make(case, prior)
    shape = LAYERS[case][-1]
    for samples, batch in ((1, 2), (3, 1), (4, 2), (2, 7)):  # grouped convolutions and the loop
        x = torch.randn(samples * batch, *shape)
        weight, bias = layer.draw_samples(samples, antithetic=samples == 4)
        assert weight.shape == (samples, *_shape(case))
        assert (bias is None) == (layer.bias_posterior is None)
        together = layer(x)
        one_by_one = []
        for i, part in enumerate(x.chunk(samples)):
            layer.drawn = weight[i : i + 1], None if bias is None else bias[i : i + 1]
            one_by_one.append(layer(part))
        torch.testing.assert_close(together, torch.cat(one_by_one))
    layer.drawn = None


@every_layer
def test_state_dict_deepcopy_and_pickle_round_trip(case, prior):
    layer, x = make(case, prior)
    names = set(layer.state_dict())
    layer.draw_samples(2)
    assert set(layer.state_dict()) == names, "drawn weights are no part of the state"
    same = [copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))]
    assert all(other.drawn is None for other in same)
    layer.drawn = None
    buffer = io.BytesIO()
    torch.save(layer.state_dict(), buffer)
    buffer.seek(0)
    fresh = copy.deepcopy(layer)
    fresh.reset_parameters()
    fresh.load_state_dict(torch.load(buffer, weights_only=True), strict=True)
    for other in [*same, fresh]:
        with tp.posterior_mean(layer), tp.posterior_mean(other):
            assert torch.equal(layer(x), other(x))


@every_layer
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_dtypes(case, prior, dtype):
    layer, x = make(case, prior, dtype=dtype)
    assert layer(x).dtype == dtype
    assert torch.isfinite(layer.kl())
    assert layer.to(torch.float32)(x.float()).dtype == torch.float32


@every_layer
def test_default_dtype_float64(case, prior):
    torch.set_default_dtype(torch.float64)
    try:
        layer, x = make(case, prior)
        assert all(p.dtype == torch.float64 for p in layer.parameters())
        assert layer(x).dtype == layer.kl().dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


# tests/test_priors.py compiles every prior; here, every layer.
@pytest.mark.parametrize(
    ("case", "prior"), [*((case, "gaussian") for case in LAYERS), ("conv2d", "klein-3x3")], ids=str
)
@pytest.mark.slow
def test_compile_fullgraph(case, prior):
    torch.compiler.reset()
    layer, x = make(case, prior)
    step = torch.compile(lambda x: (layer(x).mean(), layer.kl()), fullgraph=True)
    with tp.posterior_mean(layer):
        torch.testing.assert_close(step(x), (layer(x).mean(), layer.kl()))
