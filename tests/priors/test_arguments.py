"""Priors: arguments that are refused, and what the package loads."""

import math
import subprocess
import sys

import pytest
import torch

import topoprior as tp
from topoprior.priors.registry import _PRIORS, prior_names
from topoprior.spaces import Harmonics

# --- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tp.Gaussian(-1.0), "scale: expected a positive number, found -1"),
        (lambda: tp.Laplace(gain=0.0), "gain"),
        (lambda: tp.Laplace(init_scale=math.nan), "init_scale"),
        (lambda: tp.StudentT(df=0), "df"),
        (lambda: tp.StudentT(df=2.0), "scale: StudentT has no variance"),
        (lambda: tp.StudentT(num_nodes=0), "num_nodes"),
        (lambda: tp.ScaleMixture(pi=1.0), r"pi: expected a number in \(0, 1\), found 1"),
        (lambda: tp.ScaleMixture(ratio=1.5), "ratio"),
        (lambda: tp.LogUniform(ratio=1.0), "ratio"),
        (lambda: tp.LogUniform(empirical_bayes=True), "empirical_bayes: expected False"),
        (lambda: tp.CorrelatedGaussian(lengthscale=0.0), "lengthscale"),
        (lambda: tp.CorrelatedGaussian().posterior((4, 3, 1, 1)), "at least 2, found .*4, 3, 1, 1"),
        (lambda: tp.EuclideanDecoderPrior.from_pretrained("klein-3x3"), "EuclideanDecoderPrior/1"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tp.Gaussian("0.3"), "scale: expected a number, found '0.3'"),
        (lambda: tp.Gaussian(True), "scale: expected a number, found True"),
        (lambda: tp.Gaussian(torch.ones(2)), "scale: expected a number, found tensor"),
        (lambda: tp.Laplace(gain="2"), "gain: expected a number, found '2'"),
        (lambda: tp.StudentT(df=None), "df: expected a number, found None"),
        (lambda: tp.ScaleMixture(pi="0.5"), "pi: expected a number, found '0.5'"),
        (lambda: tp.Gaussian(num_nodes=2.5), "num_nodes: expected an int, found 2.5"),
        (
            lambda: tp.DecoderPrior.from_pretrained("klein-3x3", mean_fraction="0.1"),
            "mean_fraction: .* '0.1'",
        ),
        (lambda: tp.DecoderPrior.from_pretrained("klein-3x3", gain=[1]), r"gain: .* found \[1\]"),
    ],
)
def test_arguments_of_a_wrong_type_are_named(make, message):
    with pytest.raises(TypeError, match=message):
        make()


@pytest.mark.parametrize(
    ("name", "factory", "error", "message"),
    [
        ("x", tp.Gaussian(), TypeError, "factory: expected a function or class .* found Gaussian"),
        ("x", None, TypeError, "factory: .* found NoneType"),
        ("x", int, TypeError, "factory: expected a class of priors, found int"),
        (3, tp.Gaussian, TypeError, "name: expected a string, found int"),
        ("", tp.Gaussian, ValueError, "name: .* found ''"),
    ],
)
def test_what_cannot_be_registered(name, factory, error, message):
    with pytest.raises(error, match=message):
        tp.register_prior(name, factory)
    assert prior_names() == [n for n in prior_names() if n not in ("x", "")]


def test_a_factory_of_something_else_is_named():
    tp.register_prior("x", lambda: 3)
    try:
        with pytest.raises(TypeError, match="registered as 'x' makes a int, expected a WeightPrior"):
            tp.BayesLinear(2, 2, prior="x")
    finally:
        del _PRIORS["x"]


@pytest.mark.parametrize("size", [(3,), (3, 3), (2, 3, 3)])
def test_kernels_of_any_dimension(size):
    """What a prior serves it draws, in the layer of that dimension."""
    prior = tp.DecoderPrior(Harmonics(tp.Circle(), 5), torch.randn(5, math.prod(size)), size)
    assert prior.serves((4, 2, *size))
    assert not prior.serves((4, 2, *size, 3))
    assert prior.sample((4, 2, *size)).shape == (4, 2, *size)
    layer = (tp.BayesConv1d, tp.BayesConv2d, tp.BayesConv3d)[len(size) - 1](2, 4, size, prior=prior)
    assert layer(torch.randn(1, 2, *size)).shape == (1, 4, *[1] * len(size))


# --- the package ----------------------------------------------------------------------------------


def test_import_reads_no_weights():
    code = (
        "import sys; seen = []\n"
        "sys.addaudithook(lambda e, a: seen.append(a[0]) if e == 'open' else None)\n"
        "import topoprior; print([s for s in seen if str(s).endswith('.safetensors')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("prior", "error", "message"),
    [
        (tp.Gaussian, TypeError, r"found the class Gaussian; give Gaussian\(...\)"),
        (3, TypeError, "prior: expected a name or a WeightPrior, found int"),
        ("euclidean", ValueError, "did you mean 'euclidean-3x3'"),
        ("gausian", ValueError, "did you mean 'gaussian'"),
    ],
)
def test_what_names_no_prior_gets_a_hint(prior, error, message):
    with pytest.raises(error, match=message):
        tp.get_prior(prior)
    assert "gaussian" in tp.prior_names()


def test_scale_mixture_of_a_posterior_that_is_a_point():
    """At std e^-50 the cross entropy is the density at the center; float32 in values and gradients."""
    posterior = tp.ScaleMixture().posterior((4, 5))
    with torch.no_grad():
        posterior.log_scale.fill_(-50)
    kl = posterior.kl()
    kl.backward()
    assert torch.isfinite(posterior.loc.grad).all()
    assert torch.isfinite(posterior.log_scale.grad).all()
    entropy = 20 * (0.5 * math.log(2 * math.pi * math.e) - 50)
    expected = -posterior.prior.log_prob(posterior.loc, posterior.scale()).sum() - entropy
    torch.testing.assert_close(kl, expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("size", [(9,), (1, 9), (1, 3, 3)])
def test_decoders_of_kernels_in_one_to_three_dimensions(size):
    klein = tp.get_prior("klein-3x3")
    prior = tp.DecoderPrior(klein.harmonics, klein.coefficients, size)
    shape = (2, 3, *size)
    assert prior.sample(shape).shape == prior.posterior(shape).rsample().shape == shape


@pytest.mark.parametrize("name", ["klein-3x3", "euclidean-3x3"])
def test_latents_that_are_integers_or_none(name):
    prior = tp.get_prior(name)
    z = torch.tensor([[0, 1], [1, -1]])
    assert torch.equal(prior.decode(z), prior.decode(z.float()))
    for bad in ([[0.0, 1.0]], None, z * 1j):
        with pytest.raises(TypeError, match="z: expected a torch.Tensor of real numbers"):
            prior.decode(bad)
    for bad in (torch.tensor(0.0), torch.zeros(3), torch.zeros(2, 1)):
        with pytest.raises(ValueError, match=r"z: expected shape \(\.\.\., 2\)"):
            prior.decode(bad)


@pytest.mark.parametrize("family", ["mean-field", "delta"])
@pytest.mark.parametrize("name", ["klein-3x3", "euclidean-3x3", "klein-fixed", "gaussian"])
def test_weights_that_cannot_be_projected(name, family):
    """Refused with the posterior as it was: NaN ended in an IndexError, integers in one of torch's."""
    layer = tp.BayesConv2d(2, 2, 3, prior=name, posterior=family)
    posterior, weight = layer.weight_posterior, torch.randn(2, 2, 3, 3)
    before = posterior.mean().clone()
    for bad in (weight.long(), weight.tolist(), weight.numpy(), weight * 1j):
        with pytest.raises(TypeError, match="weight: expected a torch.Tensor of floating-point numbers"):
            posterior.project_(bad)
    for value in (torch.nan, torch.inf):
        bad = weight.clone()
        bad[1, 1, 2, 0] = value
        with pytest.raises(ValueError, match="weight: expected finite values"):
            posterior.project_(bad)
    with pytest.raises(ValueError, match="weight: expected shape"):
        posterior.project_(weight[:1])
    assert torch.equal(posterior.mean(), before)


@pytest.mark.parametrize(
    "name", ["gaussian", "correlated-gaussian", "klein-3x3", "klein-fixed", "log-uniform"]
)
def test_a_width_that_is_none_changes_nothing(name):
    posterior = tp.get_prior(name).posterior((2, 3, 3, 3))
    before = {key: value.clone() for key, value in posterior.state_dict().items()}
    for std in (math.nan, 0.0, -1.0):
        with pytest.raises(ValueError, match="std: expected a positive number"):
            posterior.narrow_(std)
    assert all(torch.equal(value, before[key]) for key, value in posterior.state_dict().items())


def test_the_density_of_no_number_is_not_known():
    found = tp.LogUniform().log_prob(torch.tensor([math.nan, 0.05, math.inf]), torch.tensor(0.1))
    assert found[0].isnan()
    assert found[1].isfinite()
    assert found[2] == -math.inf


@pytest.mark.parametrize("shape", [(0, 3, 3, 3), (3, 0, 3, 3)])
@pytest.mark.parametrize("make", [tp.get_prior, tp.moment_matched, tp.linear_decoder, tp.FixedKernels])
def test_weights_of_no_channels(make, shape):
    prior = make("klein-3x3")
    assert prior.sample(shape).shape == shape
    posterior = prior.posterior(shape)
    assert posterior.rsample((2,)).shape == (2, *shape)
    posterior.project_(torch.zeros(shape))
    assert posterior.kl() == 0
