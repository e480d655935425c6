"""The power spherical law: against integration, samples, its contract."""

import math

import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.distributions import (
    kl_divergence,
)

import topoprior as tp
from tests.distributions.test_pushforward import F64, SCALES, on_sphere, unit

# --- PowerSpherical --------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [2, 3, 4, 5, 10])
@pytest.mark.parametrize("scale", SCALES)
def test_power_spherical_integrals(d: int, scale: float) -> None:
    q = tp.PowerSpherical(unit(d), torch.tensor(scale, dtype=F64))

    def entropy_density(x: Tensor) -> Tensor:
        log_prob = q.log_prob(x)
        return -log_prob.exp() * log_prob

    total = on_sphere(lambda x: q.log_prob(x).exp(), q.loc, scale)
    torch.testing.assert_close(total, torch.ones((), dtype=F64), rtol=0, atol=1e-6)
    torch.testing.assert_close(on_sphere(entropy_density, q.loc, scale), q.entropy(), rtol=0, atol=1e-5)
    uniform = tp.UniformOn(tp.Sphere(d - 1), dtype=F64)
    kl = kl_divergence(q, uniform)
    assert kl > 0
    torch.testing.assert_close(kl, uniform.entropy() - q.entropy(), rtol=1e-7, atol=1e-11)
    torch.testing.assert_close(tp.cover_kl(tp.Pushforward(tp.Sphere(d - 1), q), uniform), kl)


def test_power_spherical_in_three_dimensions() -> None:
    """Closed form: density (k + 1) / (4 pi) ((1 + t) / 2)^k."""
    k = torch.tensor([0.5, 3.0, 100.0], dtype=F64)
    loc, x = unit(3), unit(20, 1, 3, seed=1)
    expected = (k + 1).log() - math.log(4 * math.pi) + k * ((1 + x @ loc) / 2).log()
    torch.testing.assert_close(tp.PowerSpherical(loc, k).log_prob(x), expected)


@pytest.mark.parametrize("d", [2, 3, 6])
@pytest.mark.parametrize("scale", [0.3, 20.0, 1e4])
def test_power_spherical_samples(d: int, scale: float) -> None:
    """(1 + mu . x) / 2 is Beta(alpha, beta), directions are even. Kolmogorov-Smirnov at level 1e-5."""
    for loc in (unit(d), torch.eye(d, dtype=F64)[0], -torch.eye(d, dtype=F64)[0]):
        x = tp.PowerSpherical(loc, torch.tensor(scale, dtype=F64)).rsample((4000,))
        torch.testing.assert_close(x.norm(dim=-1), torch.ones(4000, dtype=F64))
        beta = (d - 1) / 2
        away = (x - loc).square().sum(-1) / 4
        assert stats.kstest(away.numpy(), stats.beta(beta, beta + scale).cdf).pvalue > 1e-5
        across = x - (x @ loc).unsqueeze(1) * loc
        mean = torch.nn.functional.normalize(across, dim=1).mean(0)
        assert mean.norm() < 5.5 / math.sqrt(4000)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", SCALES)
def test_gradients_are_finite(dtype: torch.dtype, scale: float) -> None:
    for d in (2, 3, 4):
        base = torch.eye(d, dtype=dtype)
        for mean in (base[0], -base[0], base[-1], unit(d).to(dtype)):
            loc = mean.clone().requires_grad_()
            kappa = torch.tensor(scale, dtype=dtype, requires_grad=True)
            q = tp.PowerSpherical(loc, kappa, validate_args=False)
            push = tp.Pushforward(tp.RealProjectiveSpace(d - 1), q)
            x = push.rsample((50,))
            points = torch.cat([x, mean.detach().unsqueeze(0), -mean.detach().unsqueeze(0)])
            loss = push.log_prob(points).sum() + q.log_prob(x).sum() + q.entropy() + push.entropy()
            for gradient in torch.autograd.grad(loss, (loc, kappa)):
                assert gradient.isfinite().all()


def test_rsample_gradient_is_that_of_the_mean() -> None:
    """d E[mu . x] / d kappa = d/dk k / (k + d - 1); five standard errors, false alarm 6e-7."""
    loc = unit(4)
    kappa = torch.full((20_000,), 3.0, dtype=F64, requires_grad=True)
    t = tp.PowerSpherical(loc, kappa).rsample() @ loc
    (gradient,) = torch.autograd.grad(t.sum(), kappa)
    error = gradient.std() / math.sqrt(len(gradient))
    assert abs(gradient.mean() - 3 / (3 + 3) ** 2) < 5 * error
    assert abs(t.mean() - 3 / 6) < 5 * t.std() / math.sqrt(len(t))


def test_float32_keeps_its_digits() -> None:
    loc = unit(4)
    for scale in SCALES:
        wide = tp.PowerSpherical(loc, torch.tensor(scale, dtype=F64))
        narrow = tp.PowerSpherical(loc.float(), torch.tensor(scale))
        x = wide.sample((100,))
        gap = (narrow.log_prob(x.float()).double() - wide.log_prob(x)).abs().max()
        assert gap < 1e-5 + 2e-5 * math.sqrt(scale)  # the input's own rounding, seen through the density
        assert abs(narrow.entropy().double() - wide.entropy()) < 2e-5


def test_contract() -> None:
    # Said aloud: torch.compile, once used in a process, turns the validation of distributions off.
    q = tp.PowerSpherical(unit(5, 1, 3), torch.rand(2, dtype=F64) + 0.1, validate_args=True)
    push = tp.Pushforward(tp.RealProjectiveSpace(2), q, validate_args=True)
    for law in (q, push):
        assert (law.batch_shape, law.event_shape) == ((5, 2), (3,))
        big = law.expand(torch.Size([4, 5, 2]))
        assert type(big) is type(law)
        assert big.rsample((7,)).shape == (7, 4, 5, 2, 3)
        assert big.sample().shape == (4, 5, 2, 3)
        x = unit(3)
        assert law.log_prob(x).shape == (5, 2)
        torch.testing.assert_close(big.log_prob(x)[1], law.log_prob(x))
        value = law.rsample((6,))
        each = torch.stack([law.log_prob(v) for v in value])
        torch.testing.assert_close(law.log_prob(value), each)
        assert not law.sample().requires_grad
        with pytest.raises(ValueError, match="support"):
            law.log_prob(2 * unit(3))
        assert law.log_prob(value[:0]).shape == (0, 5, 2)
    with pytest.raises(ValueError, match="loc"):
        tp.PowerSpherical(2 * unit(3), torch.ones((), dtype=F64), validate_args=True)
    with pytest.raises(ValueError, match="scale"):
        tp.PowerSpherical(unit(3), -torch.ones((), dtype=F64), validate_args=True)
    with pytest.raises(ValueError, match="d >= 2"):
        tp.PowerSpherical(torch.ones(1), torch.ones(()))
