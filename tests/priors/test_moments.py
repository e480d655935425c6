"""Controls of a prior: a Gaussian with its moments, a linear decoder on its basis."""

import math

import pytest
import torch

import topoprior as tp
from topoprior.testing import check_prior

SHAPE = (8, 4, 3, 3)


def empirical(prior, shape, draws=200):
    """Second moments of drawn kernels and their standard errors, as a Monte Carlo oracle."""
    torch.manual_seed(0)
    w = torch.stack([prior.sample(shape) for _ in range(draws)]).double()
    products = torch.einsum("...p,...q->...pq", *[w.reshape(-1, math.prod(shape[2:]))] * 2)
    return products.mean(0), products.std(0) / math.sqrt(len(products))


def covered(found, prior, shape=SHAPE):
    mean, error = empirical(prior, shape)
    assert ((found - mean).abs() <= 5.5 * error + 1e-12).all()


@pytest.mark.parametrize(
    "name", ["klein-3x3", "torus-3x3", "euclidean-3x3", "klein-fixed", "klein", "correlated-gaussian", "laplace"]
)  # fmt: skip
def test_covariances_are_those_of_draws(name):
    prior = tp.get_prior(name)
    covered(prior.kernel_covariance(SHAPE), prior)


def test_a_residual_and_other_fractions_count():
    prior = tp.DecoderPrior.from_pretrained("klein-3x3", residual_fraction=0.3, mean_fraction=0.2, gain=1.0)
    found = prior.kernel_covariance(SHAPE)
    covered(found, prior)
    assert found.trace().item() == pytest.approx(1 / 4)


def test_priors_of_ones_own_by_draws():
    class Ramps(tp.WeightPrior):
        def posterior(self, shape, **_):
            raise NotImplementedError

        def sample(self, shape):
            return torch.randn(*shape[:2], 1) * torch.tensor([1.0, 2.0]) + self.offset

    prior = Ramps()
    prior.offset = 0.0
    before = torch.get_rng_state()
    found = prior.kernel_covariance((3, 2, 2))
    assert torch.equal(before, torch.get_rng_state())
    torch.testing.assert_close(found, torch.tensor([[1.0, 2], [2, 4]]).double(), rtol=0.02, atol=0)
    prior.offset = 0.1
    with pytest.raises(ValueError, match="expected kernels with mean 0"):
        prior.kernel_covariance((3, 2, 2))


@pytest.mark.parametrize("name", ["klein-3x3", "correlated-gaussian"])
def test_the_twin_has_the_moments_and_no_more(name):
    prior, twin = tp.get_prior(name), tp.moment_matched(name)
    check_prior(twin)
    torch.manual_seed(0)
    kernels = twin.sample((100, 200, 3, 3)).double().flatten(2).flatten(0, 1)
    expected = prior.kernel_covariance((100, 200, 3, 3))
    values = torch.linalg.eigvalsh(kernels.T @ kernels / len(kernels) - expected)
    assert values.abs().max() < 6 * expected.trace() / math.sqrt(len(kernels))
    # Along every direction a normal has kurtosis 3; Klein kernels, with an amplitude of their own, have more.
    along = kernels @ torch.linalg.eigh(expected).eigenvectors[:, -2:]
    kurtosis = along.pow(4).mean(0) / along.square().mean(0) ** 2
    assert (kurtosis - 3).abs().max() < 6 * math.sqrt(96 / len(kernels))


def test_a_singular_covariance_keeps_weights_in_its_span():
    twin = tp.moment_matched("klein-3x3")
    values, vectors = torch.linalg.eigh(twin.kernel_covariance(SHAPE))
    outside = vectors[:, values < 1e-9 * values.max()]
    assert outside.shape == (9, 3)
    posterior = twin.posterior(SHAPE)
    for w in (
        twin.sample(SHAPE),
        posterior.rsample(),
        twin.coordinates(SHAPE).weight({"u": torch.ones(SHAPE)}),
    ):
        assert (w.double().flatten(2) @ outside).abs().max() < 1e-6  # fmt: skip
    w = twin.sample(SHAPE)
    assert posterior.project_(w) < 1e-5
    torch.testing.assert_close(posterior.mean(), w, atol=1e-5, rtol=0)


def test_kl_is_that_of_normals():
    """Against torch's own KL between multivariate normals of the weights, for a covariance of full rank."""
    twin = tp.moment_matched("correlated-gaussian")
    posterior = twin.posterior((1, 1, 3, 3), dtype=torch.float64)
    with torch.no_grad():
        posterior.loc.normal_()
        posterior.log_scale.uniform_(-2, 0)
    covariance = twin.kernel_covariance((1, 1, 3, 3))
    scale, root = twin.root((1, 1, 3, 3))
    factor = scale * root @ posterior.log_scale.detach().exp().flatten().diag()
    normal = torch.distributions.MultivariateNormal
    q = normal(posterior.mean().detach().flatten(), factor @ factor.T)
    expected = torch.distributions.kl_divergence(q, normal(torch.zeros(9).double(), covariance))
    torch.testing.assert_close(posterior.kl(), expected)


def test_the_linear_decoder_has_the_moments_and_fills_the_span():
    prior, control = tp.get_prior("klein-3x3"), tp.linear_decoder("klein-3x3")
    check_prior(control)
    torch.testing.assert_close(control.kernel_covariance(SHAPE), prior.kernel_covariance(SHAPE))
    covered(control.kernel_covariance(SHAPE), control)
    # All of the span: any mixture of basis kernels and the constant is one of its kernels.
    torch.manual_seed(0)
    w = (torch.randn(40, 5) @ prior.coefficients + torch.randn(40, 1)).view(8, 5, 3, 3)
    assert control.posterior(w.shape).project_(w) < 0.02
    assert prior.posterior(w.shape).project_(w) > 0.1
    assert control.coordinates(w.shape).invert(0 * w)["alpha"].abs().max() == 0


@pytest.mark.parametrize("name", ["torus-3x3", "euclidean-3x3", "circle-3x3"])
def test_linear_decoders_of_other_decoders(name):
    control = tp.linear_decoder(name)
    expected = tp.get_prior(name).kernel_covariance(SHAPE)
    torch.testing.assert_close(control.kernel_covariance(SHAPE), expected, atol=1e-7, rtol=1e-5)


def test_linear_decoders_are_saved(tmp_path):
    control = tp.linear_decoder("klein-3x3")
    control.save_pretrained(tmp_path)
    again = tp.get_prior(tmp_path)
    assert torch.equal(again.decoder.basis, control.decoder.basis)
    assert again.gain == control.gain


@pytest.mark.parametrize("control", [tp.moment_matched, tp.linear_decoder])
def test_in_layers_and_states_of_others_are_refused(control):
    layers = [
        tp.BayesConv2d(3, 4, 3, prior=control(name), posterior="delta")
        for name in ("klein-3x3", "torus-3x3")
    ]
    loss = layers[0](torch.randn(2, 3, 5, 5)).square().sum() + tp.kl_divergence(layers[0])
    loss.backward()
    assert all(p.grad.isfinite().all() for p in layers[0].parameters())
    with pytest.raises(RuntimeError):
        layers[1].load_state_dict(layers[0].state_dict())  # fmt: skip


def test_bad_arguments():
    with pytest.raises(ValueError, match="no finite variance"):
        tp.moment_matched(tp.StudentT(1.0, df=1)).sample(SHAPE)
    with pytest.raises(ValueError, match="expected one with a decoder"):
        tp.linear_decoder("gaussian")
    with pytest.raises(ValueError, match="is neither a known name"):
        tp.moment_matched("nothing")
    with pytest.raises(ValueError, match="init_scale"):
        tp.MomentMatched("gaussian", init_scale=0)
    with pytest.raises(ValueError, match="expected 1 to 9 rows"):
        tp.priors.LinearDecoder(torch.ones(10, 9), (3, 3))
    with pytest.raises(ValueError, match="not all zero"):
        tp.priors.LinearDecoder(torch.zeros(2, 9), (3, 3))
    assert not tp.moment_matched("klein-3x3").serves((4, 7))
    assert tp.moment_matched("laplace").sample((4, 7)).shape == (4, 7)
