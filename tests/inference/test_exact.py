"""Samplers against exact posteriors on coverings, by quadrature, and against the prior.

A state holds many independent copies of one problem. The mean over time of a statistic is then an independent number
for every copy, and Student's t asks whether their mean is the exact one: no effective sample size is needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

import topoprior as tp
from topoprior.inference import HMC, Potential, StateSpace, sample_density
from topoprior.inference.hmc import Move, Point
from topoprior.inference.tuning import Tuning
from topoprior.priors import Part, StandardNormal, Uniform

COPIES = 64
FALSE_ALARM = 1e-6  # of each t-test


class Problem(NamedTuple):
    """A law on a space: log density of lifts, and points with weights that integrate over the space."""

    space: tp.Covering
    log_prob: Callable[[Tensor], Tensor]
    points: Tensor
    weights: Tensor


def flat_problem(space: tp.FlatManifold, seed: int = 0) -> Problem:
    """Uniform prior, three observations with wrapped normal noise."""
    generator = torch.Generator().manual_seed(seed)
    y = 0.15 * torch.randn(3, space.dim, generator=generator, dtype=torch.float64) + 0.3
    scale = torch.full((space.dim,), 0.2, dtype=torch.float64)

    def log_prob(z: Tensor) -> Tensor:
        law = tp.WrappedNormal(space, z.unsqueeze(-2), scale, validate_args=False)
        return law.log_prob(y).sum(-1)

    # The trapezoid rule of a periodic function over the lattice cell, which covers the space num_sheets times.
    line = (torch.arange(64, dtype=torch.float64) + 0.5) / 64
    points = torch.cartesian_prod(*[line] * space.dim).reshape(-1, space.dim) @ space.lattice.T
    return Problem(space, log_prob, points, torch.ones(len(points), dtype=torch.float64))


def sphere_points(dim: int) -> tuple[Tensor, Tensor]:
    """Product quadrature on S^2 or S^3, weights up to a constant."""
    nodes, weights = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(24))
    angle = torch.arange(48, dtype=torch.float64) * (2 * math.pi / 48)
    if dim == 2:
        h, phi = torch.meshgrid(nodes, angle, indexing="ij")
        r = (1 - h**2).sqrt()
        points = torch.stack([r * phi.cos(), r * phi.sin(), h], -1).reshape(-1, 3)
        return points, weights[:, None].expand(-1, 48).reshape(-1)
    # Hopf coordinates: (sqrt(t) e^{ia}, sqrt(1 - t) e^{ib}) with t uniform on [0, 1].
    t, a, b = torch.meshgrid((nodes + 1) / 2, angle, angle, indexing="ij")
    p, q = t.sqrt(), (1 - t).sqrt()
    points = torch.stack([p * a.cos(), p * a.sin(), q * b.cos(), q * b.sin()], -1).reshape(-1, 4)
    return points, weights[:, None, None].expand(-1, 48, 48).reshape(-1)


def spherical_problem(space: tp.SphericalSpaceForm) -> Problem:
    """Likelihood exp(3 |x . y|^2), the same for x and -x, for two observations."""
    y = torch.eye(space.cover_dim, dtype=torch.float64)[:2] + 0.2
    y = y / y.norm(dim=-1, keepdim=True)
    points, weights = sphere_points(space.dim)
    return Problem(space, lambda x: 3 * (x @ y.T).square().sum(-1), points, weights)


PROBLEMS = {
    "circle": lambda: flat_problem(tp.Circle()),
    "torus": lambda: flat_problem(tp.Torus(2)),
    "Klein bottle": lambda: flat_problem(tp.KleinBottle()),
    "RP2": lambda: spherical_problem(tp.RealProjectiveSpace(2)),
    "SO(3)": lambda: spherical_problem(tp.RotationGroup()),
}


def exact_features(problem: Problem) -> Tensor:
    weights = (
        problem.weights * (problem.log_prob(problem.points) - problem.log_prob(problem.points).max()).exp()
    )
    return (weights[:, None] * problem.space.embed(problem.points)).sum(0) / weights.sum()


def p_values(draws: Tensor, exact: Tensor) -> Tensor:
    """Of the t-test for every statistic; draws (time, copies, statistics)."""
    means = draws.mean(0)
    return torch.from_numpy(stats.ttest_1samp(means.numpy(), exact.numpy(), axis=0).pvalue)


@pytest.mark.parametrize("method", ["hmc", "baoab"])
@pytest.mark.parametrize("name", PROBLEMS)
def test_posteriors_on_coverings(name: str, method: str) -> None:
    problem = PROBLEMS[name]()
    parts = {"z": Part(torch.Size([COPIES, problem.space.cover_dim]), Uniform(problem.space))}
    options = {"energy_error": 2e-5} if method == "baoab" else {}
    samples = sample_density(
        lambda x: problem.log_prob(x["z"]).sum(), parts, method=method, num_chains=1, num_samples=40,
        warmup=80, thinning=1 if method == "hmc" else 4, progress=False, **options,
    )  # fmt: skip
    z = samples.parameters["z"][0]
    found = problem.space.embed(z)
    exact = exact_features(problem)
    assert p_values(found, exact).min() > FALSE_ALARM
    # The test has power: it sees that the posterior is not the prior, by a wide margin.
    prior = (problem.weights[:, None] * problem.space.embed(problem.points)).sum(0) / problem.weights.sum()
    assert p_values(found, prior).min() < FALSE_ALARM
    assert samples.stats["divergences"].sum() == 0
    torch.testing.assert_close(z, problem.space.project(z))  # stored in the fundamental domain
    # Not all in one place: the spread over copies is that of the law, not of a start.
    assert found[-1].std(0).max() > 0.1


@pytest.mark.parametrize("method", ["hmc", "baoab"])
def test_without_data_the_prior(method: str) -> None:
    """Uniform on the Klein bottle by chi-squared over 4 x 4 cells, amplitudes normal by Kolmogorov-Smirnov; false alarm 1e-6
    each. 256 copies at one time are independent."""
    K = tp.KleinBottle()
    parts = {
        "z": Part(torch.Size([256, 2]), Uniform(K)),
        "alpha": Part(torch.Size([256]), StandardNormal()),
    }

    def log_density(x: dict[str, Tensor]) -> Tensor:
        return -x["alpha"].square().sum() / 2

    samples = sample_density(
        log_density,
        parts,
        method=method,
        num_chains=1,
        num_samples=8,
        warmup=60,
        thinning=30,
        progress=False,
    )
    for s in range(8):
        u, v = samples.parameters["z"][0, s].unbind(-1)  # in [0, 1) x [0, 1)
        cells = torch.bincount((u * 4).long().clamp(max=3) * 4 + (v * 4).long().clamp(max=3), minlength=16)
        assert stats.chisquare(cells.numpy()).pvalue > 1e-6
        assert stats.kstest(samples.parameters["alpha"][0, s].numpy(), "norm").pvalue > 1e-6


@pytest.mark.parametrize("accept", [True, False])
def test_detailed_balance(accept: bool) -> None:
    """From the target itself, one trajectory with a step so long that a third is refused: (q, q') and (q', q) have one law.

    Student's t on f(q) g(q') - g(q) f(q') for features f, g; false alarm 1e-6 each. Without the accept step it fails.
    """
    torus, count = tp.Torus(1), 400
    space = StateSpace({"z": Part(torch.Size([1, 1]), Uniform(torus))})

    def log_density(p: dict[str, Tensor]) -> Tensor:
        angle = 2 * math.pi * p["z"].sum()
        return 2 * angle.cos() + 0.7 * (2 * angle).sin()

    potential = Potential(log_density, space)
    grid = ((torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000)[:, None]
    angle = 2 * math.pi * grid[:, 0]
    law = (2 * angle.cos() + 0.7 * (2 * angle).sin()).softmax(0)
    starts = grid[torch.multinomial(law, count, replacement=True)]
    sampler, tuning = HMC(), Tuning(space, 0, 0.5, starts[0])
    generator, moves = torch.Generator().manual_seed(0), []
    for q in starts:
        point = Point(q, *potential(q))
        if accept:
            moves.append(sampler.step(potential, tuning, point, torch.zeros_like(q), generator))
        else:
            v = torch.randn(1, generator=generator, dtype=torch.float64) / tuning.mass.sqrt()
            end, _ = sampler.integrate(potential, tuning.mass, point, v, tuning.step_size, 3)
            moves.append(Move(end, v, 0.0, 1.0, False, 1.0))
    ends = torch.stack([move.point.q for move in moves])
    before, after = (
        torch.stack([(2 * math.pi * k * x[:, 0] + s).cos() for k in (1, 2) for s in (0.0, 1.5)], -1)
        for x in (starts, ends)
    )
    products = before[:, :, None] * after[:, None, :]
    i, j = torch.triu_indices(4, 4, 1)
    drift = torch.cat([(products - products.mT)[:, i, j], after - before], 1)
    least = stats.ttest_1samp(drift.numpy(), 0.0, axis=0).pvalue.min()
    assert (least > FALSE_ALARM) == accept
    if accept:
        assert 0.5 < sum(move.acceptance for move in moves) / count < 0.8


def test_a_funnel_at_amplitude_0() -> None:
    """y ~ N(alpha cos(2 pi z), .3^2): near alpha = 0 the latent is free. E alpha^2 and E |alpha| by quadrature."""
    circle, y, noise = tp.Circle(), 0.5, 0.3
    alpha = torch.linspace(-8, 8, 1601, dtype=torch.float64)[:, None]
    z = (torch.arange(256, dtype=torch.float64) + 0.5)[None] / 256
    log_p = -(alpha**2) / 2 - (y - alpha * (2 * math.pi * z).cos()).square() / (2 * noise**2)
    p = log_p.exp()
    exact = torch.stack([(p * f).sum() / p.sum() for f in (alpha**2, alpha.abs())])
    parts = {
        "z": Part(torch.Size([COPIES, 1]), Uniform(circle)),
        "alpha": Part(torch.Size([COPIES]), StandardNormal()),
    }

    def log_density(x: dict[str, Tensor]) -> Tensor:
        mean = x["alpha"] * (2 * math.pi * x["z"].squeeze(-1)).cos()
        return -(x["alpha"].square() / 2 + (y - mean).square() / (2 * noise**2)).sum()

    samples = sample_density(log_density, parts, num_chains=1, num_samples=300, warmup=200, progress=False)
    found = samples.parameters["alpha"][0]
    assert p_values(torch.stack([found.square(), found.abs()], -1), exact).min() > FALSE_ALARM


def test_baoab_on_a_gaussian_has_no_bias_in_position() -> None:
    """A correlated normal, a long step: variances are exact, and the kinetic temperature is 1."""
    precision = torch.tensor([[2.0, 0.8], [0.8, 1.0]], dtype=torch.float64)
    covariance = torch.linalg.inv(precision)
    parts = {"x": Part(torch.Size([COPIES, 2]), StandardNormal())}
    samples = sample_density(
        lambda x: -0.5 * (x["x"] @ precision * x["x"]).sum(), parts, method="baoab", num_chains=1,
        num_samples=200, warmup=400, thinning=5, progress=False,
    )  # fmt: skip
    x = samples.parameters["x"][0]
    products = torch.stack([x[..., 0] ** 2, x[..., 0] * x[..., 1], x[..., 1] ** 2], -1)
    exact = torch.stack([covariance[0, 0], covariance[0, 1], covariance[1, 1]])
    assert p_values(products, exact).min() > FALSE_ALARM
    temperature = samples.stats["temperature"][0]
    assert abs(temperature.mean() - 1) < 0.05
    assert samples.step_sizes[0] > 0.2
