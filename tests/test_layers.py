"""Layers x priors: one table, every law. Oracles: torch.nn's layers, Monte Carlo, torch.distributions."""

import copy
import io
import math
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import topoprior as tp

PRIORS = {
    "klein": "klein-3x3",
    "gaussian": "gaussian",
    "gaussian, fixed scale": tp.Gaussian(0.3),
    "klein, no mean part": tp.DecoderPrior.from_pretrained("klein-3x3", mean_fraction=0.0, gain=1.0),
}
CONVS = {
    "plain": dict(args=(4, 6, 3), kwargs={}),
    "stride, padding, dilation": dict(args=(4, 6, 3), kwargs=dict(stride=2, padding=(2, 1), dilation=2)),
    "groups": dict(args=(4, 6, 3), kwargs=dict(groups=2, bias=False)),
    "depthwise": dict(args=(4, 4, 3), kwargs=dict(groups=4)),
    "same": dict(args=(4, 6, 3), kwargs=dict(padding="same")),
    "valid": dict(args=(4, 6, 3), kwargs=dict(padding="valid")),
    "circular": dict(args=(4, 6, 3), kwargs=dict(padding=1, padding_mode="circular")),
    "reflect": dict(args=(4, 6, 3), kwargs=dict(padding=1, padding_mode="reflect")),
}


@pytest.fixture(params=PRIORS, ids=str)
def prior(request):
    return PRIORS[request.param]


def layers(prior):
    yield tp.BayesConv2d(3, 5, 3, padding=1, prior=prior), torch.randn(2, 3, 8, 8)
    if not isinstance(tp.get_prior(prior), tp.DecoderPrior):
        yield tp.BayesLinear(7, 5, prior=prior), torch.randn(2, 7)


@pytest.mark.parametrize("case", CONVS, ids=str)
def test_conv_computes_what_torch_computes(case, prior):
    args, kwargs = CONVS[case]["args"], CONVS[case]["kwargs"]
    bayes, plain = tp.BayesConv2d(*args, **kwargs, prior=prior), nn.Conv2d(*args, **kwargs)
    x = torch.randn(2, 4, 9, 10)
    with tp.posterior_mean(bayes), torch.no_grad():
        plain.weight.copy_(bayes.weight_posterior.mean())
        if plain.bias is not None:
            bayes.bias_posterior.loc.normal_()
            plain.bias.copy_(bayes.bias_posterior.mean())
        torch.testing.assert_close(bayes(x), plain(x))
        torch.testing.assert_close(bayes(x[0]), plain(x[0]))


def test_linear_computes_what_torch_computes():
    layer, x = tp.BayesLinear(7, 5), torch.randn(4, 3, 7)
    with tp.posterior_mean(layer), torch.no_grad():
        weight, bias = layer.weight_posterior.mean(), layer.bias_posterior.mean()
        torch.testing.assert_close(layer(x), F.linear(x, weight, bias))


def test_every_parameter_gets_a_finite_gradient(prior):
    for layer, x in layers(prior):
        (layer(x).square().mean() + 1e-3 * layer.kl()).backward()
        for name, parameter in layer.named_parameters():
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
            assert parameter.grad.abs().sum() > 0, name


def test_forward_samples_and_posterior_mean_does_not(prior):
    for layer, x in layers(prior):
        layer.eval()
        assert not torch.equal(layer(x), layer(x))
        with tp.posterior_mean(layer):
            assert torch.equal(layer(x), layer(x))
        assert not torch.equal(layer(x), layer(x))


def test_sample_shape_and_moments_of_the_posterior(prior):
    """Means of 20,000 draws against the closed-form mean: 5 standard errors, false alarm 6e-7 a weight."""
    posterior = tp.get_prior(prior).posterior((3, 2, 3, 3))
    with torch.no_grad():
        draws = posterior.rsample((4, 5000))
        assert draws.shape == (4, 5000, 3, 2, 3, 3)
        draws = draws.flatten(0, 1)
        error = (draws.mean(0) - posterior.mean()).abs() / (draws.std(0) / math.sqrt(len(draws)))
    assert error.max() < 5


def test_prior_draws_have_the_promised_energy(prior):
    """E|w_oi|^2 = gain^2 / in, within 5 standard errors over 64,000 kernels."""
    law = tp.get_prior(prior)
    energy = law.sample((400, 160, 3, 3)).square().sum((-1, -2)).flatten()
    expected = 9 * law.scale**2 if getattr(law, "scale", None) else law.gain**2 / 160
    assert abs(energy.mean() - expected) < 5 * energy.std() / math.sqrt(len(energy))


def test_posterior_starts_as_diverse_as_the_prior(prior):
    """The posterior starts around a draw from the prior: the same energy, within 15 percent."""
    law = tp.get_prior(prior)
    start = law.posterior((64, 32, 3, 3)).rsample().square().sum((-1, -2)).mean()
    draw = law.sample((64, 32, 3, 3)).square().sum((-1, -2)).mean()
    assert 0.85 < start / draw < 1.15


def test_gaussian_kl_is_torchs():
    posterior = tp.Gaussian(0.3).posterior((5, 7))
    q = torch.distributions.Normal(posterior.loc, posterior.log_scale.exp())
    p = torch.distributions.Normal(0.0, 0.3)
    torch.testing.assert_close(posterior.kl(), torch.distributions.kl_divergence(q, p).sum())


def test_decoder_kl_is_the_sum_of_its_parts():
    posterior = tp.DecoderPrior.from_pretrained("klein-3x3").posterior((4, 3, 3, 3))
    with torch.no_grad():
        posterior.latent_log_scale.normal_(-1.5, 0.7)
        posterior.amplitude_log_scale.normal_(-1, 0.5)
    K = tp.KleinBottle()
    latent = tp.WrappedNormal(K, posterior.latent_loc, posterior.latent_log_scale.exp())
    q = torch.distributions.Normal(posterior.amplitude_loc, posterior.amplitude_log_scale.exp())
    amplitudes = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).sum()
    torch.testing.assert_close(posterior.kl(), tp.cover_kl(latent, tp.UniformOn(K)).sum() + amplitudes)
    exact = torch.distributions.kl_divergence(latent, tp.UniformOn(K)).sum() + amplitudes
    assert exact <= posterior.kl() <= exact + 12 * math.log(2)


def test_decoder_posterior_weights_are_alpha_decode_beta():
    prior = tp.DecoderPrior.from_pretrained("klein-3x3")
    posterior = prior.posterior((4, 3, 3, 3))
    with torch.no_grad():
        posterior.latent_log_scale.fill_(-30)
        posterior.amplitude_log_scale.fill_(-30)
    alpha_scale, beta_scale = prior.scales((4, 3, 3, 3))
    alpha, beta = posterior.amplitude_loc[..., None, None].unbind(2)
    expected = alpha_scale * alpha * prior.decode(posterior.latent_loc) + beta_scale * beta / 3
    torch.testing.assert_close(posterior.rsample(), expected)
    torch.testing.assert_close(posterior.mean(), expected)


def test_parameter_count_is_below_a_plain_conv():
    count = sum(p.numel() for p in tp.BayesConv2d(64, 128, 3, bias=False).parameters())
    assert count == 8 * 64 * 128
    assert count < nn.Conv2d(64, 128, 3, bias=False).weight.numel()


def test_model_functions():
    net = nn.Sequential(
        tp.BayesConv2d(3, 8, 3),
        nn.ReLU(),
        nn.Dropout(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        tp.BayesLinear(8, 4),
    )
    x = torch.randn(6, 3, 8, 8)
    torch.testing.assert_close(tp.kl_divergence(net), net[0].kl() + net[5].kl())
    assert tp.kl_divergence(nn.Linear(2, 2)) == 0
    net.train()
    probabilities = tp.predict(net, x, num_samples=16)
    assert probabilities.shape == (16, 6, 4)
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(16, 6))
    assert (probabilities.std(0) > 0).all()
    assert all(module.training for module in net.modules()), "predict restores the training mode"
    torch.manual_seed(0)
    whole = tp.predict(net, x, 5)
    torch.manual_seed(0)
    torch.testing.assert_close(tp.predict(net, x, 5, max_batch=4), whole)
    with pytest.raises(ValueError, match="num_samples"):
        tp.predict(net, x, 0)


def test_deepcopy_pickle_state_dict_round_trip(prior):
    for layer, x in layers(prior):
        same = [copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))]
        buffer = io.BytesIO()
        torch.save(layer.state_dict(), buffer)
        buffer.seek(0)
        fresh = copy.deepcopy(layer)
        fresh.reset_parameters()
        fresh.load_state_dict(torch.load(buffer, weights_only=True), strict=True)
        for other in [*same, fresh]:
            with tp.posterior_mean(layer), tp.posterior_mean(other):
                assert torch.equal(layer(x), other(x))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dtypes(dtype, prior):
    layer = tp.BayesConv2d(3, 5, 3, prior=prior, dtype=dtype)
    assert layer(torch.randn(2, 3, 8, 8, dtype=dtype)).dtype == dtype
    assert torch.isfinite(layer.kl())
    assert layer.to(torch.float32)(torch.randn(2, 3, 8, 8)).dtype == torch.float32


def test_default_dtype_float64(prior):
    torch.set_default_dtype(torch.float64)
    try:
        layer = tp.BayesConv2d(3, 5, 3, prior=prior)
        assert layer(torch.randn(2, 3, 8, 8)).dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.slow
def test_compile_fullgraph(prior):
    for layer, x in layers(prior):
        step = torch.compile(lambda x, layer=layer: (layer(x).mean(), layer.kl()), fullgraph=True)
        with tp.posterior_mean(layer):
            torch.testing.assert_close(step(x), (layer(x).mean(), layer.kl()))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tp.BayesConv2d(3, 4, 3, prior="klien-3x3"), "did you mean 'klein-3x3'"),
        (lambda: tp.BayesConv2d(3, 4, 5), "decodes 3x3 kernels, found 5x5"),
        (lambda: tp.BayesLinear(3, 4, prior="klein-3x3"), "linear layer"),
        (lambda: tp.BayesConv2d(3, 4, 3, groups=2), "divisible"),
        (lambda: tp.BayesConv2d(3, 4, 3, padding_mode="mirror"), "padding_mode"),
        (lambda: tp.BayesLinear(0, 4), "in_features"),
        (lambda: tp.Gaussian(-1.0), "scale"),
        (lambda: tp.DecoderPrior.from_pretrained("klein-3x3", mean_fraction=1.5), "decoder prior"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_prior_of_a_wrong_type():
    with pytest.raises(TypeError, match="WeightPrior"):
        tp.BayesConv2d(3, 4, 3, prior=3)


def test_a_prior_of_ones_own():
    class Doubled(tp.Gaussian):
        def std(self, shape):
            return 2 * super().std(shape)

    tp.register_prior("doubled", Doubled)
    layer = tp.BayesLinear(50, 50, prior="doubled")
    assert layer.weight_posterior.prior_scale == pytest.approx(2 * math.sqrt(2 / 50))
