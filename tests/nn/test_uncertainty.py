"""Entropies and mutual information of samples, against torch.distributions."""

import math

import pytest
import torch
from torch.distributions import Categorical
from torch.distributions import kl_divergence as torch_kl

import topoprior as tp


@pytest.fixture
def probabilities():
    """(samples, batch, classes), sharp and blunt, some of them exactly 0 and 1."""
    p = (4 * torch.randn(7, 20, 5, dtype=torch.float64)).softmax(-1)
    p[:, 0] = torch.eye(5, dtype=torch.float64)[torch.arange(7) % 5]
    p[:, 1] = p[:1, 1]
    p[:, 2] = torch.eye(5, dtype=torch.float64)[0]
    return p


def test_entropies_are_torchs(probabilities):
    total, mean = tp.predictive_entropy(probabilities), tp.expected_entropy(probabilities)
    torch.testing.assert_close(total, Categorical(probabilities.mean(0)).entropy())
    torch.testing.assert_close(mean, Categorical(probabilities).entropy().mean(0))
    assert total.shape == mean.shape == (20,)


def test_mutual_information_is_the_mean_kl_to_the_mean(probabilities):
    """I(y; w) = E_w KL(p(y | w) || p(y)), torch's; 0 where all draws agree, between 0 and log S."""
    information = tp.mutual_information(probabilities)
    mean = Categorical(probabilities.mean(0)).expand((7, 20))
    torch.testing.assert_close(information, torch_kl(Categorical(probabilities), mean).mean(0))
    assert (information >= 0).all()
    assert (information <= math.log(7)).all()
    assert information[1] < 1e-12
    assert information[2] == 0


def test_entropies_of_maps_and_of_half_precision(probabilities):
    maps = probabilities.reshape(7, 5, 4, 5).movedim(-1, 2)  # (samples, batch, classes, positions)
    for function in (tp.predictive_entropy, tp.expected_entropy, tp.mutual_information):
        torch.testing.assert_close(function(maps), function(probabilities).reshape(5, 4))
        assert function(probabilities.bfloat16()).dtype == torch.float32
        assert torch.isfinite(function(probabilities.float())).all()
