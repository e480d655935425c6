"""Kernels decoded from a space: the fast path against the plain formula, projections against brute force."""

import math

import pytest
import torch

import topoprior as tp
from topoprior.kernels.klein import klein_kernels, sample_klein_kernels
from topoprior.priors.decoded.distill import fewest_harmonics
from topoprior.priors.decoded.draw import Decode
from topoprior.priors.decoded.pixels import How
from topoprior.priors.kl import latent_kl
from topoprior.spaces.flat.harmonics import Harmonics
from topoprior.spaces.flat.waves import ProductWaves

SPACES = {
    "circle": tp.Circle(),
    "torus": tp.Torus(2),
    "torus, periods": tp.FlatManifold(torch.diag(torch.tensor([2.0, 0.5]))),
    "klein": tp.KleinBottle(),
    "klein 3": tp.KleinBottle(3),
    "half turn": tp.HalfTurnManifold(),
    "hantzsche-wendt": tp.HantzscheWendt(),
    "axes swapped": tp.FlatManifold(torch.tensor([[0.0, 1.0], [-2.0, 0.0]])),
}


@pytest.fixture(params=SPACES, ids=str)
def decoder(request):
    """A random decoder on the space: harmonics, coefficients."""
    harmonics = Harmonics(SPACES[request.param], 12)
    generator = torch.Generator().manual_seed(0)
    return harmonics, torch.randn(12, 4, generator=generator, dtype=torch.float64)


def test_products_of_waves_are_the_harmonics(decoder):
    harmonics, coefficients = decoder
    waves = ProductWaves(harmonics, coefficients)
    x = 5 * torch.rand(40, harmonics.covering.dim, dtype=torch.float64) - 2
    rows = torch.stack(waves.rows(x.T), -1)
    torch.testing.assert_close(rows @ waves.matrix, harmonics(x) @ coefficients, rtol=0, atol=1e-12)


def test_slopes_of_waves_are_autograds(decoder):
    harmonics, coefficients = decoder
    waves = ProductWaves(harmonics, coefficients)
    x = torch.rand(30, harmonics.covering.dim, dtype=torch.float64).requires_grad_()
    weights = torch.randn(len(waves.products), 30, dtype=torch.float64)
    value = sum(w * row for w, row in zip(weights, waves.rows(x.T), strict=True))
    (expected,) = torch.autograd.grad(value.sum(), x)
    with torch.no_grad():
        found, slopes = waves.gradient(x.T, weights.unbind())
        values, by_product = waves.values_and_slopes(x.T)
    torch.testing.assert_close(found, value.detach())
    torch.testing.assert_close(torch.stack(slopes, -1), expected)
    torch.testing.assert_close((values * weights).sum(0), value.detach())
    torch.testing.assert_close((by_product * weights).sum(1).T, expected)


def test_decay_of_waves_is_the_harmonics_mean(decoder):
    harmonics, coefficients = decoder
    waves = ProductWaves(harmonics, coefficients)
    loc, scale = torch.rand(2, 20, harmonics.covering.dim, dtype=torch.float64).unbind()
    shrunk = torch.stack(
        [r * d for r, d in zip(waves.rows(loc.T), waves.decay(scale.unbind(-1)), strict=True)], -1
    )
    expected = harmonics.mean(loc, scale) @ coefficients
    torch.testing.assert_close(shrunk @ waves.matrix, expected, rtol=0, atol=1e-12)


PRIORS = {"klein": dict(), "residual": dict(residual_fraction=0.1)}


def test_weights_are_alpha_decode_plus_beta():
    prior = tp.DecoderPrior.from_pretrained("klein-3x3")
    posterior = prior.posterior((4, 3, 3, 3))
    with torch.no_grad():
        posterior.log_scale.fill_(-30)
    scale = prior.scales((4, 3, 3, 3))
    alpha, beta = posterior.loc[2:, ..., None, None]
    expected = scale.alpha * alpha * prior.decode(posterior.latent_loc) + scale.beta * beta / 3
    torch.testing.assert_close(posterior.rsample(), expected)
    torch.testing.assert_close(posterior.mean(), expected)
    assert scale.alpha**2 + scale.beta**2 == pytest.approx(prior.gain**2 / 3)


@pytest.mark.parametrize("blocks", [1, 7])
def test_fast_gradient_is_the_numerical_one(blocks, monkeypatch):
    posterior = tp.DecoderPrior.from_pretrained("klein-3x3").posterior((7, 2, 3, 3), dtype=torch.float64)
    monkeypatch.setattr("topoprior.priors.decoded.draw._BLOCK", 14 * 3 // blocks)
    noise = torch.randn(3, 4, 7, 2, dtype=torch.float64)
    inputs = (posterior.loc, posterior.log_scale)

    def decode(loc, log_scale):
        return Decode.apply(loc, log_scale, noise, How(posterior.decoder.pixels, posterior.scales))[0]

    assert torch.autograd.gradcheck(decode, inputs)
    assert torch.autograd.gradgradcheck(decode, inputs)


def test_kl_gradient_is_the_numerical_one():
    posterior = tp.DecoderPrior.from_pretrained("klein-3x3").posterior((3, 2, 3, 3), dtype=torch.float64)
    posterior.log_scale.data.normal_(-1.5, 0.7)
    inputs = (posterior.loc, posterior.log_scale)

    def kl(loc, log_scale):
        return latent_kl(loc, log_scale, posterior.decoder.waves.periods)

    assert torch.autograd.gradcheck(kl, inputs)
    assert torch.autograd.gradgradcheck(kl, inputs)


def test_kl_of_many_is_the_sum_of_their_kls():
    prior = tp.DecoderPrior.from_pretrained("klein-3x3")
    net = torch.nn.Sequential(
        tp.BayesConv2d(3, 4, 3),
        tp.BayesConv2d(4, 5, 3, prior=tp.DecoderPrior.from_pretrained("klein-3x3", residual_fraction=0.2)),
        tp.BayesConv2d(5, 6, 5, prior="gaussian"),
        tp.BayesConv2d(6, 70, 5, prior="gaussian"),
        tp.BayesLinear(7, 8, prior="laplace"),
        tp.BayesConv2d(3, 2, 3, prior=tp.FixedKernels(prior)),
        tp.BayesConv2d(3, 4, 3, dtype=torch.bfloat16),
    )
    torch.testing.assert_close(tp.kl_divergence(net), sum(layer.kl().float() for layer in net))


def test_vmap_and_grad_of_the_decoder():
    posterior = tp.DecoderPrior.from_pretrained("klein-3x3").posterior((3, 2, 3, 3), dtype=torch.float64)
    parameters = {k: v.detach() for k, v in posterior.named_parameters()}
    noise = torch.randn(5, 4, 3, 2, dtype=torch.float64)

    def energy(parameters, noise):
        how = How(posterior.decoder.pixels, posterior.scales)
        return Decode.apply(parameters["loc"], parameters["log_scale"], noise, how)[0].square().sum()

    each = torch.func.vmap(torch.func.grad(energy), in_dims=(None, 0))(parameters, noise)
    for i in range(5):
        one = torch.func.grad(energy)(parameters, noise[i])
        torch.testing.assert_close({k: v[i] for k, v in each.items()}, one)


def test_eight_numbers_a_kernel():
    count = sum(p.numel() for p in tp.BayesConv2d(64, 128, 3, bias=False).parameters())
    assert count == 8 * 64 * 128


# --- projection ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["klein", "residual"])
def test_projection_finds_kernels_that_the_prior_drew(name):
    prior = tp.DecoderPrior.from_pretrained("klein-3x3", **PRIORS[name])
    plain = tp.DecoderPrior.from_pretrained("klein-3x3")
    weight = plain.sample((32, 16, 3, 3)).double()
    posterior = prior.posterior((32, 16, 3, 3), dtype=torch.float64)
    residual = posterior.project_(weight)
    # A latent scale of 1/200 of a period blurs the fastest wave by .4%, most of which alpha makes good.
    assert residual < (2e-3 if name == "klein" else 1e-12)
    torch.testing.assert_close((posterior.mean().detach() - weight).norm(), residual * weight.norm())


def test_projection_is_the_best_of_a_dense_search():
    """On random kernels, none of which the prior can decode: no point of a grid of 200 x 200 is better.

    Of two basins of nearly the same depth the search may pick the wrong one by less than one percent.
    """
    prior = tp.DecoderPrior.from_pretrained("klein-3x3", init_latent_scale=1e-5)
    weight = torch.randn(200, 1, 3, 3, dtype=torch.float64)
    posterior = prior.posterior((200, 1, 3, 3), dtype=torch.float64)
    posterior.project_(weight)
    found = (posterior.mean() - weight).flatten(1).norm(dim=1)
    line = torch.arange(200, dtype=torch.float64) / 200
    decoded = prior.decode(torch.cartesian_prod(2 * line, line)).flatten(1)
    basis = torch.stack([decoded, torch.full_like(decoded, 1 / 3)], -1)
    q = torch.linalg.qr(basis).Q
    flat = weight.flatten(1)
    explained = torch.einsum("gkj,nk->gnj", q, flat).square().sum(-1).amax(0)
    best = (flat.square().sum(1) - explained).clamp(min=0).sqrt()
    assert (found <= 1.01 * best).all()
    assert (found <= best + 1e-6).double().mean() > 0.97


def test_projection_of_zero_and_of_one_kernel_size_only():
    posterior = tp.DecoderPrior.from_pretrained("klein-3x3").posterior((2, 2, 3, 3))
    assert posterior.project_(torch.zeros(2, 2, 3, 3)) == 0
    assert all(torch.isfinite(p).all() for p in posterior.parameters())
    with pytest.raises(ValueError, match="weight: expected shape"):
        posterior.project_(torch.zeros(2, 2, 5, 5))


def test_fixed_kernels_project_by_least_squares():
    posterior = tp.FixedKernels().posterior((6, 5, 3, 3), dtype=torch.float64)
    weight = torch.randn(6, 5, 3, 3, dtype=torch.float64)
    before = posterior.latents.clone()
    posterior.project_(weight)
    assert torch.equal(posterior.latents, before)
    filters = posterior.prior.source.decode(before).flatten(2)
    basis = torch.stack([filters, torch.full_like(filters, 1 / 3)], -1)
    solution = torch.linalg.lstsq(basis, weight.flatten(2)[..., None]).solution
    torch.testing.assert_close(posterior.mean().flatten(2), (basis @ solution).squeeze(-1))


# --- the simplest harmonics --------------------------------------------------------------------------


def test_a_decoder_in_bent_coordinates_is_straightened():
    """Klein kernels decoded through a diffeomorphism of K need many harmonics; five serve after refitting."""

    def bend(x):
        u, v = x.unbind(-1)
        # Commutes with the group: odd in v, and even with u's half period where it moves u.
        return torch.stack([u + 0.03 * (2 * math.pi * u).sin(), v + 0.02 * (2 * math.pi * v).sin()], -1)

    prior = tp.DecoderPrior.from_decoder(
        lambda x: klein_kernels(bend(x)), tp.KleinBottle(), (3, 3), num_harmonics=40
    )
    assert prior.harmonics.num_features > 10
    kernels = sample_klein_kernels(1500, generator=torch.Generator().manual_seed(0))[0]
    simple = prior.simplified(kernels, mean_fraction=0.2)
    assert simple.harmonics.num_features == 5
    assert simple.mean_fraction == 0.2
    posterior = simple.posterior((1500, 1, 3, 3), dtype=torch.float64)
    assert posterior.project_(kernels[:, None].double()) < 2e-3


def test_fewest_harmonics_keeps_what_the_kernels_need():
    """Seven independent waves in the data: five are not taken for enough."""
    harmonics = Harmonics(tp.Torus(2), 9)
    generator = torch.Generator().manual_seed(1)
    coefficients = torch.randn(9, 12, generator=generator, dtype=torch.float64)
    kernels = harmonics(torch.rand(800, 2, generator=generator, dtype=torch.float64)) @ coefficients
    _, _, error = fewest_harmonics(harmonics, coefficients, kernels)
    assert error < 2e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(mean_fraction=1.5), "mean_fraction"),
        (dict(residual_fraction=-0.1), "residual_fraction"),
        (dict(residual_fraction=0.95), "residual_fraction"),
        (dict(init_scale=0.0), "init_scale"),
    ],
)
def test_bad_options_are_named(options, message):
    harmonics = Harmonics(tp.KleinBottle(), 5)
    with pytest.raises(ValueError, match=message):
        tp.DecoderPrior(harmonics, torch.randn(5, 9), (3, 3), **options)


def test_fixed_kernels_refuse_a_residual():
    with pytest.raises(ValueError, match="residual_fraction"):
        tp.FixedKernels(tp.DecoderPrior.from_pretrained("klein-3x3", residual_fraction=0.1))
