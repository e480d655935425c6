"""Warm starts: spectral features, the right class, other data."""

import math

import pytest
import torch

import topoprior as tp
from tests.vae.test_model import COMPACT, SPACES, K
from topoprior.kernels.klein import sample_klein_kernels
from topoprior.topology.certificate import certify
from topoprior.topology.features import low_harmonics, spectral_features
from topoprior.topology.graph import graph_spectrum
from topoprior.topology.spectral import fit_covering
from topoprior.topology.warm import extend, warm_start


def test_the_graph_spectrum_of_a_circle_are_its_harmonics():
    angle = 2 * math.pi * torch.arange(400).double() / 400
    psi = graph_spectrum(torch.stack([angle.cos(), angle.sin()], 1), 2)[0]
    wave = math.sqrt(2) * torch.stack([angle.cos(), angle.sin()], 1)
    overlap = psi.T @ wave / 400
    torch.testing.assert_close(overlap @ overlap.T, torch.eye(2).double(), atol=1e-3, rtol=0)


@pytest.mark.parametrize("seed", range(3))
def test_warm_start_finds_the_klein_bottle(seed):
    """On Klein kernels, whose metric is far from flat. A third of the searches succeed: all of twenty fail once in 3,000.

    The witness are the true points: neighbours there, which the search has not seen, agree that the class is right.
    """
    torch.manual_seed(seed)
    kernels, points = sample_klein_kernels(1000)
    start = warm_start(kernels, K, landmarks=1000)
    assert start.fit.certified, str(start.fit)
    assert certify(K.embed(points[start.rows]), start.latents, K).certified


@pytest.mark.parametrize("name", ["circle", "torus", "klein", "sphere", "projective plane", "rotations"])
def test_spectral_features_are_uncorrelated_and_invariant(name):
    space = COMPACT[name]
    known = spectral_features(space)
    assert known.num == {"circle": 2, "torus": 4, "sphere": 3, "rotations": 9}.get(name, 5)
    x = known.sample(20_000)
    values = known.features(x)
    # Standard errors are below 2 / sqrt(20,000) = .014, and those of the scaling as large.
    torch.testing.assert_close(values.T @ values / len(x), torch.eye(known.num).double(), atol=0.1, rtol=0)
    moved = space.lifts(x[:100], 1.0)[:, -1]
    torch.testing.assert_close(known.features(moved), values[:100])


def test_low_harmonics_of_the_projective_plane_are_orthonormal():
    harmonics = low_harmonics(SPACES["projective plane"], 10)
    x = tp.Sphere(2).sample_uniform(torch.Size([100_000]), torch.float64, torch.device("cpu"))
    values = harmonics(x)
    torch.testing.assert_close(values.T @ values / len(x), torch.eye(14).double(), atol=0.05, rtol=0)
    assert values.mean(0).abs().max() < 0.02  # standard error .003


def test_a_wrong_space_does_not_fit():
    """Points of a square do not fit the circle, points of a circle do: the numbers say so, and which."""
    square = graph_spectrum(torch.rand(600, 2), 8)[0].float()
    angle = 2 * math.pi * torch.rand(600)
    circle = graph_spectrum(torch.stack([angle.cos(), angle.sin()], 1), 8)[0].float()
    assert fit_covering(square, tp.Circle(), rounds=1).mismatch > 0.3
    assert fit_covering(circle, tp.Circle(), rounds=1).mismatch < 0.1
    x = torch.rand(600, 2)
    torus = graph_spectrum(tp.Torus(2).embed(x), 8)[0]
    wrong = fit_covering(torus, tp.Circle(), rounds=1)
    assert wrong.residual < 0.1, "a torus does map to the circle,"
    assert wrong.unexplained > 0.3, "but points of the circle do not tell its points apart"
    empty = fit_covering(circle, tp.Euclidean(2), rounds=1)
    assert empty.uncovered > 0.2, "a circle is part of the plane, and leaves most of it empty"


def test_latents_extend_to_other_data():
    x = torch.rand(1500, 1)
    start = warm_start(tp.Circle().embed(x), tp.Circle(), landmarks=500)
    more = extend(tp.Circle().embed(x), start, tp.Circle(), 400)
    assert more.latents.shape == (900, 1)
    turned = torch.cat([more.latents - x[more.rows], more.latents + x[more.rows]], 1) * 2 * math.pi
    spread = 1 - (turned.cos().mean(0).square() + turned.sin().mean(0).square()).sqrt()
    assert spread.min() < 0.01, "a rotation or a reflection of the true angles"
