"""What laws take as arguments, what they refuse by name, and what half precision gives."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import Distribution, Normal, kl_divergence

from topoprior import (
    KleinBottle,
    PowerSpherical,
    Product,
    Pushforward,
    RealProjectiveSpace,
    RotationGroup,
    Sphere,
    Torus,
    UniformOn,
    WrappedNormal,
    cover_kl,
)

K = KleinBottle()
POLE = torch.tensor([0.0, 0.0, 1.0])


def same_law(a: Distribution, b: Distribution, x: torch.Tensor) -> None:
    assert a.batch_shape == b.batch_shape
    torch.testing.assert_close(a.log_prob(x), b.log_prob(x))


def test_numbers_stand_for_tensors() -> None:
    loc, x = torch.tensor([[0.3, 0.2], [0.1, 0.4]]), torch.tensor([0.5, 0.1])
    for number in (0.2, np.float32(0.2), torch.tensor(0.2)):
        same_law(WrappedNormal(K, loc, number), WrappedNormal(K, loc, torch.full((2,), 0.2)), x)
    same_law(WrappedNormal(K, loc.long(), 1), WrappedNormal(K, torch.zeros(2, 2), torch.ones(2)), x)
    same_law(
        WrappedNormal(K, 0.5, torch.ones(2)), WrappedNormal(K, torch.full((2,), 0.5), torch.ones(2)), x
    )
    scale_tril = torch.tensor([[2, 0], [1, 1]])
    same_law(
        WrappedNormal(K, 0, scale_tril=scale_tril),
        WrappedNormal(K, torch.zeros(2), None, scale_tril.float()),
        x,
    )
    same_law(PowerSpherical(POLE, 10), PowerSpherical(POLE, torch.tensor(10.0)), POLE)
    same_law(PowerSpherical(POLE.long(), 10.0), PowerSpherical(POLE, torch.tensor(10.0)), POLE)
    assert WrappedNormal(K, loc.double(), 0.2).scale.dtype == torch.float64


@pytest.mark.parametrize(
    "wrong", [[0.1, 0.2], np.array([0.1, 0.2]), "0.1", None, 0.1j, torch.zeros(2) * 1j]
)
def test_what_is_no_tensor_is_named(wrong: object) -> None:
    two = torch.ones(2)
    with pytest.raises(TypeError, match="loc: expected a"):
        WrappedNormal(K, wrong, two)
    with pytest.raises(TypeError, match="loc: expected a"):
        PowerSpherical(wrong, torch.tensor(1.0))
    if wrong is not None:
        with pytest.raises(TypeError, match="scale: expected a"):
            WrappedNormal(K, two, wrong)
        with pytest.raises(TypeError, match="scale_tril: expected a"):
            WrappedNormal(K, two, scale_tril=wrong)
    with pytest.raises(TypeError, match="scale: expected a"):
        PowerSpherical(POLE, wrong)
    with pytest.raises(TypeError, match="dtype: expected a dtype of real numbers"):
        UniformOn(K, dtype=torch.int64)
    base = Normal(two, two)
    with pytest.raises(TypeError, match="radius: expected a number"):
        Pushforward(K, torch.distributions.Independent(base, 1), radius="1")  # type: ignore[arg-type]


def test_a_center_at_infinity_is_refused() -> None:
    for bad in (math.inf, math.nan):
        with pytest.raises(ValueError, match="loc"):
            WrappedNormal(K, torch.tensor([bad, 0.0]), 0.2)
        with pytest.raises(ValueError, match="loc"):
            WrappedNormal(K, torch.tensor([bad, 0.0]), scale_tril=torch.eye(2))


def test_densities_at_integers() -> None:
    """The uniform density at an integer lift was cut to an integer: -2 on the sphere."""
    pole = torch.tensor([0, 0, 1])
    assert UniformOn(Sphere(2)).log_prob(pole).item() == pytest.approx(-math.log(4 * math.pi))
    same_law(UniformOn(RotationGroup()), UniformOn(RotationGroup()), torch.tensor([1.0, 0, 0, 0]))
    q = PowerSpherical(POLE, 3.0)
    assert q.log_prob(pole) == q.log_prob(POLE)
    pushed = Pushforward(RealProjectiveSpace(2), q)
    assert pushed.log_prob(pole) == pushed.log_prob(POLE)
    for kind in ({"scale": 0.3}, {"scale_tril": torch.eye(2) / 3}):
        q = WrappedNormal(K, torch.tensor([0.3, 0.2]), **kind)
        assert q.log_prob(torch.tensor([1, 0])) == q.log_prob(torch.tensor([1.0, 0.0]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scale", [1e-6, 1e-3, 0.2, 3.0])
def test_wrapped_normals_in_half_precision(dtype: torch.dtype, scale: float) -> None:
    """1 / scale^2 overflows: the density was NaN. It is the float64 one of the numbers as they are stored, rounded."""
    for space in (Torus(2), K):
        loc, width = torch.tensor([0.25, 0.125], dtype=dtype), torch.full((2,), scale, dtype=dtype)
        q, exact = WrappedNormal(space, loc, width), WrappedNormal(space, loc.double(), width.double())
        for x in (loc, loc + width, torch.tensor([0.75, 0.5], dtype=dtype)):
            found, expected = q.log_prob(x), exact.log_prob(x.double())
            assert found.dtype == dtype
            if expected < torch.finfo(dtype).min:
                assert found == -math.inf
            else:
                tolerance = 2 * torch.finfo(dtype).eps
                torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)


def test_scales_whose_square_underflows() -> None:
    for dtype, scale in ((torch.float32, 1e-30), (torch.float64, 1e-200)):
        loc = torch.tensor([0.25, 0.5], dtype=dtype)
        q = WrappedNormal(Torus(2), loc, scale)
        expected = -2 * math.log(scale) - math.log(2 * math.pi)
        assert q.log_prob(loc).item() == pytest.approx(expected, rel=1e-6)
        assert q.log_prob(loc + 0.5).item() == -math.inf


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_power_spherical_in_half_precision(dtype: torch.dtype) -> None:
    mean = torch.tensor([0.6, 0.0, 0.8], dtype=dtype)
    q = PowerSpherical(mean, torch.tensor(5.0, dtype=dtype))
    exact = PowerSpherical(mean.double(), torch.tensor(5.0).double(), validate_args=False)
    x = q.rsample((2000,))
    assert x.dtype == dtype
    assert (x.double().norm(dim=-1) - 1).abs().max() < 2 * torch.finfo(dtype).eps
    # Each coordinate has a variance below 1: 6 standard errors, a false alarm in 1e8.
    assert (x.double().mean(0) - exact.mean).abs().max() < 6 / math.sqrt(2000)
    tolerance = 4 * torch.finfo(dtype).eps
    pairs = [(q.log_prob(x), exact.log_prob(x.double())), (q.entropy(), exact.entropy())]
    pairs.append((kl_divergence(q, UniformOn(Sphere(2))), kl_divergence(exact, UniformOn(Sphere(2)))))
    for found, expected in pairs:
        assert found.dtype == dtype
        torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)


def test_laws_show_their_space() -> None:
    q = WrappedNormal(K, torch.zeros(3, 2), 0.2)
    assert repr(q) == "WrappedNormal(KleinBottle(), batch_shape=(3,))"
    assert repr(WrappedNormal(Torus(2), 0.0, 0.2)) == "WrappedNormal(Torus(2))"
    assert (
        repr(UniformOn(Product(K, RotationGroup()))) == "UniformOn(Product(KleinBottle(), RotationGroup()))"
    )
    pushed = repr(Pushforward(RealProjectiveSpace(2), PowerSpherical(POLE, 5.0)))
    assert pushed.startswith("Pushforward(RealProjectiveSpace(2), PowerSpherical(")
    assert "\n" not in pushed


@pytest.mark.parametrize("kind", ["scale", "scale_tril"])
def test_first_use_of_a_law_in_inference_mode(kind: str) -> None:
    """Nothing of a law is kept from a context in which it cannot be differentiated."""
    value = torch.full((2,), 0.2, requires_grad=True)
    q = WrappedNormal(K, torch.zeros(2), **{kind: value if kind == "scale" else torch.diag(value)})
    with torch.inference_mode():
        q.entropy(), q.log_prob(torch.zeros(2)), q.rsample(), cover_kl(q, UniformOn(K)), q.scale_tril
    (kl_divergence(q, UniformOn(K)) + cover_kl(q, UniformOn(K)) + q.log_prob(torch.zeros(2))).backward()
    assert value.grad is not None
    assert value.grad.isfinite().all()


def test_infinitely_wide_laws_are_refused() -> None:
    for scale in (math.inf, torch.tensor([math.inf, 0.1])):
        with pytest.raises(ValueError, match="scale"):
            WrappedNormal(K, 0.0, scale)
    with pytest.raises(ValueError, match="scale_tril"):
        WrappedNormal(K, 0.0, scale_tril=torch.tensor([[math.inf, 0.0], [0.0, 1.0]]))
    with pytest.raises(ValueError, match="scale"):
        PowerSpherical(POLE, math.inf)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_the_density_of_no_point_is_nan_without_validation(bad: float) -> None:
    for law in (
        UniformOn(K, validate_args=False),
        UniformOn(Sphere(2), validate_args=False),
        WrappedNormal(K, 0.0, 0.2, validate_args=False),
        PowerSpherical(POLE, 2.0, validate_args=False),
    ):
        points = torch.zeros(2, *law.event_shape)
        points[:, -1] = 1
        points[0, 0] = bad
        found = law.log_prob(points)
        assert found[0].isnan()
        assert found[1].isfinite()


def test_a_dtype_of_8_bits_is_refused() -> None:
    with pytest.raises(TypeError, match="dtype: expected a dtype of real numbers"):
        UniformOn(Torus(1), dtype=torch.float8_e4m3fn)
