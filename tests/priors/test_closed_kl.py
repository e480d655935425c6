"""KLs in closed form, taken together: torch.distributions and kappa's series, gradients by finite differences."""

import math

import pytest
import torch
from torch.autograd import forward_ad
from torch.distributions import Normal, kl_divergence

import topoprior as tp
from topoprior.distributions.kappa import kappa_series
from topoprior.priors.kl import Part, latent_kl, normal_kl, total

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


def leaves(*shapes):
    return [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]


def test_gradients_of_a_tensor_of_two_parts():
    """Its gradient is the same number, whether or not it is to be differentiated again."""
    loc, log_scale = leaves((3, 2), (3, 2))
    for again in (False, True):
        kl = total([], [Part(loc, log_scale), Part(loc, log_scale, unit=2.0)])
        found = torch.autograd.grad(kl, loc, create_graph=again)[0]
        torch.testing.assert_close(found, loc * (1 + 1 / 4))


def test_second_derivatives_where_others_are_fixed():
    loc, log_scale = leaves((4, 2), (4, 2))
    hessian = torch.autograd.functional.hessian(
        lambda m: total([], [Part(m, log_scale.detach(), PERIODS)]), loc.detach()
    )
    expected = torch.diag(torch.tensor([0.0] * 4 + [1.0] * 4, dtype=torch.float64))
    torch.testing.assert_close(hessian.reshape(8, 8), expected)


def test_several_gradients_at_once_and_forward_mode():
    loc, log_scale = (t.detach() for t in leaves((4, 2), (4, 2)))

    def kl(log_scale):
        return total([], [Part(loc, log_scale, PERIODS)]) * torch.arange(1.0, 3.0, dtype=torch.float64)

    expected = torch.autograd.functional.jacobian(kl, log_scale)
    found = torch.autograd.functional.jacobian(kl, log_scale, vectorize=True)
    torch.testing.assert_close(found, expected)
    with forward_ad.dual_level():
        dual = kl(forward_ad.make_dual(log_scale, torch.ones_like(log_scale)))
        tangent = forward_ad.unpack_dual(dual).tangent
    torch.testing.assert_close(tangent, expected.sum((1, 2)))


def test_one_kernel_without_channels():
    loc, log_scale = leaves(4, 4)
    wide = log_scale.detach().clamp(min=-1).requires_grad_()
    expected = total([], [Part(loc[:, None], wide[:, None], PERIODS)])
    torch.testing.assert_close(latent_kl(loc, wide, PERIODS), expected)
    assert torch.autograd.gradcheck(lambda m, s: latent_kl(m, s, PERIODS), (loc, wide))


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


def test_a_kl_of_a_mixin_or_a_decoder_counts():
    class Doubled:
        def kl(self, *args):
            return 2 * super().kl(*args)

    class Posterior(Doubled, tp.MeanFieldPosterior):
        pass

    class Prior(Doubled, tp.Gaussian):
        pass

    posterior = tp.Gaussian().posterior((3, 2))
    for other in (Posterior(tp.Gaussian(), (3, 2)), Prior().posterior((3, 2))):
        other.loc.data, other.log_scale.data = posterior.loc.data, posterior.log_scale.data
        torch.testing.assert_close(type(other).sum_kl([other, posterior]), 3 * posterior.kl())

    layer = tp.BayesConv2d(2, 3, 3, prior="klein-3x3", bias=False)
    once, decoder = tp.kl_divergence(layer), layer.weight_posterior.decoder
    kind = type("Decoder", (Doubled, type(decoder)), {})
    layer.weight_posterior.decoder = kind.__new__(kind)
    vars(layer.weight_posterior.decoder).update(vars(decoder))
    torch.testing.assert_close(tp.kl_divergence(layer), 2 * once)
