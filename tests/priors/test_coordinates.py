"""Whitened coordinates of every prior: what they stand for, against torch.distributions and the priors' own draws."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

import topoprior as tp
from topoprior.priors import Coordinates, DeltaPosterior

SHAPE = (6, 5, 3, 3)
PRIORS = {
    "gaussian": tp.Gaussian(),
    "laplace": tp.Laplace(gain=0.7),
    "student-t": tp.StudentT(df=4.0),
    "cauchy": tp.StudentT(scale=0.3, df=1.0),
    "scale-mixture": tp.ScaleMixture(pi=0.3, ratio=0.1),
    "correlated-gaussian": tp.CorrelatedGaussian(lengthscale=1.5),
}


@pytest.fixture(params=PRIORS)
def prior(request: pytest.FixtureRequest) -> tp.WeightPrior:
    return PRIORS[request.param]


def weights_law(prior: tp.WeightPrior) -> torch.distributions.Distribution:
    """The law of weights of SHAPE from torch.distributions, a kernel an event."""
    d = torch.distributions
    std = prior.scale_of(SHAPE)
    zero = torch.zeros(SHAPE, dtype=torch.float64)
    if isinstance(prior, tp.CorrelatedGaussian):
        covariance = std**2 * prior.covariance(SHAPE[2:])
        return d.MultivariateNormal(zero.flatten(2), covariance)
    if isinstance(prior, tp.Laplace):
        return d.Independent(d.Laplace(zero, std), 4)
    if isinstance(prior, tp.StudentT):
        return d.Independent(d.StudentT(prior.df, zero, std), 4)
    if isinstance(prior, tp.ScaleMixture):
        weights = torch.tensor([prior.pi, 1 - prior.pi], dtype=torch.float64).expand(*SHAPE, 2)
        stds = std * torch.tensor([1.0, prior.ratio], dtype=torch.float64).expand(*SHAPE, 2)
        parts = d.Normal(torch.zeros(*SHAPE, 2).double(), stds)
        return d.Independent(d.MixtureSameFamily(d.Categorical(weights), parts), 4)
    return d.Independent(d.Normal(zero, std), 4)


def log_jacobian(coordinates: Coordinates) -> float:
    """log |dw / du| of the whole tensor, by autograd: the map is linear."""
    x = coordinates.sample()["u"]
    jacobian = torch.autograd.functional.jacobian(lambda u: coordinates.weight({"u": u}), x)
    return torch.linalg.slogdet(jacobian.reshape(x.numel(), x.numel())).logabsdet.item()


def test_density_of_coordinates_is_that_of_the_weights_times_the_jacobian(prior: tp.WeightPrior) -> None:
    coordinates = prior.coordinates(SHAPE, dtype=torch.float64)
    x = coordinates.sample()
    law, w = weights_law(prior), coordinates.weight(x)
    expected = law.log_prob(w.flatten(2) if law.event_shape == (9,) else w).sum().item()
    found = coordinates.log_prob(x).item() - log_jacobian(coordinates)
    assert found == pytest.approx(expected, rel=1e-9)


def test_energy_is_minus_log_prob_up_to_a_constant(prior: tp.WeightPrior) -> None:
    coordinates = prior.coordinates(SHAPE, dtype=torch.float64)
    gaps = [
        (coordinates.energy(x) + coordinates.log_prob(x)).item()
        for x in (coordinates.sample(), coordinates.sample())
    ]
    assert gaps[0] == pytest.approx(gaps[1], abs=1e-9)
    if isinstance(prior, tp.Gaussian | tp.CorrelatedGaussian):
        u = coordinates.sample()["u"]
        assert coordinates.energy({"u": u}).item() == pytest.approx(0.5 * u.square().sum().item())
        assert gaps[0] == pytest.approx(-0.5 * math.log(2 * math.pi) * u.numel())


def test_invert_is_the_inverse(prior: tp.WeightPrior) -> None:
    coordinates = prior.coordinates(SHAPE, dtype=torch.float64)
    x = coordinates.sample()
    torch.testing.assert_close(coordinates.invert(coordinates.weight(x))["u"], x["u"])


def test_draws_are_the_priors(prior: tp.WeightPrior) -> None:
    """Kolmogorov-Smirnov, two samples of 9,000 numbers; false alarm 1e-6 a prior."""
    coordinates = prior.coordinates((100, 10, 3, 3))
    center = (..., 1, 1)  # independent ones of the correlated
    w = coordinates.weight(coordinates.sample())[center].flatten()
    other = torch.stack([prior.sample((100, 10, 3, 3))[center] for _ in range(8)]).flatten()
    assert stats.ks_2samp(w.numpy(), other.numpy()).pvalue > 1e-6


def test_a_law_with_variance_has_coordinates_of_std_1() -> None:
    for prior in (tp.Laplace(), tp.StudentT(df=8.0), tp.ScaleMixture()):
        coordinates = prior.coordinates((300, 100))
        variance = coordinates.sample()["u"].double().square()
        error = variance.std() / math.sqrt(variance.numel())
        assert abs(variance.mean() - 1) < 6 * error  # heavy tails: false alarm below 1e-5


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        (tp.Gaussian(empirical_bayes=True), "empirical_bayes"),
        (tp.LogUniform(), "prior: 1 / |w|"),
    ],
)
def test_priors_without_coordinates_say_why(prior: tp.WeightPrior, message: str) -> None:
    with pytest.raises(ValueError, match="^" + message.replace("|", r"\|")):
        prior.coordinates((4, 3))


def test_a_prior_of_ones_own_needs_a_density() -> None:
    class OnlyCrossEntropy(tp.MeanFieldPrior):
        def cross_entropy(self, loc, log_scale, scale):
            return loc.square()

    class NoPlainWeights(tp.WeightPrior):
        def posterior(self, shape, *, device=None, dtype=None):
            return tp.Gaussian().posterior(shape)

        def sample(self, shape):
            return torch.zeros(shape)

    with pytest.raises(ValueError, match="OnlyCrossEntropy needs log_prob"):
        OnlyCrossEntropy().coordinates((4, 3))
    with pytest.raises(ValueError, match="NoPlainWeights has no whitened coordinates"):
        DeltaPosterior(NoPlainWeights(), (4, 3))


def test_correlated_kernels_of_the_wrong_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="kernel_size"):
        tp.CorrelatedGaussian().coordinates((4, 3))


@pytest.mark.parametrize("name", ["klein-3x3", "torus-3x3"])
def test_decoded_weights_are_the_formula(name: str) -> None:
    prior = tp.get_prior(name)
    coordinates = prior.coordinates((6, 5, 3, 3), dtype=torch.float64)
    x = coordinates.sample()
    scale = prior.scales((6, 5, 3, 3))
    expected = scale.alpha * x["alpha"][..., None, None] * prior.decode(x["z"])
    expected = expected + scale.beta * x["beta"][..., None, None] / 3
    torch.testing.assert_close(coordinates.weight(x), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(coordinates.energy(x), (x["alpha"].square() + x["beta"].square()).sum() / 2)
    log_normal = torch.distributions.Normal(0.0, 1.0).log_prob
    log_prob = sum(log_normal(x[part]).sum() for part in ("alpha", "beta")) - 30 * math.log(
        prior.covering.volume
    )
    torch.testing.assert_close(coordinates.log_prob(x), log_prob)


@pytest.mark.parametrize("name", ["klein-3x3", "klein-5x5", "circle-3x3"])
def test_the_gradient_by_hand_is_that_of_the_formula(name: str) -> None:
    """To second order, and in a step under autocast whose weights have fewer digits."""
    prior = tp.get_prior(name)
    size = (4, 3, *prior.kernel_size)
    coordinates = prior.coordinates(size, dtype=torch.float64)
    x = {part: value.requires_grad_() for part, value in coordinates.sample().items()}

    def weight(*values: torch.Tensor) -> torch.Tensor:
        return coordinates.weight(dict(zip(x, values, strict=True)))

    assert torch.autograd.gradcheck(weight, tuple(x.values()))
    assert torch.autograd.gradgradcheck(weight, tuple(x.values()))
    cotangent = torch.randn(size)
    low = prior.coordinates(size)
    parts = [value.detach().float().requires_grad_() for value in x.values()]
    with torch.autocast("cpu", torch.bfloat16):
        half = low.weight(dict(zip(x, parts, strict=True)))
    found = torch.autograd.grad(half, parts, cotangent.to(half.dtype))
    expected = torch.autograd.grad(weight(*x.values()), list(x.values()), cotangent.double())
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=0.05, atol=0.05 * b.abs().max().item())


@pytest.mark.parametrize("name", ["klein-3x3", "torus-3x3"])
def test_deck_moves_change_neither_weights_nor_energy(name: str) -> None:
    prior = tp.get_prior(name)
    coordinates = prior.coordinates((6, 5, 3, 3), dtype=torch.float64)
    x = coordinates.sample()
    for lift in prior.covering.lifts(x["z"], 2.0).unbind(-2):
        moved = {**x, "z": lift}
        torch.testing.assert_close(coordinates.weight(moved), coordinates.weight(x), rtol=1e-6, atol=1e-6)
        assert torch.equal(coordinates.energy(moved), coordinates.energy(x))
        torch.testing.assert_close(coordinates.log_prob(moved), coordinates.log_prob(x))


def test_a_residual_takes_what_cannot_be_decoded() -> None:
    prior = tp.DecoderPrior.from_pretrained("klein-3x3", residual_fraction=0.2)
    posterior = DeltaPosterior(prior, (6, 5, 3, 3))
    assert posterior.project_(torch.randn(6, 5, 3, 3)) < 1e-5
    energy = sum(p.square().sum() / 2 for name, p in posterior.named_parameters() if name != "z")
    torch.testing.assert_close(posterior.kl(), energy)


def test_learned_scales_are_refused() -> None:
    prior = tp.DecoderPrior.from_pretrained("klein-3x3", empirical_bayes=True)
    with pytest.raises(ValueError, match="^empirical_bayes"):
        prior.coordinates((6, 5, 3, 3))
