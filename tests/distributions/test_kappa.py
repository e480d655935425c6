"""kappa, the KL of a wrapped normal to the uniform law of a circle: reference values, series, integration."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Normal

from tests.distributions.test_divergences import F64, close
from topoprior import kappa
from topoprior.distributions.kappa import kappa_series
from topoprior.distributions.theta import log_wrapped_normal

# --- kappa -------------------------------------------------------------------------------------

REFERENCE = {0.05: 1.5767937, 0.1: 0.8836483, 0.2: 0.2249086, 0.4: 0.0018077989, 0.8: 1.06423e-11}


@pytest.mark.parametrize("scale", REFERENCE)
def test_kappa_reference_values(scale: float) -> None:
    value = kappa(torch.tensor(scale, dtype=F64)).item()
    assert value == pytest.approx(
        REFERENCE[scale], rel=1e-5 if scale == 0.8 else 0, abs=6e-8 if scale < 0.8 else 0
    )
    if scale == 0.4:
        assert value == pytest.approx(REFERENCE[scale], abs=6e-11)
    single = kappa(torch.tensor(scale))
    assert single.dtype == torch.float32
    assert single.item() == pytest.approx(value, rel=1e-5)


def test_kappa_agrees_with_its_series() -> None:
    scale = torch.linspace(0.0661, 1.2, 400, dtype=F64)
    value, series = kappa(scale), kappa_series(scale)
    close(value, series, 1e-13)
    assert (value / series - 1).abs().max() < 1e-12  # relative, as kappa falls to 1e-25


def test_kappa_and_its_gradient_in_float32() -> None:
    """Relative to float64 at the same scale: 1e-6, and what the rounding of (2 pi s)^2 makes of r."""
    single = torch.logspace(-6, math.log10(1.4), 2000).requires_grad_()
    double = single.detach().double().requires_grad_()
    rounding = 2e-7 * (2 * math.pi * double.detach()).square()
    values = [kappa(s) for s in (single, double)]
    slopes = [torch.autograd.grad(v.sum(), s)[0] for v, s in zip(values, (single, double), strict=True)]
    for a, b in (values, slopes):
        assert ((a.double() / b - 1).abs() - rounding).max() < 1e-6


def test_kappa_of_any_layout() -> None:
    scale = torch.rand(4, 6, dtype=F64) + 0.05
    expected = torch.stack([torch.stack([kappa(s) for s in row]) for row in scale])  # from shape ()
    close(kappa(scale), expected, 1e-15)
    close(kappa(scale.T), expected.T, 1e-15)
    close(kappa(scale[:, ::2]), expected[:, ::2], 1e-15)
    close(kappa(scale[:1].expand(3, 6)), expected[:1].expand(3, 6), 1e-15)
    assert kappa(scale[:0]).shape == (0, 6)
    before = scale.clone()
    kappa(scale)
    assert torch.equal(scale, before)  # nothing of the caller's is written to
    assert kappa(torch.tensor(math.nan)).isnan()


@pytest.mark.parametrize("scale", [0.01, 0.05, 0.0659, 0.0661, 0.08, 0.15, 0.3, 0.5, 1.0])
def test_kappa_agrees_with_numerical_integration(scale: float) -> None:
    """The integral of f log f over the circle."""
    half = min(0.5, 9 * scale)  # the mass outside is below 1e-18
    x = half * ((torch.arange(4000, dtype=F64) + 0.5) / 2000 - 1)
    log_f = log_wrapped_normal(x, torch.tensor(scale, dtype=F64))
    integral = (log_f.exp() * log_f).sum().item() * 2 * half / 4000
    assert kappa(torch.tensor(scale, dtype=F64)).item() == pytest.approx(integral, abs=1e-10)


def test_kappa_of_a_narrow_normal_is_that_of_the_line() -> None:
    scale = torch.tensor([1e-6, 1e-3, 0.01, 0.06], dtype=F64)
    close(kappa(scale), -Normal(torch.zeros((), dtype=F64), scale).entropy(), 1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_kappa_is_finite_with_its_gradient(dtype: torch.dtype) -> None:
    scale = torch.logspace(-20, 20, 401, dtype=dtype).requires_grad_()
    value = kappa(scale)
    (gradient,) = torch.autograd.grad(value.sum(), scale)
    assert value.isfinite().all()
    assert gradient.isfinite().all()
    assert (value >= 0).all()
    assert (gradient <= 0).all()
    assert value[-1] == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_kappa_in_half_precision(dtype: torch.dtype) -> None:
    scale = torch.tensor([0.05, 0.2, 0.4], dtype=dtype)
    assert kappa(scale).dtype == dtype
    close(kappa(scale).float(), kappa(scale.float()), 0.01)


def test_kappa_derivatives() -> None:
    scale = torch.tensor([0.02, 0.05, 0.07, 0.1, 0.3, 0.5, 0.9], dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(kappa, (scale,))
    assert torch.autograd.gradgradcheck(kappa, (scale,))
    per_sample = torch.func.vmap(torch.func.grad(kappa))(scale.detach())
    close(per_sample, torch.autograd.grad(kappa(scale).sum(), scale)[0], 1e-12)
    close(torch.func.vmap(kappa)(scale.detach().reshape(7, 1)), kappa(scale.detach()).reshape(7, 1), 0)


@given(a=st.floats(1e-4, 3), b=st.floats(1e-4, 3))
def test_kappa_is_nonnegative_and_decreasing(a: float, b: float) -> None:
    for dtype in (torch.float32, F64):
        low, high = kappa(torch.tensor(sorted((a, b)), dtype=dtype)).tolist()
        assert low >= high * (1 - 1e-6)
        assert high >= 0
        if abs(a - b) > 1e-2 * max(a, b) and max(a, b) < 1:
            assert low > high


def test_kappa_of_numbers_and_integers() -> None:
    """Integers were rounded to integers with their result: 0."""
    assert kappa(torch.tensor([1, 2])).tolist() == kappa(torch.tensor([1.0, 2.0])).tolist()
    assert kappa(0.3).item() == kappa(torch.tensor(0.3)).item()
    for bad in ([0.3], "0.3", None, torch.tensor([1j])):
        with pytest.raises(TypeError, match="scale: expected"):
            kappa(bad)
