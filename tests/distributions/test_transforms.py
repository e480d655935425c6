"""Laws under vmap, grad and torch.compile."""

import pytest
import torch
from torch import Tensor

from tests.distributions.test_wrapped_normal import KINDS, close, wrapped
from tests.spaces.cases import (
    points,
    space_named,
)
from topoprior import Circle, FlatManifold, KleinBottle, Torus, UniformOn, WrappedNormal, cover_kl

# --- transforms --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["circle", "klein", "hexagonal"])
def test_vmap_and_grad(name: str, kind: str) -> None:
    space = space_named(name)
    loc = points(space, 4, seed=1)
    q = wrapped(space, loc, "medium", kind)
    scale = q.scale if kind == "diagonal" else q.scale_tril
    x = q.sample()

    def log_prob(x: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
        kwargs = {"scale" if kind == "diagonal" else "scale_tril": scale}
        return WrappedNormal(space, loc, **kwargs, validate_args=False).log_prob(x)

    close(torch.func.vmap(log_prob)(x, loc, scale), q.log_prob(x), 1e-10)
    gradients = torch.func.vmap(torch.func.grad(log_prob))(x, loc, scale)
    x = x.requires_grad_()
    (expected,) = torch.autograd.grad(q.log_prob(x).sum(), x)
    close(gradients, expected, 1e-8)


def loss(p: UniformOn, x: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    q = WrappedNormal(p.covering, loc, scale, validate_args=False)
    return q.log_prob(x) + cover_kl(q, p)


@pytest.mark.parametrize("space", [Circle(), Torus(2), KleinBottle()], ids=repr)
def test_traces_as_one_graph(space: FlatManifold) -> None:
    """torch.compile(fullgraph=True), without code generation: no graph breaks, same values and gradients."""
    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    loc, scale = points(space, 3), torch.full((3, space.dim), 0.3, dtype=torch.float64)
    x = points(space, 3, seed=2)
    results = []
    for f in (loss, compiled):
        leaves = [t.clone().requires_grad_() for t in (x, loc, scale)]
        value = f(UniformOn(space), *leaves)
        results.append([value, *torch.autograd.grad(value.sum(), leaves)])
    for a, b in zip(*results, strict=True):
        close(a, b, 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["circle", "klein", "hexagonal"])
def test_everything_inside_compiled_code(name: str, kind: str) -> None:
    """Distributions are made, sampled and compared inside the graph, for both kinds of scale."""
    torch._dynamo.reset()
    space = space_named(name)
    key = "scale" if kind == "diagonal" else "scale_tril"

    def inside(x: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
        p = UniformOn(space)
        q = WrappedNormal(space, loc, **{key: scale}, validate_args=False)
        drawn = q.rsample() + p.sample().to(x) * 0
        return q.log_prob(x) + cover_kl(q, p) + p.log_prob(x) + p.entropy() + 0 * drawn.sum()

    q = wrapped(space, points(space, 3), "medium", kind)
    arguments = (points(space, 3, seed=2), q.loc, getattr(q, key))
    compiled = torch.compile(inside, fullgraph=True, backend="aot_eager")
    results = []
    for f in (inside, compiled):
        leaves = [t.clone().requires_grad_() for t in arguments]
        value = f(*leaves)
        results.append([value, *torch.autograd.grad(value.sum(), leaves)])
    for a, b in zip(*results, strict=True):
        close(a, b, 1e-9)


@pytest.mark.slow
def test_compiles() -> None:
    torch._dynamo.reset()
    K = KleinBottle()
    loc, scale = points(K, 3), torch.full((3, 2), 0.3, dtype=torch.float64)
    x = points(K, 3, seed=2)
    close(
        torch.compile(loss, fullgraph=True)(UniformOn(K), x, loc, scale),
        loss(UniformOn(K), x, loc, scale),
        1e-9,
    )
