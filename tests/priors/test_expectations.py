"""Expectations of a normal in closed form: against scipy, over many decades, and under every transform."""

import math

import numpy as np
import pytest
import torch
from scipy import special, stats

import topoprior as tp
from topoprior.priors.mean_field.closed_forms import mean_abs, mean_log_hypot
from topoprior.priors.mean_field.softplus import mean_softplus
from topoprior.utils.autograd import BLOCK

EXPECTATIONS = {
    "abs": mean_abs,
    "log abs": lambda m, t: mean_log_hypot(m, t, 0.0),
    "log hypot": lambda m, t: mean_log_hypot(m, t, 1.0),
    "softplus": lambda m, t: mean_softplus(m, t, m.new_tensor(4.0), m.new_tensor(0.7)),
}


@pytest.fixture(params=EXPECTATIONS, ids=str)
def function(request):
    return EXPECTATIONS[request.param]


def test_mean_abs():
    m = torch.linspace(-6, 6, 41, dtype=torch.float64)
    for s in (0.1, 1.0, 10.0):
        expected = stats.foldnorm.mean(m.abs().numpy() / s, scale=s)
        np.testing.assert_allclose(mean_abs(m, torch.full_like(m, math.log(s))), expected, rtol=1e-10)


@pytest.mark.parametrize("knee", [0.0, 1.0])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 3e-6)])
def test_slopes_of_mean_log_hypot_are_faddeevas_function(knee, dtype, tolerance):
    """d/dm E log|w + ik| = E 1 / (w + ik), over twelve decades of m and ten of s."""
    m = torch.tensor([0, *np.logspace(-6, 6, 49), *np.linspace(0.1, 12, 50)], dtype=dtype)
    m, t = torch.meshgrid(m, torch.linspace(-14, 9, 47, dtype=dtype), indexing="ij")
    m, t = m.clone().requires_grad_(), t.clone().requires_grad_()
    of_m, of_t = torch.autograd.grad(mean_log_hypot(m, t, knee).sum(), (m, t))
    m, s = m.detach().double().numpy(), t.detach().double().exp().numpy()
    z = (m + 1j * knee) / (s * math.sqrt(2))
    slope = -1j * math.sqrt(math.pi / 2) * special.wofz(z) / s
    unit = np.maximum(m, s)
    np.testing.assert_allclose(of_m.numpy() * unit, slope.real * unit, atol=tolerance, rtol=0)
    expected = 1 - m * slope.real + knee * slope.imag
    np.testing.assert_allclose(of_t.numpy(), expected, atol=tolerance, rtol=0)


def test_values_of_mean_log_hypot():
    """E log|w| of N(0, 1) is -(gamma + log 2) / 2; log|m + ik| without noise; even in m; scales."""
    zero = torch.zeros(1, dtype=torch.float64)
    assert mean_log_hypot(zero, zero, 0.0).item() == pytest.approx(
        -(np.euler_gamma + math.log(2)) / 2, 1e-13
    )
    m, t = torch.tensor([-3e4, 1e-6, 2.0]), torch.tensor([10.0, 1e-3, 5.0]).log()
    assert mean_log_hypot(m, t, 0.0)[0].item() == pytest.approx(math.log(3e4), abs=2e-6)
    assert mean_log_hypot(m, t, 0.0)[1].item() == pytest.approx(math.log(1e-3) - 0.635181, abs=1e-5)
    assert mean_log_hypot(m, t - 40, 1.0)[2].item() == pytest.approx(0.5 * math.log(5), abs=1e-6)
    torch.testing.assert_close(mean_log_hypot(m, t, 1.0), mean_log_hypot(-m, t, 1.0))


def test_gradients_and_second_derivatives(function):
    inputs = [torch.randn(20, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


def test_gradients_of_the_softplus_in_its_scalars():
    numbers = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (3.0, 0.7)]
    inputs = [torch.randn(20, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradcheck(mean_softplus, (*inputs, *numbers))
    assert torch.autograd.gradgradcheck(mean_softplus, (*inputs, *numbers))


def test_vmap_and_func_grad(function):
    m, t = torch.randn(5, 7), torch.randn(7)
    torch.testing.assert_close(torch.vmap(function, in_dims=(0, None))(m, t), function(m, t.expand(5, 7)))
    slopes = torch.func.grad(lambda *inputs: function(*inputs).sum(), argnums=(0, 1))
    batched = torch.vmap(slopes, in_dims=(1, None), out_dims=1)(m.T, t)
    expected = slopes(m, t.expand(5, 7).clone())
    torch.testing.assert_close([x.T for x in batched], list(expected))
    torch.testing.assert_close(
        torch.func.grad(lambda m: torch.vmap(function)(m, m).sum())(m), sum(slopes(m, m))
    )


def test_large_tensors_are_worked_on_in_pieces(function):
    m, t = torch.randn(2, BLOCK + 3), torch.randn(2, BLOCK + 3)
    m.requires_grad_()
    whole = function(m, t)
    parts = torch.cat([function(x, y) for x, y in zip(m.split(1000, 1), t.split(1000, 1), strict=True)], 1)
    torch.testing.assert_close(whole, parts)
    torch.testing.assert_close(*(torch.autograd.grad(x.sum(), m)[0] for x in (whole, parts)))
    assert function(m[:0], t[:0]).shape == (0, BLOCK + 3)


def test_mixtures_of_two_equal_parts_have_slopes():
    """b = 0: the narrow part is the wide one."""
    posterior = tp.ScaleMixture(ratio=1.0, empirical_bayes=True).posterior((4, 3))
    posterior.kl().backward()
    assert all(torch.isfinite(p.grad).all() for p in posterior.parameters())


class KL(torch.nn.Module):
    def __init__(self, posterior):
        super().__init__()
        self.posterior = posterior

    def forward(self):
        return self.posterior.kl()


@pytest.mark.parametrize(
    "prior", ["laplace", "student-t", "scale-mixture", "log-uniform", "correlated-gaussian"]
)
def test_the_kl_can_be_differentiated_twice(prior):
    posterior = tp.get_prior(prior).posterior((2, 1, 2), dtype=torch.float64)

    def kl(loc, log_scale):
        parameters = {"posterior.loc": loc, "posterior.log_scale": log_scale}
        return torch.func.functional_call(KL(posterior), parameters, ())

    inputs = [p.detach().clone().requires_grad_() for p in (posterior.loc, posterior.log_scale)]
    assert torch.autograd.gradcheck(kl, inputs)
    assert torch.autograd.gradgradcheck(kl, inputs)
