"""KL of every family of priors against oracles: torch.distributions, scipy quadrature, Monte Carlo."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats
from torch.distributions import MultivariateNormal, Normal, kl_divergence

import topoprior as tp
from topoprior.priors.mean_field.expectation import expectation, legendre_rule

FAMILIES = {
    "gaussian": tp.Gaussian(),
    "laplace": tp.Laplace(),
    "student-t": tp.StudentT(),
    "student-t, Cauchy": tp.StudentT(0.7, df=1),
    "scale-mixture": tp.ScaleMixture(),
    "scale-mixture, mild": tp.ScaleMixture(pi=0.25, ratio=0.3),
}
# log densities at scale 1, from scipy
ORACLES = {
    "gaussian": stats.norm().logpdf,
    "laplace": lambda w: -np.abs(w) - math.log(2),  # scipy's underflows far out
    "student-t": stats.t(3).logpdf,
    "student-t, Cauchy": stats.cauchy().logpdf,
    "scale-mixture": lambda w: mixture(w, 0.5, math.exp(-6)),
    "scale-mixture, mild": lambda w: mixture(w, 0.25, 0.3),
}
ERRORS = {"scale-mixture": 5e-7, "scale-mixture, mild": 5e-7}  # stated, a weight, in nats; others exact


def mixture(w, pi, ratio):
    parts = np.stack([stats.norm.logpdf(w), stats.norm.logpdf(w, scale=ratio)])
    return special.logsumexp(parts, axis=0, b=np.array([pi, 1 - pi]).reshape(-1, *[1] * np.ndim(w)))


def by_quadrature(log_prob, m, s, fine):
    """-E log p under N(m, s^2), split where the integrand bends: 1e-9."""
    cuts = {m + k * s for k in (-11, -6, -3, -1, 0, 1, 3, 6, 11)} | {0.0}
    cuts |= {sign * fine * 10**e for e in np.arange(-3, 7, 0.5) for sign in (1, -1)}
    cuts = sorted(c for c in cuts if abs(c - m) <= 11.01 * s)
    nodes, weights = np.polynomial.legendre.leggauss(40)
    lo, hi = np.array(cuts[:-1])[:, None], np.array(cuts[1:])[:, None]
    w = (lo + hi) / 2 + (hi - lo) / 2 * nodes
    q = np.exp(-0.5 * ((w - m) / s) ** 2) / (s * math.sqrt(2 * math.pi))
    return -((hi - lo) / 2 * weights * log_prob(w) * q).sum()


def test_the_oracle_against_scipy():
    for name, log_prob in ORACLES.items():
        expected, _ = integrate.quad(
            lambda w, f=log_prob: -f(w) * stats.norm.pdf(w, 0.4, 0.5), -5.4, 6.4, points=[0], limit=300
        )
        assert by_quadrature(log_prob, 0.4, 0.5, 1.0) == pytest.approx(expected, abs=1e-7), name


@pytest.mark.parametrize("name", FAMILIES)
def test_cross_entropy_over_six_decades_of_scale(name):
    """Posterior stds from 1e-3 to 1e3 prior scales (of the narrow part too), means up to 1000 stds."""
    prior, fine = FAMILIES[name], {"scale-mixture": math.exp(-6), "scale-mixture, mild": 0.3}.get(name, 1.0)
    ratios = (0, 0.3, 1, 2, 3.5, 4, 4.5, 5, 6.4, 8, 30, 1000)
    grid = [(r * s * fine, s * fine) for s in 10.0 ** np.arange(-3, 3.01, 0.5) for r in ratios]
    m, s = torch.tensor(grid, dtype=torch.float64).unbind(-1)
    one = torch.ones(prior.num_scales, dtype=torch.float64).squeeze()
    found = prior.cross_entropy(m, s.log(), one).numpy()
    expected = np.array([by_quadrature(ORACLES[name], a, b, fine) for a, b in grid])
    error = np.abs(found - expected) / np.maximum(1, 1e-3 * np.abs(expected))
    assert error.max() < ERRORS.get(name, 5e-8)  # the oracle is right to 1e-9 of what may be thousands
    in_single = prior.cross_entropy(m.float(), s.log().float(), one.float())
    np.testing.assert_allclose(in_single, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [*FAMILIES, "log-uniform"])
def test_kl_against_monte_carlo(name):
    """E_q[log q - log p] over 400,000 draws: 5 standard errors, false alarm 6e-7."""
    prior = FAMILIES.get(name) or tp.LogUniform()
    posterior = prior.posterior((2, 3, 1, 1), dtype=torch.float64)
    scale = posterior.scale()
    with torch.no_grad():
        unit = scale.flatten()[0]
        posterior.loc.copy_(unit * torch.linspace(-0.9, 0.9, 6).view_as(posterior.loc))
        posterior.log_scale.fill_(math.log(0.3 * unit))
        if name == "log-uniform":  # inside the support, where the KL is the KL
            posterior.loc.abs_()
            posterior.log_scale.fill_(math.log(0.01 * unit))
        w = posterior.rsample((400_000,))
        log_q = Normal(posterior.loc, posterior.log_scale.exp()).log_prob(w)
        terms = (log_q - prior.log_prob(w, scale)).flatten(1).sum(-1)
    assert abs(terms.mean() - posterior.kl()) < 5 * terms.std() / math.sqrt(len(terms))


@pytest.mark.parametrize("name", FAMILIES)
def test_kl_is_at_least_zero_and_gradients_are_its_slopes(name):
    """Against central differences of the oracle's quadrature, through loc, log_scale and scale."""
    prior = FAMILIES[name]
    torch.manual_seed(1)
    loc = torch.randn(12, dtype=torch.float64, requires_grad=True)
    log_scale = (torch.randn(12, dtype=torch.float64) - 1).requires_grad_()
    scale = torch.tensor([0.8, 1.3][: prior.num_scales], dtype=torch.float64).squeeze().requires_grad_()
    assert prior.kl(loc, log_scale, scale) >= 0
    assert torch.autograd.gradcheck(prior.kl, (loc, log_scale, scale), atol=2e-5)
    inputs = (loc, log_scale)
    of_loc, of_scale = torch.autograd.grad(
        prior.cross_entropy(*inputs, torch.ones_like(scale)).sum(), inputs
    )
    fine, h = {"scale-mixture": math.exp(-6)}.get(name, 1.0), 1e-4
    for i in range(12):
        m, t = loc[i].item(), log_scale[i].item()
        value = [by_quadrature(ORACLES[name], m + d, math.exp(t), fine) for d in (-h, h)]
        assert of_loc[i].item() == pytest.approx((value[1] - value[0]) / (2 * h), abs=1e-5)
        value = [by_quadrature(ORACLES[name], m, math.exp(t + d), fine) for d in (-h, h)]
        assert of_scale[i].item() == pytest.approx((value[1] - value[0]) / (2 * h), abs=1e-5)


def test_gaussian_kl_is_torchs():
    posterior = tp.Gaussian(0.3).posterior((5, 7))
    q = Normal(posterior.loc, posterior.log_scale.exp())
    torch.testing.assert_close(posterior.kl(), kl_divergence(q, Normal(0.0, 0.3)).sum())
    same = tp.Gaussian().cross_entropy(posterior.loc, posterior.log_scale, torch.tensor(0.3)) - q.entropy()
    torch.testing.assert_close(posterior.kl(), same.sum())


def test_mixture_with_scales_that_have_changed_places():
    """Empirical Bayes may make the narrow part the wide one; log_prob is the plain formula's."""
    prior = tp.ScaleMixture(pi=0.3, ratio=0.5)
    scale = torch.tensor([1.0, 4.0], dtype=torch.float64)
    w = torch.linspace(-5, 5, 101, dtype=torch.float64)
    parts = torch.stack([Normal(0.0, 1.0).log_prob(w), Normal(0.0, 2.0).log_prob(w)])
    expected = (parts + torch.tensor([0.3, 0.7]).log()[:, None]).logsumexp(0)
    torch.testing.assert_close(prior.log_prob(w, scale), expected, atol=1e-7, rtol=1e-7)
    m, t = torch.tensor([0.5], dtype=torch.float64), torch.tensor([-0.5], dtype=torch.float64)
    general = tp.MeanFieldPrior.cross_entropy(Shifted(prior), m, t, scale)
    torch.testing.assert_close(prior.cross_entropy(m, t, scale), general, atol=1e-6, rtol=0)
    equal = torch.tensor([1.0, 2.0], dtype=torch.float64)  # both parts N(0, 1)
    gaussian = tp.Gaussian().cross_entropy(m, t, equal[0])
    torch.testing.assert_close(prior.cross_entropy(m, t, equal), gaussian, atol=1e-6, rtol=0)


class Shifted(tp.MeanFieldPrior):
    """Another prior's density, by general quadrature."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def log_prob(self, w, scale):
        return self.inner.log_prob(w, scale)

    def cross_entropy(self, loc, log_scale, scale):
        return super().cross_entropy(loc, log_scale, scale.flatten()[0])


class Gumbel(tp.MeanFieldPrior):
    """A density that is not symmetric."""

    symmetric = False
    unit_energy = math.pi**2 / 6 + np.euler_gamma**2

    def log_prob(self, w, scale):
        return -w / scale - (-w / scale).exp() - scale.log()

    def sample_unit(self, shape):
        return -(torch.empty(*shape).exponential_().log())


def test_a_density_that_is_not_symmetric():
    """E w = m and E e^-w = e^(-m + s^2 / 2) under a normal: closed form."""
    m = torch.linspace(-2, 4, 13, dtype=torch.float64)
    s = torch.linspace(0.05, 1.2, 13, dtype=torch.float64)
    one = torch.ones((), dtype=torch.float64)
    expected = m + (-m + s.square() / 2).exp()
    torch.testing.assert_close(Gumbel().cross_entropy(m, s.log(), one), expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("shape", [(3, 2, 2), (2, 2, 3, 3), (2, 1, 1, 4), (2, 1, 2, 3, 2)])
@pytest.mark.parametrize("lengthscale", [0.3, 1.0, 5.0])
def test_correlated_kl_is_torchs(shape, lengthscale):
    prior = tp.CorrelatedGaussian(lengthscale=lengthscale)
    posterior = prior.posterior(shape, dtype=torch.float64)
    covariance = prior.covariance(shape[2:])
    assert covariance[0, 1] == pytest.approx(math.exp(-1 / lengthscale))
    with torch.no_grad():
        posterior.log_scale.add_(torch.randn(shape))
    p = MultivariateNormal(torch.zeros(len(covariance)).double(), prior.scale_of(shape) ** 2 * covariance)
    q = MultivariateNormal(
        posterior.loc.flatten(2), torch.diag_embed((2 * posterior.log_scale).exp().flatten(2))
    )
    torch.testing.assert_close(posterior.kl(), kl_divergence(q, p).sum())
    single = posterior.float().kl()
    torch.testing.assert_close(single.double(), kl_divergence(q, p).sum(), rtol=1e-4, atol=1e-4)


def test_correlated_draws_have_the_covariance():
    """Every entry within 5 standard errors of 100,000 kernels: false alarm 6e-7 an entry."""
    prior = tp.CorrelatedGaussian(1.0, lengthscale=2.0)
    draws = prior.sample((100, 1000, 3, 3)).flatten(0, 1).flatten(1).double()
    products = draws.unsqueeze(-1) * draws.unsqueeze(-2)
    error = (products.mean(0) - prior.covariance((3, 3))).abs() / (products.std(0) / math.sqrt(len(draws)))
    assert error.max() < 5


def test_euclidean_kl_is_torchs():
    posterior = tp.get_prior("euclidean-3x3").posterior((4, 3, 3, 3))
    with torch.no_grad():
        posterior.log_scale.normal_(-1, 0.5)
    q = Normal(posterior.loc, posterior.log_scale.exp())
    torch.testing.assert_close(posterior.kl(), kl_divergence(q, Normal(0.0, 1.0)).sum())


def test_log_uniform_gradients():
    inputs = [torch.randn(20, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    one = torch.ones((), dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda m, t: tp.LogUniform().kl(m, t, one), inputs)


@pytest.mark.parametrize(("num_nodes", "errors"), [(32, (5e-8, 4e-6, 2e-4, 1e-3)), (48, (1e-7,) * 4)])
def test_a_prior_with_log_prob_alone_is_right_over_six_decades(num_nodes, errors):
    """The quadrature that a user's own prior gets, on Student's t; the figures of its documentation."""
    prior, one = LogProbOnly(num_nodes=num_nodes), torch.ones((), dtype=torch.float64)
    for top, tolerance in zip((1, 10, 100, 1000), errors, strict=True):
        ratios = (0, 1, 2.5, 3.5, 4, 4.5, 5, 6.4, 8, 100)
        grid = [(r * s, s) for s in (top, top / 2, top / 5) for r in ratios]
        m, s = torch.tensor(grid, dtype=torch.float64).unbind(-1)
        expected = [by_quadrature(ORACLES["student-t"], a, b, 1.0) for a, b in grid]
        found = prior.cross_entropy(m, s.log(), one)
        np.testing.assert_allclose(found, expected, atol=tolerance, rtol=0)


class LogProbOnly(tp.MeanFieldPrior):
    """Student's t with 3 degrees of freedom, its closed form unknown."""

    def log_prob(self, w, scale):
        return tp.StudentT(1.0).log_prob(w, scale)


def test_more_nodes_less_error():
    s, one = torch.tensor([3.0], dtype=torch.float64), torch.ones((), dtype=torch.float64)
    expected = by_quadrature(lambda w: -np.log1p(w**2), 0.0, 3.0, 1.0)
    errors = [
        abs(
            expectation(
                lambda w: w.square().log1p(), 0 * s, s, knee=one, even=True, rule=legendre_rule(n)
            ).item()
            - expected
        )
        for n in (4, 8, 16, 32)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-7
