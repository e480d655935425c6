"""Functions of data refuse NaN, infinity, arrays and too few rows by name, and read integers as the numbers they are."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import topoprior as tp
from topoprior import topology

X = torch.rand(60, 2, generator=torch.Generator().manual_seed(0))
GAPS = torch.cdist(X, X)

FUNCTIONS = {
    "trustworthiness": lambda x: topology.trustworthiness(GAPS, torch.cdist(x, x), 5),
    "farthest_points": lambda x: topology.farthest_points(x, 3),
    "graph_spectrum": lambda x: topology.graph_spectrum(x, 3),
    "warm_start": lambda x: topology.warm_start(x, tp.Circle()),
    "fit_covering": lambda x: topology.fit_covering(x, tp.Circle()),
    "neighbour_complex": lambda x: topology.neighbour_complex(x),
    "certify": lambda x: topology.certify(x, X, tp.Torus()),
    "isometry_distance": lambda x: topology.isometry_distance(tp.Torus(), X, x),
    "isometry_distance of a sphere": lambda x: topology.isometry_distance(tp.Sphere(1), x, X),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_data_that_are_not_finite_are_refused(name: str, bad: float) -> None:
    x = X.clone()
    x[3, 1] = bad
    with pytest.raises(ValueError, match="expected finite values"):
        FUNCTIONS[name](x)


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name != "trustworthiness"])
def test_arrays_are_refused_by_name(name: str) -> None:
    with pytest.raises(TypeError, match=r"expected a torch.Tensor of real numbers, found ndarray"):
        FUNCTIONS[name](X.numpy())


@pytest.mark.parametrize("score", [topology.trustworthiness, topology.continuity])
def test_scores_refuse_what_is_no_matrix_of_distances(score) -> None:
    with pytest.raises(TypeError, match="expected a torch.Tensor of real numbers, found ndarray"):
        score(GAPS.numpy(), GAPS, 5)
    with pytest.raises(TypeError, match=r"k: expected an int, found 5\.0"):
        score(GAPS, GAPS, 5.0)


def test_scores_of_integer_distances_are_those_of_the_numbers() -> None:
    line = torch.arange(12)
    truth = (line - line[:, None]).abs()
    found = (truth * 5) % 12  # another order
    assert topology.trustworthiness(truth, truth, 3) == 1
    assert topology.trustworthiness(truth, found, 3) == topology.trustworthiness(
        truth.double(), found.double(), 3
    )


def test_few_rows_are_named() -> None:
    with pytest.raises(ValueError, match="psi: expected more than 4 rows, found 3"):
        topology.fit_covering(torch.rand(3, 4), tp.Circle())
    with pytest.raises(ValueError, match="x: expected at least one example"):
        topology.farthest_points(torch.empty(0, 3), 2)
    with pytest.raises(ValueError, match="truth: expected at least one example"):
        topology.isometry_distance(tp.Torus(), torch.empty(0, 2), torch.empty(0, 2))
    with pytest.raises(ValueError, match=r"found: expected shape \(4, 2\), that of truth, found \(3, 2\)"):
        topology.isometry_distance(tp.Torus(), X[:4], X[:3])


def test_latents_of_integer_data_are_no_integers() -> None:
    angle = 2 * math.pi * torch.arange(60) / 60
    x = (1000 * torch.stack([angle.cos(), angle.sin()], 1)).long()
    latents = topology.warm_start(x, tp.Circle(), rounds=1).latents
    assert latents.dtype == torch.float32
    assert len(latents.unique()) > 50  # as integers all would be 0


def test_pairwise_distances_want_lifts() -> None:
    with pytest.raises(TypeError, match="x: expected a torch.Tensor of real numbers, found ndarray"):
        topology.pairwise_distances(tp.Torus(), np.zeros((3, 2)))  # type: ignore[arg-type]
