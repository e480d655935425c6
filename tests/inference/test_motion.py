"""Geodesics, trajectories and what they conserve."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import topoprior as tp
from topoprior.inference import HMC, Potential, StateSpace, sample_density
from topoprior.inference.hmc import Point, kinetic
from topoprior.inference.tuning import Tuning
from topoprior.priors import Part, StandardNormal, Uniform


def mixed() -> tuple[Potential, Tensor]:
    """A product of all kinds, with a deck-invariant energy that couples them."""
    K, P = tp.KleinBottle(), tp.RealProjectiveSpace(2)
    parts = {
        "z": Part(torch.Size([3, 2]), Uniform(K)),
        "n": Part(torch.Size([3, 3]), Uniform(P)),
        "x": Part(torch.Size([3]), StandardNormal()),
    }

    def log_density(p: dict[str, Tensor]) -> Tensor:
        features = K.embed(p["z"]).sum() + (P.embed(p["n"]) * p["x"][:, None]).sum()
        return (
            features.sin() * 2 - p["x"].square().sum() / 2 - (K.embed(p["z"])[:, 0] - p["x"]).square().sum()
        )

    space = StateSpace(parts)
    q = space.flatten(
        {name: part.law.sample(part.shape, torch.empty(0).double()) for name, part in parts.items()}
    )
    return Potential(log_density, space), q


def test_trajectories_are_reversible_and_conserve_energy() -> None:
    potential, q = mixed()
    space = potential.space
    mass = space.pool(space.stiffness * (1 + torch.rand(space.size, dtype=torch.float64)))
    v = space.tangent(q, torch.randn_like(q) / mass.sqrt())
    sampler, point = HMC(), Point(q, *potential(q))
    errors = []
    for step in (0.01, 0.005):
        count = round(0.5 / step)
        end, w = sampler.integrate(potential, mass, point, v, step, count)
        back, u = sampler.integrate(potential, mass, end, -w, step, count)
        torch.testing.assert_close(back.q, q)
        torch.testing.assert_close(u, -v)
        errors.append(abs(end.energy + kinetic(mass, w) - point.energy - kinetic(mass, v)))
    assert errors[0] < 0.05
    assert errors[1] < 0.5 * errors[0] + 1e-4  # of second order: a quarter


def test_trajectories_conserve_volume() -> None:
    """det of the map (q, v) -> (q', v') on a flat cover is 1."""
    K = tp.KleinBottle()
    space = StateSpace({"z": Part(torch.Size([1, 2]), Uniform(K))})
    potential = Potential(
        lambda p: 2 * K.embed(p["z"])[..., 0].sum() + K.embed(p["z"])[..., 3].sum(), space
    )
    mass = torch.tensor([1.0, 3.0], dtype=torch.float64)

    def move(state: Tensor) -> Tensor:
        q, v = state.split(2)
        end, w = HMC().integrate(potential, mass, Point(q, *potential(q)), v, 0.1, 5)
        return torch.cat([end.q, w])

    state, h = torch.randn(4, dtype=torch.float64), 1e-5
    columns = [(move(state + h * e) - move(state - h * e)) / (2 * h) for e in torch.eye(4).double()]
    assert torch.linalg.det(torch.stack(columns, 1)).item() == pytest.approx(1.0, abs=1e-5)


def test_deck_moves_leave_energies_and_trajectories_as_they_are() -> None:
    """A trajectory from another lift, with the velocity that the deck move makes of it, ends at the same point."""
    potential, q = mixed()
    space = potential.space
    mass = Tuning(space, 10, 0.1, q).mass
    v = space.tangent(q, torch.randn_like(q) / mass.sqrt())
    x, w = space.unflatten(q), space.unflatten(v)
    glide, mirror = torch.tensor([1.0, 0.0]).double(), torch.tensor([1.0, -1.0]).double()
    other = space.flatten({"z": x["z"] * mirror + glide, "n": -x["n"], "x": x["x"]})
    other_v = space.flatten({"z": w["z"] * mirror, "n": -w["n"], "x": w["x"]})
    ends = []
    for start_q, start_v in ((q, v), (other, other_v)):
        point = Point(start_q, *potential(start_q))
        end, end_v = HMC().integrate(potential, mass, point, start_v, 0.05, 20)
        ends.append((point.energy, end.energy, kinetic(mass, end_v), space.project(end.q)))
    assert ends[0][:3] == pytest.approx(ends[1][:3])
    a, b = (space.unflatten(end[3]) for end in ends)
    assert tp.KleinBottle().distance(a["z"], b["z"]).max() < 1e-6
    assert tp.RealProjectiveSpace(2).distance(a["n"], b["n"]).max() < 1e-6
    torch.testing.assert_close(a["x"], b["x"])


def test_the_mass_is_the_expected_curvature() -> None:
    """Of a normal with precisions 100 and 4: E g^2 = precision; and never below the prior's precision."""
    from topoprior.inference import run_chain

    precision = torch.tensor([100.0, 4.0, 0.01] * 50, dtype=torch.float64)
    space = StateSpace({"x": Part(torch.Size([150]), StandardNormal())})
    potential = Potential(lambda p: -0.5 * (precision * p["x"].square()).sum(), space)
    masses = []

    class Watched(HMC):
        def step(self, potential, tuning, *rest):
            masses.append(tuning.mass)
            return super().step(potential, tuning, *rest)

    run_chain(potential, Watched(), torch.zeros(150).double(), num_samples=1, warmup=150)
    found = masses[-1].view(50, 3).mean(0)
    assert found[0].item() == pytest.approx(100, rel=0.3)
    assert found[1].item() == pytest.approx(4, rel=0.3)
    assert found[2].item() == 1.0


def test_axes_that_deck_transformations_mix() -> None:
    turn = [[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    quarter = tp.FlatManifold.from_generators(
        [(turn, [0.0, 0.0, 0.25])] + [(torch.eye(3), e) for e in torch.eye(3)]
    )
    assert quarter.metric_axes() == [[0, 1], [2]]
    assert tp.KleinBottle().metric_axes() == [[0], [1]]
    assert tp.Product(tp.RotationGroup(), tp.KleinBottle()).metric_axes() == [[0, 1, 2, 3], [4], [5]]
    assert tp.Sphere(2).metric_axes() == [[0, 1, 2]]


def wall(p: dict[str, Tensor]) -> Tensor:
    """Standard deviations of 1 to .1, and a quartic wall: a draw of the prior starts thousands of nats above."""
    u = p["x"] * torch.logspace(0, 1, 50, dtype=torch.float64)
    return -u.square().sum() / 2 - u.pow(4).sum() / 40


@pytest.mark.parametrize("friction", [1.0, 0.3])
@pytest.mark.parametrize("energy_error", [5e-4, 1e-2])
def test_a_chain_that_starts_high_above_the_posterior_settles(friction: float, energy_error: float) -> None:
    """E[x dU/dx] = 1 a coordinate, at any temperature but 1 it is another number."""
    parts = {"x": Part(torch.Size([50]), StandardNormal())}
    samples = sample_density(
        wall, parts, method="baoab", num_chains=2, num_samples=100, warmup=800, thinning=10,
        friction=friction, energy_error=energy_error, progress=False,
    )  # fmt: skip
    x = samples.parameters["x"].requires_grad_()
    (gradient,) = torch.autograd.grad(-torch.vmap(torch.vmap(lambda x: wall({"x": x})))(x).sum(), x)
    # 10,000 numbers with a standard deviation of about 1.5; far more than five errors, for draws are not independent.
    assert (x * gradient).mean().item() == pytest.approx(1.0, abs=0.1)
    assert samples.stats["temperature"].mean().item() == pytest.approx(1.0, abs=0.1)


def test_a_chain_that_has_not_settled_is_warned_of() -> None:
    parts = {"x": Part(torch.Size([50]), StandardNormal())}
    with pytest.warns(UserWarning, match=r"chain 0: kinetic temperature .*, expected 1"):
        sample_density(
            lambda p: -50 * p["x"].square().sum(), parts, method="baoab", num_chains=1, num_samples=10,
            warmup=0, friction=0.1, progress=False,
        )  # fmt: skip
