"""Divergences: what is registered, what is refused, batches, gradients."""

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from tests.distributions.test_divergences import F64, close, on_klein
from tests.spaces.cases import (
    space_named,
)
from topoprior import Circle, Euclidean, KleinBottle, Torus, UniformOn, WrappedNormal, cover_kl

# --- the contract ------------------------------------------------------------------------------


def test_kl_is_registered_only_where_it_is_exact() -> None:
    K = KleinBottle()
    q = on_klein(0.1, 0.2, [0.2, 0.1])
    for pair in ((q, q), (UniformOn(K), q), (q, Normal(0.0, 1.0))):
        with pytest.raises(NotImplementedError):
            kl_divergence(*pair)
    assert kl_divergence(UniformOn(K), UniformOn(K)) == 0
    assert cover_kl(UniformOn(K), UniformOn(K)) == 0


def test_mismatches_are_errors() -> None:
    q, p = on_klein(0.1, 0.2, [0.2, 0.1]), UniformOn(Torus(2))
    for divergence in (kl_divergence, cover_kl):
        with pytest.raises(ValueError, match=r"q lives on KleinBottle\(\), p on Torus\(2\)"):
            divergence(q, p)
        with pytest.raises(ValueError, match="expected the same space"):
            divergence(UniformOn(Circle()), p)
    with pytest.raises(TypeError, match="no closed form for UniformOn against WrappedNormal"):
        cover_kl(UniformOn(KleinBottle()), q)
    with pytest.raises(
        TypeError, match="expected distributions on a covering, found WrappedNormal and Normal"
    ):
        cover_kl(q, Normal(0.0, 1.0))
    with pytest.raises(ValueError, match="not compact"):
        UniformOn(Euclidean(2))


def test_equal_spaces_need_not_be_one_object() -> None:
    q = on_klein(0.1, 0.2, [0.2, 0.1])
    close(cover_kl(q, UniformOn(space_named("klein-generic"))), cover_kl(q, UniformOn(KleinBottle())), 0)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_batches_broadcast(dtype: torch.dtype) -> None:
    for space in (Circle(), KleinBottle()):
        n = space.dim
        q = WrappedNormal(space, torch.zeros(3, n, dtype=dtype), torch.full((3, n), 0.3, dtype=dtype))
        for p in (UniformOn(space), UniformOn(space).expand((2, 1))):
            for divergence in (kl_divergence, cover_kl):
                value = divergence(q, p)
                assert value.shape == torch.broadcast_shapes((3,), p.batch_shape)
                assert value.dtype == dtype
        one = kl_divergence(q, UniformOn(space))[0]
        close(kl_divergence(q.expand((2, 3)), UniformOn(space)), one.expand(2, 3), 1e-6)
        close(
            cover_kl(q.expand((2, 3)), UniformOn(space)), cover_kl(q, UniformOn(space)).expand(2, 3), 1e-6
        )
        wide = WrappedNormal(space, torch.zeros(2, 1, n, dtype=dtype), torch.full((n,), 0.4, dtype=dtype))
        assert cover_kl(q, wide).shape == (2, 3)
    p = UniformOn(Circle())
    assert kl_divergence(p.expand((3,)), p.expand((2, 1))).shape == (2, 3)
    assert cover_kl(p.expand((3,)), p.expand((2, 1))).shape == (2, 3)


def test_exact_kl_has_gradients() -> None:
    loc = torch.tensor([0.3, 0.1], dtype=F64, requires_grad=True)
    scale = torch.tensor([0.3, 0.2], dtype=F64, requires_grad=True)
    K = KleinBottle()
    value = kl_divergence(WrappedNormal(K, loc, scale), UniformOn(K))
    gradients = torch.autograd.grad(value, (loc, scale))
    for i in range(2):
        for which in range(2):
            step = 1e-5 * torch.eye(2, dtype=F64)[i]
            ends = [
                kl_divergence(
                    WrappedNormal(K, loc + s * step * (which == 0), scale + s * step * (which == 1)),
                    UniformOn(K),
                )
                for s in (1, -1)
            ]
            slope = ((ends[0] - ends[1]) / 2e-5).item()
            assert gradients[which][i].item() == pytest.approx(slope, abs=1e-7)
