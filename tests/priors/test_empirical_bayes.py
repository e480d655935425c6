"""Empirical Bayes: one switch, the scales that it learns, and their bounds."""

import pytest
import torch

import topoprior as tp
from topoprior.priors.empirical_bayes import BoundedScale

LEARNED = {
    "gaussian": (lambda **o: tp.Gaussian(**o), 1),
    "laplace": (lambda **o: tp.Laplace(**o), 1),
    "student-t": (lambda **o: tp.StudentT(**o), 1),
    "scale-mixture": (lambda **o: tp.ScaleMixture(**o), 2),
    "correlated-gaussian": (lambda **o: tp.CorrelatedGaussian(**o), 1),
    "klein-3x3": (lambda **o: tp.DecoderPrior.from_pretrained("klein-3x3", **o), None),
    "klein-fixed": (lambda **o: tp.FixedKernels("klein-3x3", **o), 2),
    "euclidean-3x3": (lambda **o: tp.EuclideanDecoderPrior.from_pretrained("euclidean-3x3", **o), 2),
}


@pytest.mark.parametrize("name", LEARNED)
def test_empirical_bayes_is_one_switch(name):
    make, count = LEARNED[name]
    shape = (4, 3, 3, 3)
    plain, learned = make().posterior(shape), make(empirical_bayes=True).posterior(shape)
    extra = set(dict(learned.named_parameters())) - set(dict(plain.named_parameters()))
    rhos = [p for n, p in learned.named_parameters() if n in extra]
    assert extra
    assert all(n.endswith("rho") for n in extra)
    assert count is None or sum(p.numel() for p in rhos) == count
    state = {n: p for n, p in learned.state_dict().items() if not n.endswith("rho")}
    plain.load_state_dict(state)
    torch.testing.assert_close(plain.mean(), learned.mean())
    torch.testing.assert_close(plain.kl(), learned.kl())  # the factors start at 1
    (learned.rsample((4,)).square().sum() + learned.kl()).backward()
    assert all((p.grad != 0).all() for p in rhos)
    mean = learned.mean()
    with torch.no_grad():
        for p in rhos:
            p.fill_(1e4)
    if not isinstance(learned, tp.MeanFieldPosterior):  # the factor multiplies the weights themselves
        torch.testing.assert_close(learned.mean(), 4 * mean)
    else:
        torch.testing.assert_close(learned.scale(), 4 * plain.scale())
    learned.reset_parameters()
    assert all((p == 0).all() for p in rhos)


@pytest.mark.parametrize("target", [0.5, 1.0, 2.0, 100.0])
def test_the_best_gaussian_scale_is_the_closed_form(target):
    """s^2 = mean(m^2 + sigma^2) where that is within a factor of 4, the bound where it is not."""
    posterior = tp.Gaussian(1.0, empirical_bayes=True).posterior((50, 40), dtype=torch.float64)
    with torch.no_grad():
        posterior.loc.mul_(target)
    rho = posterior.scale_factors.rho
    optimizer = torch.optim.LBFGS([rho], max_iter=100, line_search_fn="strong_wolfe", tolerance_grad=1e-12)

    def closure():
        optimizer.zero_grad()
        kl = posterior.kl()
        kl.backward(inputs=[rho])
        return kl

    optimizer.step(closure)
    best = (posterior.loc.square() + (2 * posterior.log_scale).exp()).mean().sqrt()
    torch.testing.assert_close(posterior.scale(), best.clamp(0.25, 4), rtol=1e-3, atol=0)


def test_bounded_scale():
    with torch.no_grad():
        factors = BoundedScale(3, learn=True)
        factors.rho.copy_(torch.tensor([-1e3, 0.0, 1e3]))
        torch.testing.assert_close(factors(), torch.tensor([0.25, 1.0, 4.0]))
    fixed = BoundedScale(2, learn=False, dtype=torch.float64)
    assert list(fixed.parameters()) == []
    assert fixed.state_dict() == {}
    assert torch.equal(fixed(), torch.ones(2, dtype=torch.float64))
