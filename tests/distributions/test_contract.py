"""What torch.distributions promises, kept by wrapped normals: shapes, expand, checks, entropy."""

import math
from typing import cast

import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

from tests.distributions.test_wrapped_normal import DTYPES, KINDS, close, wrapped
from tests.spaces.cases import (
    cell_grid,
    points,
    space_named,
    tilted,
)
from topoprior import Circle, FlatManifold, KleinBottle, UniformOn, WrappedNormal, cover_kl

# --- the contract ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["line", "torus", "klein", "moebius", "hexagonal"])
def test_shapes(name: str, dtype: torch.dtype) -> None:
    space = space_named(name)
    n = space.dim
    loc = torch.linspace(0, 1, 4, dtype=dtype)[:, None, None].expand(4, 1, n)
    scale = torch.tensor([0.2, 0.3, 0.4], dtype=dtype)[:, None].expand(3, n)
    full = torch.diag_embed(scale)
    for q in (WrappedNormal(space, loc, scale), WrappedNormal(space, loc, scale_tril=full)):
        assert q.batch_shape == (4, 3)
        assert q.event_shape == (n,)
        assert q.loc.shape == (4, 3, n)
        assert q.scale_tril.shape == (4, 3, n, n)
        assert q.rsample().shape == (4, 3, n)
        x = q.sample((2, 1))
        assert x.shape == (2, 1, 4, 3, n)
        assert x.dtype == dtype
        assert q.log_prob(x).shape == (2, 1, 4, 3)
        assert q.log_prob(x).dtype == dtype
        assert q.log_prob(torch.zeros(n, dtype=dtype)).shape == (4, 3)
        assert q.log_prob(torch.zeros(2, 1, 1, n, dtype=dtype)).shape == (2, 4, 3)
        assert q.sample((0,)).shape == (0, 4, 3, n)
        one = WrappedNormal(space, loc[2, 0], scale_tril=full[1]).log_prob(x[..., 2, 1, :])
        close(q.log_prob(x)[..., 2, 1], one, 1e-3 if dtype == torch.float32 else 1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_expand(kind: str) -> None:
    q = wrapped(KleinBottle(), torch.tensor([[0.1, 0.2]] * 3), "medium", kind)
    wide = q.expand((5, 3))
    assert type(wide) is WrappedNormal
    assert wide.batch_shape == (5, 3)
    assert wide.event_shape == (2,)
    assert wide.is_diagonal == q.is_diagonal
    x = q.sample()
    close(wide.log_prob(x), q.log_prob(x).expand(5, 3), 1e-6)
    assert wide.rsample((2,)).shape == (2, 5, 3, 2)
    assert wide.rsample()[0].sub(wide.rsample()[1]).abs().min() > 0  # draws are independent
    assert WrappedNormal(Circle(), torch.zeros(1), torch.ones(1)).expand((2, 3)).entropy().shape == (2, 3)
    with pytest.raises(ValueError, match="support"):
        WrappedNormal(KleinBottle(), q.loc, torch.ones(2), validate_args=True).expand((5, 3)).log_prob(
            x * math.nan
        )


def test_validate_args() -> None:
    K, loc, scale = KleinBottle(), torch.zeros(2), torch.ones(2)
    upper = torch.tensor([[1.0, 1.0], [0.0, 1.0]])
    for kwargs, name in (
        ({"loc": loc * math.nan, "scale": scale}, "loc"),
        ({"loc": loc, "scale": torch.tensor([1.0, 0.0])}, "scale"),
        ({"loc": loc, "scale": -scale}, "scale"),
        ({"loc": loc, "scale": scale * math.nan}, "scale"),
        ({"loc": loc, "scale_tril": upper}, "scale_tril"),
        ({"loc": loc, "scale_tril": -torch.eye(2)}, "scale_tril"),
    ):
        with pytest.raises(ValueError, match=f"parameter {name} "):
            WrappedNormal(K, **kwargs, validate_args=True)
        WrappedNormal(K, **kwargs, validate_args=False)
    q = WrappedNormal(K, loc, scale, validate_args=True)
    for value in (torch.zeros(3), torch.full((2,), math.nan)):
        with pytest.raises(ValueError, match="expand|size|support"):
            q.log_prob(value)
    with pytest.raises(ValueError, match="support|size|single dim"):
        q.log_prob(torch.zeros(()))


def test_arguments_are_checked() -> None:
    K, loc, scale = KleinBottle(), torch.zeros(2), torch.ones(2)
    with pytest.raises(TypeError, match="covering: expected a FlatManifold, found str"):
        WrappedNormal("klein", loc, scale)
    for kwargs in ({}, {"scale": scale, "scale_tril": torch.eye(2)}):
        with pytest.raises(ValueError, match="expected exactly one of the two"):
            WrappedNormal(K, loc, **kwargs)
    with pytest.raises(ValueError, match=r"loc: expected shape \(..., 2\), found \(3,\)"):
        WrappedNormal(K, torch.zeros(3), scale)
    with pytest.raises(ValueError, match=r"scale: expected shape \(..., 2\), found \(3,\)"):
        WrappedNormal(K, loc, torch.ones(3))
    with pytest.raises(ValueError, match=r"scale_tril: expected shape \(..., 2, 2\), found \(2,\)"):
        WrappedNormal(K, loc, scale_tril=scale)
    with pytest.raises(TypeError, match="covering: expected a Covering, found int"):
        UniformOn(2)


@pytest.mark.parametrize("kind", KINDS)
def test_arg_constraints_describe_the_arguments(kind: str) -> None:
    q = wrapped(KleinBottle(), torch.zeros(3, 2), "medium", kind)
    assert set(q.arg_constraints) == {"loc", "scale" if kind == "diagonal" else "scale_tril"}
    for name, constraint in q.arg_constraints.items():
        assert constraint.check(getattr(q, name)).shape == (3,)
        assert constraint.check(getattr(q, name)).all()
    assert q.support.check(q.sample((4,))).all()
    assert "WrappedNormal" in repr(q)


@pytest.mark.parametrize("name", ["line", "plane"])
def test_without_a_lattice_it_is_the_normal(name: str) -> None:
    space = space_named(name)
    loc, factor = points(space, seed=1), tilted(space, "medium")
    q, normal = WrappedNormal(space, loc, scale_tril=factor), MultivariateNormal(loc, scale_tril=factor)
    x = points(space, 20)
    close(q.log_prob(x), normal.log_prob(x), 1e-10)
    close(q.entropy(), normal.entropy(), 1e-9)


@pytest.mark.parametrize("scales", ["small", "medium"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["circle", "klein", "hexagonal"])
def test_entropy(name: str, kind: str, scales: str) -> None:
    """-integral of q log q over the base; below the entropy of the normal upstairs and below log volume."""
    space = space_named(name)
    q = wrapped(space, points(space, seed=1), scales, kind)
    grid, weight = cell_grid(space, 120)
    log_q = q.log_prob(grid)
    entropy = q.entropy().item()
    assert entropy == pytest.approx(-weight * (log_q.exp() * log_q).sum().item(), abs=1e-9)
    assert entropy <= MultivariateNormal(q.loc, scale_tril=q.scale_tril).entropy() + 1e-9
    assert entropy <= math.log(space.volume) + 1e-9


def test_entropy_is_batched_and_differentiable() -> None:
    loc = torch.tensor([[0.1, 0.2], [0.3, 0.0]], dtype=torch.float64)
    scale = torch.tensor([0.3, 0.2], dtype=torch.float64, requires_grad=True)
    entropy = WrappedNormal(KleinBottle(), loc, scale).entropy()
    assert entropy.shape == (2,)
    close(entropy[0], WrappedNormal(KleinBottle(), loc[0], scale).entropy(), 1e-12)
    (slope,) = torch.autograd.grad(entropy[0], scale)
    step = 1e-5 * torch.eye(2, dtype=torch.float64)
    for i in range(2):
        up, down = (
            WrappedNormal(KleinBottle(), loc[0], scale.detach() + s * step[i]).entropy() for s in (1, -1)
        )
        assert slope[i].item() == pytest.approx(((up - down) / 2e-5).item(), abs=1e-6)


@pytest.mark.parametrize("name", ["klein", "torus", "plane", "hexagonal", "moebius"])
@pytest.mark.parametrize("kind", KINDS)
def test_empty_batches(name: str, kind: str) -> None:
    """Of laws, and of points; checked as full ones are."""
    space = cast(FlatManifold, space_named(name))
    n = space.dim
    scales = {"scale": torch.ones(n)} if kind == "diagonal" else {"scale_tril": torch.eye(n)}
    many, one = (
        WrappedNormal(space, loc, **scales, validate_args=True)
        for loc in (torch.zeros(0, n), torch.zeros(n))
    )
    assert many.rsample().shape == (0, n)
    assert many.rsample((3,)).shape == (3, 0, n)
    assert one.log_prob(torch.zeros(0, n)).shape == (0,)
    assert many.log_prob(torch.zeros(n)).shape == (0,)
    if math.isfinite(space.volume):
        assert cover_kl(many, UniformOn(space)).shape == (0,)
        assert kl_divergence(many, UniformOn(space)).shape == (0,)
        assert UniformOn(space, validate_args=True).log_prob(torch.zeros(0, n)).shape == (0,)
