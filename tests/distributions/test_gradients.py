"""Gradients of wrapped normals: finite everywhere, by finite differences, of samples."""

import pytest
import torch
from torch import Tensor

from tests.distributions.test_wrapped_normal import DTYPES, KINDS, close, wrapped
from tests.spaces.cases import (
    FLAT,
    SCALES,
    diagonal,
    points,
    space_named,
    tilted,
)
from topoprior import WrappedNormal

# --- gradients ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FLAT)
def test_gradients_are_finite_everywhere(name: str, kind: str, dtype: torch.dtype) -> None:
    space = space_named(name)
    n = space.dim
    x = points(space, 8, dtype=dtype, seed=1)
    if space.rank:  # seams, corners, the center and its antipodes
        lattice = space.lattice.to(dtype).sum(1)
        x[0], x[1], x[2], x[3] = 0, lattice / 2, lattice, -lattice / 2
    loc = torch.zeros(n, dtype=dtype, requires_grad=True)
    make = diagonal if kind == "diagonal" else tilted
    scale = torch.stack([make(space, scales, dtype) for scales in SCALES]).requires_grad_()
    value = x.unsqueeze(1).requires_grad_()
    argument = {"scale" if kind == "diagonal" else "scale_tril": scale}
    log_prob = WrappedNormal(space, loc, **argument, validate_args=False).log_prob(value)
    assert log_prob.shape == (8, len(SCALES))
    assert log_prob.isfinite().all()
    for gradient in torch.autograd.grad(log_prob.sum(), (loc, scale, value)):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scales", ["small", "mixed-medium"])
@pytest.mark.parametrize("name", ["line", "circle", "klein", "moebius", "hexagonal"])
def test_log_prob_gradcheck(name: str, scales: str, kind: str) -> None:
    space = space_named(name)
    q = wrapped(space, points(space, seed=1), scales, kind)
    x = q.sample((2,)).requires_grad_()
    loc = q.loc.clone().requires_grad_()
    scale = (q.scale if kind == "diagonal" else q.scale_tril).clone().requires_grad_()

    def log_prob(x: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
        if kind == "diagonal":
            return WrappedNormal(space, loc, scale, validate_args=False).log_prob(x)
        return WrappedNormal(space, loc, scale_tril=scale.tril(), validate_args=False).log_prob(x)

    assert torch.autograd.gradcheck(log_prob, (x, loc, scale), atol=1e-4, rtol=1e-4, fast_mode=True)


@pytest.mark.parametrize("kind", KINDS)
def test_rsample_is_reparameterized(kind: str) -> None:
    space = space_named("klein")
    q = wrapped(space, torch.zeros(2, dtype=torch.float64, requires_grad=True), "medium", kind)
    loc, scale = q.loc, q.scale if kind == "diagonal" else q.scale_tril
    scale.requires_grad_()
    q = WrappedNormal(space, loc, **{"scale" if kind == "diagonal" else "scale_tril": scale})
    noise = torch.autograd.grad(q.rsample((50000,)).square().mean(0).sum(), (loc, scale))
    close(noise[0], torch.zeros(2, dtype=torch.float64), 0.02)  # d E[x^2] / d loc = 2 loc; 5 std errors
    close(noise[1], 2 * scale.detach(), 0.03)
    assert not q.sample().requires_grad
    assert q.has_rsample
