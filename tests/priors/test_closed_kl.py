"""KLs in closed form, taken together: torch.distributions and kappa's series, gradients by finite differences."""

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

import topoprior as tp
from topoprior.distributions.kappa import kappa_series
from topoprior.priors.kl import Part, normal_kl, total

PERIODS = (2.0, 1.0)


def parts(dtype=torch.float64):
    """Rows with latents from narrow to wide, one of narrow stds alone, normal numbers in two units, and none."""
    found = []
    for shape, periods, unit, std in (
        ((4, 3, 2), PERIODS, 1.0, 0.2),
        ((3, 5), (1.0,), 1.0, 0.01),
        ((3, 4), (), 0.3, 0.5),
        ((2, 2, 3), (), 2.0, 1.5),
        ((4, 0, 2), PERIODS, 1.0, 1.0),
    ):
        log_scale = math.log(std) + 0.7 * torch.randn(shape, dtype=dtype)
        loc = torch.randn(shape, dtype=dtype)
        found.append(Part(loc.requires_grad_(), log_scale.requires_grad_(), periods, unit))
    return found


def test_the_sum_of_normal_and_wrapped_kls():
    given, expected, zero = parts(), 0.0, torch.zeros((), dtype=torch.float64)
    for loc, log_scale, periods, unit in given:
        for row, period in zip(log_scale.exp(), periods, strict=False):
            s = row / period
            narrow = (
                -0.5 * (2 * math.pi * math.e * s.square()).log()
            )  # the normal's entropy, for stds below .05
            expected += torch.where(s < 0.05, narrow, kappa_series(s.clamp(min=0.05), terms=400)).sum()
        d = len(periods)
        expected += kl_divergence(Normal(loc[d:], log_scale[d:].exp()), Normal(zero, zero + unit)).sum()
    torch.testing.assert_close(total([], given), expected, rtol=1e-9, atol=0)
    torch.testing.assert_close(total([torch.tensor(2.0).double()], given), 2 + expected, rtol=1e-9, atol=0)


def test_gradients_are_the_numerical_ones():
    given = parts()
    tensors = [tensor for part in given for tensor in part[:2]]

    def kl(*tensors):
        pairs = zip(tensors[::2], tensors[1::2], given, strict=True)
        return 3 * total([], [Part(loc, log_scale, *part[2:]) for loc, log_scale, part in pairs])

    assert torch.autograd.gradcheck(kl, tensors)
    assert torch.autograd.gradgradcheck(kl, tensors)


def test_in_single_precision_and_of_two_dtypes():
    double, single = parts(), parts(torch.float32)
    for a, b in zip(double, single, strict=True):
        for x, y in zip(a[:2], b[:2], strict=True):
            x.data.copy_(y.data)
    kls = [total([], given) for given in (double, single, [*single[:2], *double[2:]])]
    assert [kl.dtype for kl in kls] == [torch.float64, torch.float32, torch.float32]
    for kl in kls:
        torch.testing.assert_close(kl.double(), kls[0], rtol=1e-6, atol=0)
        kl.backward()
    for i, (a, b) in enumerate(zip(double, single, strict=True)):
        twice, once = (b, a) if i < 2 else (a, b)  # two of the three sums have it
        torch.testing.assert_close(
            twice.log_scale.grad.double(), 2.0 * once.log_scale.grad.double(), rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_seen(value):
    for i in range(2):
        given = parts()
        given[0][i].data[-1, 0, 0] = value
        assert not total([], given).isfinite()


def test_a_very_wide_normal_has_an_infinite_kl():
    x = torch.tensor([1e300], dtype=torch.float64)
    assert normal_kl(x, torch.zeros_like(x), 1.0) == math.inf


def test_a_kl_of_ones_own_counts():
    """Of a subclass of a posterior, or of a prior, whose KL is in closed form."""

    class Twice(tp.MeanFieldPosterior):
        def kl(self):
            return 2 * super().kl()

    class Half(tp.Gaussian):
        def kl(self, loc, log_scale, scale):
            return 0.5 * super().kl(loc, log_scale, scale)

    net = torch.nn.Sequential(tp.BayesLinear(9, 3, bias=False), tp.BayesLinear(3, 70, bias=False))
    plain = tp.kl_divergence(net)
    layer = net[0]
    once, state = layer.kl(), layer.weight_posterior.state_dict()
    layer.weight_posterior = Twice(layer.prior, layer.weight_posterior.shape)
    layer.weight_posterior.load_state_dict(state)
    torch.testing.assert_close(tp.kl_divergence(net), plain + once)
    other = tp.BayesLinear(9, 3, bias=False, prior=Half())
    loc, log_scale = other.weight_posterior.loc, other.weight_posterior.log_scale
    expected = 0.5 * normal_kl(loc, log_scale, other.weight_posterior.prior_scale)
    torch.testing.assert_close(tp.kl_divergence(torch.nn.Sequential(other)), expected)
