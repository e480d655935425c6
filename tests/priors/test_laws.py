"""Priors: one table, every law. The KL of each family against oracles: test_mean_field_kl.py, test_decoded_kl.py."""

import copy
import io
import pickle
from pathlib import Path

import pytest
import torch

import topoprior as tp
from topoprior.priors.registry import prior_names, priors_serving
from topoprior.testing import check_prior

BUILT_IN = prior_names()
PRIORS = {
    **{name: name for name in BUILT_IN},
    "gaussian, scale .3": tp.Gaussian(0.3),
    "student-t, 9 degrees": tp.StudentT(df=9, gain=1.0),
    "student-t, Cauchy": tp.StudentT(0.1, df=1),
    "scale-mixture, mild": tp.ScaleMixture(pi=0.2, ratio=0.5),
    "log-uniform, short": tp.LogUniform(ratio=0.1),
    "correlated-gaussian, far": tp.CorrelatedGaussian(lengthscale=4.0, gain=1.0),
    "klein-3x3, residual": tp.DecoderPrior.from_pretrained("klein-3x3", residual_fraction=0.3),
    "euclidean-3x3, no mean part": tp.EuclideanDecoderPrior.from_pretrained(
        "euclidean-3x3", mean_fraction=0.0
    ),
}
SHAPES = [(4, 3, 5), (4, 3, 3, 3), (2, 3, 5, 5), (2, 3, 7, 7), (2, 3, 3, 3, 3), (6, 1, 3, 3), (4, 7)]
HEAVY = ("student-t", "student-t, Cauchy")  # no fourth moment: nothing to test a second moment with


@pytest.fixture(params=PRIORS, ids=str)
def prior(request):
    return tp.get_prior(PRIORS[request.param])


def posteriors(prior):
    return [prior.posterior(shape) for shape in SHAPES if prior.serves(shape)]


def one_posterior(prior, *, channels=(4, 3), **options):
    return prior.posterior((*channels, *getattr(prior, "kernel_size", (3, 3))), **options)


def disturb(posterior, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in posterior.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator).to(parameter)
    return posterior


def test_every_name_is_documented():
    page = (Path(tp.__file__).parents[1] / "docs" / "concepts" / "priors.md").read_text(encoding="utf-8")
    assert [name for name in BUILT_IN if f"| `{name}`" not in page and f", `{name}`" not in page] == []
    assert {"gaussian", "klein-3x3", "klein-fixed", "klein-natural-3x3"} <= set(BUILT_IN)


@pytest.mark.parametrize("name", PRIORS)
def test_laws(name):
    check_prior(tp.get_prior(PRIORS[name]), heavy_tails=name in HEAVY)


def test_shapes_that_are_not_served_are_named(prior):
    for shape in SHAPES:
        if not prior.serves(shape):
            with pytest.raises(ValueError, match="priors that fit: .*gaussian"):
                prior.posterior(shape)
            with pytest.raises(ValueError, match="kernel"):
                prior.sample(shape)


def test_what_serves_a_linear_layer():
    linear = {"gaussian", "laplace", "log-uniform", "scale-mixture", "student-t"}
    assert set(priors_serving((4, 7))) & set(BUILT_IN) == linear


def test_antithetic(prior):
    posterior = one_posterior(prior)
    draws = posterior.rsample((4, 2), antithetic=True)
    assert draws.shape == (4, 2, *posterior.shape)
    if isinstance(posterior, tp.MeanFieldPosterior):
        torch.testing.assert_close(
            (draws[:2] + draws[2:]) / 2, posterior.mean().expand(2, 2, *posterior.shape)
        )
    assert not torch.equal(draws[0], draws[1])
    for shape in ((3,), ()):
        with pytest.raises(ValueError, match="even"):
            posterior.rsample(shape, antithetic=True)


def test_the_latent_mask_leaves_out_what_weights_are_linear_in(prior):
    """Without amplitudes there are no weights, whatever the latents; without a mask all of loc is amplitudes."""
    posterior = one_posterior(prior)
    mask = posterior.latent_mask()
    amplitudes = torch.ones_like(posterior.loc, dtype=torch.bool) if mask is None else ~mask
    assert amplitudes.shape == posterior.loc.shape
    with torch.no_grad():
        if mask is not None:
            before = posterior.mean().clone()
            posterior.loc[mask] += 0.1
            assert not torch.allclose(posterior.mean(), before)
        posterior.loc[amplitudes] = 0
        if getattr(posterior, "residual", None) is not None:
            posterior.residual.loc.zero_()
        assert posterior.mean().abs().max() == 0


def test_compile_says_whether_it_concerns_a_posterior(prior):
    posterior = one_posterior(prior)
    concerned = posterior.compile_(True)
    assert concerned is getattr(posterior, "compiled", False)
    posterior.compile_(False)
    assert not getattr(posterior, "compiled", False)


def test_every_parameter_gets_a_finite_gradient(prior):
    posterior = one_posterior(prior)
    (posterior().square().sum() + posterior.kl()).backward()
    for name, parameter in posterior.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_project_reaches_what_the_prior_can_represent(prior):
    posterior = one_posterior(prior, channels=(8, 4))
    # Fixed filters represent what is on them, and each posterior has filters of its own.
    weight = posterior().detach() if isinstance(prior, tp.FixedKernels) else prior.sample(posterior.shape)
    residual = posterior.project_(weight)
    assert residual.shape == ()
    full_support = isinstance(prior, tp.MeanFieldPrior) or getattr(prior, "residual_fraction", 0) > 0
    assert residual < (1e-5 if full_support else 0.05)
    left = (weight - posterior.mean()).norm() / weight.norm()
    torch.testing.assert_close(left, residual, atol=1e-4, rtol=1e-3)
    noise = torch.randn(posterior.shape)
    assert posterior.project_(noise) < (1e-5 if full_support else 1)
    with pytest.raises(ValueError, match="weight: expected shape"):
        posterior.project_(noise[0])


def test_copies_pickles_and_state_dicts(prior):
    posterior = disturb(one_posterior(prior))
    buffer = io.BytesIO()
    torch.save(posterior.state_dict(), buffer)
    buffer.seek(0)
    loaded = one_posterior(prior)
    loaded.load_state_dict(torch.load(buffer, weights_only=True), strict=True)
    for same in (copy.deepcopy(posterior), pickle.loads(pickle.dumps(posterior)), loaded):
        assert torch.equal(same.mean(), posterior.mean())
        assert torch.equal(same.kl(), posterior.kl())


def test_autocast_leaves_the_kl_alone(prior):
    posterior = disturb(one_posterior(prior))
    parameters = list(posterior.parameters())
    expected = posterior.kl()
    with torch.autocast("cpu", torch.bfloat16):
        kl = posterior.kl()
    assert kl.dtype == torch.float32
    assert torch.equal(kl, expected)
    for found, wanted in zip(
        torch.autograd.grad(kl, parameters), torch.autograd.grad(expected, parameters), strict=True
    ):
        assert torch.equal(found, wanted)


def test_kl_past_the_largest_float16(prior):
    """4,096 kernels at 300 prior stds: Gaussian KLs are some 1e8 nats, and finite."""
    posterior = one_posterior(prior, channels=(64, 64), dtype=torch.float16)
    with torch.no_grad():
        for name, parameter in posterior.named_parameters():
            if name.endswith("loc"):
                parameter.mul_(300).clamp_(-6e4, 6e4)
    kl = posterior.kl()
    assert torch.isfinite(kl)
    torch.testing.assert_close(kl.double(), copy.deepcopy(posterior).double().kl(), rtol=0.01, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_dtypes(dtype, prior):
    posterior = one_posterior(prior, channels=(16, 8), dtype=dtype)
    assert posterior.rsample((2,)).dtype == posterior.mean().dtype == dtype
    in_double = copy.deepcopy(posterior).double()
    torch.testing.assert_close(posterior.kl().double(), in_double.kl(), rtol=0.03, atol=0)
    assert posterior.float()().dtype == torch.float32


def test_default_dtype_float64(prior):
    torch.set_default_dtype(torch.float64)
    try:
        posterior = one_posterior(prior)
        assert posterior().dtype == posterior.mean().dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.slow
def test_compile_fullgraph(prior):
    torch._dynamo.reset()  # the cases share one line of code, and its limit of compilations
    posterior = disturb(one_posterior(prior))
    step = torch.compile(
        lambda: (posterior.rsample().sum(), posterior.mean(), posterior.kl()), fullgraph=True
    )
    _, mean, kl = step()
    torch.testing.assert_close((mean, kl), (posterior.mean(), posterior.kl()))
