"""Laws that need many points: whether draws are uniform, and the volume."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from topoprior.testing.trial import Trial

_LIMIT = 5.5  # standard errors: 4e-8 a statistic
_DRAWS = 10_000
_WAVES = 24


def draws(t: Trial) -> Tensor:
    return t.space.sample_uniform(torch.Size([_DRAWS]), torch.float64, None, t.generator)


def uniform(t: Trial) -> None:
    """E Delta f = 0 for every smooth f, here waves of combinations of features; no other law keeps all of it."""
    space, expect = t.space, t.expect
    if space.volume == math.inf:
        law = "a space that is not compact carries no uniform law"
        expect.raises(law, ValueError, lambda: draws(t))
        return
    again = [
        space.sample_uniform(torch.Size([2, 3]), torch.float32, None, torch.Generator().manual_seed(1))
        for _ in range(2)
    ]
    expect.shape("sample_uniform", again[0], (2, 3, space.cover_dim))
    expect.dtype("sample_uniform", again[0], torch.float32)
    law = "sample_uniform draws from its generator"
    expect.true(law, torch.equal(*again), "the same numbers", "others")
    x = draws(t)
    h = 1e-3 * t.unit
    features = space.embed(x)
    spread = features.std(0).clamp_min(1e-9).unsqueeze(1) * math.sqrt(space.num_features)
    mixed = 1.5 * t.normal(space.num_features, _WAVES) / spread
    phase = 2 * math.pi * torch.rand(_WAVES, generator=t.generator, dtype=torch.float64)
    here = (features @ mixed + phase).sin()
    laplacian = torch.zeros_like(here)
    for v in t.basis(x).unbind(-1):
        for step in (h, -h):
            laplacian += ((space.embed(space.geodesic(x, v, step)[0]) @ mixed + phase).sin() - here) / h**2
    error = laplacian.std(0) / math.sqrt(len(x))
    law = "sample_uniform is uniform: the mean of a Laplacian is 0"
    expect.at_most(law, laplacian.mean(0).abs(), _LIMIT * error)


def ball_volumes(t: Trial) -> None:
    """P(d(x, y) < r) = vol(ball) / volume; the volume of the ball by the derivative of the exponential map."""
    space = t.space
    if space.volume == math.inf:
        return
    x, y = draws(t), draws(t)
    distance = space.distance(x, y)
    radius = 0.49 * min(space.shortest_loop, distance.max().item())
    inside = (distance < radius).double()
    v = t.normal(_DRAWS, space.dim)
    length = torch.rand(_DRAWS, 1, generator=t.generator, dtype=torch.float64) ** (1 / space.dim)
    v = radius * length * v / v.norm(dim=-1, keepdim=True)
    basis, h = t.basis(x), 1e-5 * radius

    def exponential(v: Tensor) -> Tensor:
        return space.geodesic(x, (basis @ v.unsqueeze(-1)).squeeze(-1), 1.0)[0]

    steps = h * torch.eye(space.dim, dtype=torch.float64)
    slopes = torch.stack([(exponential(v + e) - exponential(v - e)) / (2 * h) for e in steps], -1)
    stretch = (slopes.mT @ slopes).det().clamp_min(0).sqrt()
    log_ball = space.dim * math.log(radius * math.sqrt(math.pi)) - math.lgamma(1 + space.dim / 2)
    share = math.exp(log_ball) / space.volume * stretch
    expected = share.mean()
    spread = (expected * (1 - expected)).clamp_min(0) + share.var()
    limit = _LIMIT * (spread / _DRAWS).sqrt() + 10 / _DRAWS
    t.expect.close("volume is what balls in it say", inside.mean(), expected, limit)
