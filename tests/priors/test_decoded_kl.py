"""KL of posteriors of decoded kernels: torch.distributions and cover_kl, Monte Carlo on the cover."""

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

import topoprior as tp
from topoprior.priors.decoded.prior import pretrained_names

CLOSED = [name for name in pretrained_names() if not name.startswith("euclidean")]
OPTIONS = {
    "klein-3x3, residual": ("klein-3x3", dict(residual_fraction=0.1)),
    "klein-3x3, empirical bayes": ("klein-3x3", dict(empirical_bayes=True, residual_fraction=0.1)),
    "klein-3x3, no mean": ("klein-3x3", dict(mean_fraction=0.0, gain=1.0)),
}
DECODERS = {**{name: (name, {}) for name in CLOSED}, **OPTIONS}


@pytest.fixture(params=DECODERS, ids=str)
def posterior(request):
    """12 kernels, with stds of latents from narrow to wide enough to overlap with their own lifts."""
    name, options = DECODERS[request.param]
    prior = tp.DecoderPrior.from_pretrained(name, **options)
    posterior = prior.posterior((4, 3, *prior.kernel_size))
    with torch.no_grad():
        posterior.log_scale[: posterior.dim].normal_(-1.5, 0.7)
        posterior.log_scale[posterior.dim :].normal_(-1, 0.5)
    return posterior


def test_kl_is_the_sum_of_its_parts(posterior):
    """The cover bound of the latents and torch's KL of amplitudes and residual; at most log 2 a kernel too much."""
    space, dim = posterior.prior.covering, posterior.dim
    latent = tp.WrappedNormal(space, posterior.latent_loc, posterior.latent_scale)
    q = Normal(posterior.loc[dim:], posterior.log_scale[dim:].exp())
    rest = kl_divergence(q, Normal(0.0, 1.0)).sum()
    if posterior.residual is not None:
        r = Normal(posterior.residual.loc, posterior.residual.log_scale.exp())
        tau = posterior.prior.scales(posterior.shape).residual
        rest = rest + kl_divergence(r, Normal(0.0, tau)).sum()
    torch.testing.assert_close(posterior.kl(), tp.cover_kl(latent, tp.UniformOn(space)).sum() + rest)
    exact = kl_divergence(latent, tp.UniformOn(space)).sum() + rest
    slack = 12 * math.log(2) if isinstance(space, tp.KleinBottle) else 0.0
    assert exact - 1e-3 <= posterior.kl() <= exact + slack + 1e-3


def test_kl_of_fixed_kernels_is_that_of_their_amplitudes():
    posterior = tp.get_prior("klein-fixed").posterior((4, 3, 3, 3))
    with torch.no_grad():
        posterior.log_scale.normal_(-1, 0.5)
    q = Normal(posterior.loc, posterior.log_scale.exp())
    torch.testing.assert_close(posterior.kl(), kl_divergence(q, Normal(0.0, 1.0)).sum())


# --- Monte Carlo -----------------------------------------------------------------------------

DRAWS = 200_000


def wrapped_log_density(x, loc, scale, period):
    """Of a normal on the circle of length ``period``, by a sum over 17 lifts: the definition."""
    lifts = x.unsqueeze(-1) + period * torch.arange(-8, 9, dtype=x.dtype)
    log_normal = -0.5 * ((lifts - loc.unsqueeze(-1)) / scale.unsqueeze(-1)).square()
    return (log_normal - scale.unsqueeze(-1).log() - 0.5 * math.log(2 * math.pi)).logsumexp(-1)


@pytest.mark.parametrize("name", CLOSED)
def test_kl_against_monte_carlo(name):
    """E_q[log q - log p] on the torus over the space: 5 standard errors of 200,000 draws, false alarm 6e-7.

    There q is a product of normals wrapped on circles and p is uniform; amplitudes are normal.
    """
    prior = tp.DecoderPrior.from_pretrained(name)
    posterior = prior.posterior((2, 1, *prior.kernel_size), dtype=torch.float64)
    dim = posterior.dim
    with torch.no_grad():
        posterior.log_scale[:dim].copy_(torch.tensor([[0.07], [0.3]]).log())
        posterior.log_scale[dim:].normal_(-1, 0.5)
    loc, scale = posterior.loc.detach(), posterior.log_scale.detach().exp()
    x = loc + scale * torch.randn(DRAWS, *loc.shape, dtype=torch.float64)
    terms = Normal(loc[dim:], scale[dim:]).log_prob(x[:, dim:]) - Normal(0.0, 1.0).log_prob(x[:, dim:])
    total = terms.flatten(1).sum(1)
    periods = prior.covering.lattice.abs().sum(1)  # along the axes
    for d, period in enumerate(periods.tolist()):
        of_axis = wrapped_log_density(x[:, d], loc[d], scale[d], period) + math.log(period)
        total = total + of_axis.flatten(1).sum(1)
    assert abs(total.mean() - posterior.kl()) < 5 * total.std() / math.sqrt(DRAWS)


def test_kl_of_fixed_kernels_against_monte_carlo():
    """E_q[log q - log p] over alpha and beta: 5 standard errors of 200,000 draws, false alarm 6e-7."""
    posterior = tp.get_prior("klein-fixed").posterior((2, 2, 3, 3), dtype=torch.float64)
    with torch.no_grad():
        posterior.log_scale.normal_(-1, 0.5)
        q = Normal(posterior.loc, posterior.log_scale.exp())
        x = q.sample((DRAWS,))
        terms = (q.log_prob(x) - Normal(0.0, 1.0).log_prob(x)).flatten(1).sum(1)
        assert abs(terms.mean() - posterior.kl()) < 5 * terms.std() / math.sqrt(DRAWS)


@pytest.mark.parametrize("name", ["klein-3x3", "torus-3x3", "klein-fixed", "euclidean-3x3"])
def test_the_amplitudes_are_in_units_of_the_prior(name):
    """What the KL takes for N(0, 1) is N(0, 1) in the weights: a posterior that is the prior, KL 0 but for z,
    draws weights of the prior's energy. 5 standard errors of 20,000 kernels, false alarm 6e-7."""
    prior = tp.get_prior(name)
    posterior = prior.posterior((200, 100, 3, 3))
    with torch.no_grad():
        rows = posterior.loc if name != "euclidean-3x3" else posterior.loc.movedim(-1, 0)
        stds = posterior.log_scale if name != "euclidean-3x3" else posterior.log_scale.movedim(-1, 0)
        rows[-2:] = 0
        stds[-2:] = 0
        if name == "euclidean-3x3":
            rows.zero_()
            stds.zero_()
        energy = posterior.rsample().flatten(2).square().sum(-1).flatten()
    assert abs(energy.mean() - prior.gain**2 / 100) < 5 * energy.std() / math.sqrt(len(energy))


def test_a_narrow_posterior_pays_log_4_too_much():
    """(alpha, u, v), its lift (alpha, u + 1, -v), and both with -alpha at v + 1/2 are one kernel. The law of the
    weights has the summed density of the four: 5 standard errors of 200,000 draws, false alarm 6e-7."""
    prior = tp.get_prior("klein-3x3")
    posterior = prior.posterior((1, 1, 3, 3), dtype=torch.float64)
    with torch.no_grad():
        posterior.log_scale.fill_(math.log(0.02))
        posterior.loc[2] = 1.0
    loc, scale = posterior.loc.detach()[:, 0, 0], posterior.log_scale.detach()[:, 0, 0].exp()
    x = loc + scale * torch.randn(DRAWS, 4, dtype=torch.float64)
    u, v, alpha, beta = x.unbind(-1)
    orbit = torch.stack(
        [
            torch.stack([u, v, alpha, beta], -1),
            torch.stack([u + 1, -v, alpha, beta], -1),
            torch.stack([u, v + 0.5, -alpha, beta], -1),
            torch.stack([u + 1, -v + 0.5, -alpha, beta], -1),
        ]
    )
    kernels = orbit[:, :50, 2, None, None] * prior.decode(orbit[:, :50, :2].float())
    torch.testing.assert_close(kernels, kernels[:1].expand_as(kernels), atol=1e-5, rtol=0)
    periods = torch.tensor([2.0, 1.0], dtype=torch.float64)
    log_q = Normal(loc[2:], scale[2:]).log_prob(orbit[..., 2:]).sum(-1)
    for d, period in enumerate(periods.tolist()):
        log_q = log_q + wrapped_log_density(orbit[..., d], loc[d], scale[d], period)
    log_p = Normal(0.0, 1.0).log_prob(orbit[..., 2:]).sum(-1) - periods.log().sum()
    terms = log_q.logsumexp(0) - log_p.logsumexp(0)
    excess = posterior.kl().item() - terms.mean().item()
    assert abs(excess - math.log(4)) < 5 * terms.std().item() / math.sqrt(DRAWS) + 1e-6
