"""Priors that are wrong on purpose: every law of `check_prior` is broken by one, and named."""

import math

import pytest
import torch

import topoprior as tp
from topoprior.priors import MeanFieldPosterior
from topoprior.testing import check_prior


class OtherDraws(tp.Laplace):
    def sample_unit(self, shape):
        return 1.2 * super().sample_unit(shape)


class NormalDraws(tp.Laplace):
    """Of the right variance."""

    def sample_unit(self, shape):
        return math.sqrt(2) * torch.randn(*shape)


class OtherDensity(tp.Laplace):
    def log_prob(self, w, scale):
        return super().log_prob(w, scale) + 0.01


class OtherEnergy(tp.Laplace):
    unit_energy = 2.2


class FixedDraws(tp.Gaussian):
    def sample(self, shape):
        return torch.ones(*shape)


class HalfTheKL(tp.Gaussian):
    def kl(self, loc, log_scale, scale):
        return 0.5 * super().kl(loc, log_scale, scale)


class NoConstant(tp.Laplace):
    """Right but for a constant a weight, as found in code that compares losses."""

    def cross_entropy(self, loc, log_scale, scale):
        return super().cross_entropy(loc, log_scale, scale) + 0.5


class NegativeKL(tp.Gaussian):
    def kl(self, loc, log_scale, scale):
        return -super().kl(loc, log_scale, scale)


class KLOfAMean(tp.Gaussian):
    def kl(self, loc, log_scale, scale):
        return super().kl(loc, log_scale, scale) / loc.numel()


class NoGradient(tp.Gaussian):
    def kl(self, loc, log_scale, scale):
        return super().kl(loc, log_scale, scale) + (loc - loc).abs().sqrt().sum()


class Single(tp.Gaussian):
    def kl(self, loc, log_scale, scale):
        return super().kl(loc, log_scale, scale).float()


class Posterior(MeanFieldPosterior):
    """Right; those below change one thing."""


class MeanElsewhere(Posterior):
    def mean(self):
        return self.loc + 0.05 * self.log_scale.exp()


class OddHalves(Posterior):
    def rsample(self, sample_shape=(), *, antithetic=False):
        return super().rsample(sample_shape)


class Wide(Posterior):
    def reset_parameters(self):
        super().reset_parameters()
        self.log_scale.data += 5  # e^5 times a start at a hundredth: wider than the prior


class NoRestart(Posterior):
    def reset_parameters(self):
        if self.loc.isfinite().all() and getattr(self, "made", False):
            return
        super().reset_parameters()
        self.made = True


class Forgets(Posterior):
    def state_dict(self, *args, **kwargs):
        found = super().state_dict(*args, **kwargs)
        return {name: value * 0 if name == "log_scale" else value for name, value in found.items()}


class ProjectsHalf(Posterior):
    def project_(self, weight):
        return super().project_(0.5 * weight)


class ProjectsAnything(Posterior):
    def project_(self, weight):
        with torch.no_grad():
            self.loc.copy_(weight)
        return weight.new_zeros(())


class OneForAll(Posterior):
    @classmethod
    def sum_kl(cls, posteriors):
        return posteriors[0].kl()


class MaskOfAnotherShape(Posterior):
    def latent_mask(self):
        return torch.zeros(3, dtype=torch.bool)


class UnknownKind(Posterior):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.kl_kind = "roughly"


class Made(tp.Gaussian):
    """A Gaussian with a posterior of another class."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def posterior(self, shape, *, device=None, dtype=None):
        return self.kind(self, shape, device=device, dtype=dtype)


class LiftsTellApart(tp.DecoderPrior):
    """Kernels that jump where latents leave the cell."""

    def coordinates(self, shape, *, device=None, dtype=None):
        found = super().coordinates(shape, device=device, dtype=dtype)
        right = found.weight
        found.weight = lambda x: right(x) * (1 + (x["z"][..., :1, None] > 1))
        return found


WRONG = {
    OtherDraws: "draws follow the density",
    NormalDraws: "draws follow the density",
    OtherDensity: "the density has mass 1",
    OtherEnergy: "draws have the energy",
    FixedDraws: "draws differ",
    HalfTheKL: "sum_kl is the sum|kl is at least what one number|kl is what a Monte Carlo",
    NoConstant: "kl is what a Monte Carlo estimate says",
    NegativeKL: "kl is at least 0",
    KLOfAMean: "sum_kl is the sum|kl is what a Monte Carlo",
    NoGradient: "the gradient of loc",
    Single: "dtype",
}
WRONG_POSTERIORS = {
    MeanElsewhere: "mean is the mean of the draws",
    OddHalves: "antithetic draws need an even number",
    Wide: "lies around draws of the prior",
    NoRestart: "reset_parameters starts from another draw",
    Forgets: "a state dict keeps the kl",
    ProjectsHalf: "project_ returns how far",
    ProjectsAnything: "project_ names weights of another shape",
    OneForAll: "sum_kl is the sum of kl",
    MaskOfAnotherShape: "latent_mask has the shape of loc",
    UnknownKind: "kl_kind is known",
}


@pytest.mark.parametrize("kind", WRONG, ids=lambda kind: kind.__name__)
def test_what_is_wrong_is_named(kind):
    with pytest.raises(AssertionError, match=WRONG[kind]):
        check_prior(kind())


@pytest.mark.parametrize("kind", WRONG_POSTERIORS, ids=lambda kind: kind.__name__)
def test_posteriors_that_are_wrong_are_named(kind):
    check_prior(Made(Posterior))
    with pytest.raises(AssertionError, match=WRONG_POSTERIORS[kind]):
        check_prior(Made(kind))


def test_lifts_that_are_other_weights_are_named():
    with pytest.raises(AssertionError, match="all lifts of a latent are the same weights"):
        check_prior(LiftsTellApart.from_pretrained("klein-3x3"))


def test_random_numbers_and_arguments():
    state = torch.get_rng_state()
    check_prior(tp.Gaussian(), (3, 5))
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(AssertionError, match="some shape is served"):
        check_prior(tp.get_prior("klein-3x3"), (3, 5))
    with pytest.raises(TypeError, match="prior: expected a WeightPrior, found str"):
        check_prior("gaussian")
