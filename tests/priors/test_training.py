"""train_prior: what the command does, from Python."""

import pytest
import torch

import topoprior as tp
from topoprior.kernels import sample_klein_kernels
from topoprior.priors import train_prior

QUICK = {"epochs": 1, "progress": False, "device": "cpu", "seed": 0}


def test_the_record_says_how_good_the_prior_is():
    """On the plane, without warm start; the error is that of the nearest kernels."""
    kernels = 7.0 * sample_klein_kernels(120)[0]
    prior, record = train_prior(kernels, tp.Euclidean(1), options={"gain": 0.5}, **QUICK)
    assert isinstance(prior, tp.EuclideanDecoderPrior)
    assert prior.gain == 0.5
    assert (record["num_train"], record["num_test"]) == (108, 12)
    assert 0 < record["test_relative_error_of_prior"] <= 1
    again, same = train_prior(kernels, tp.Euclidean(1), options={"gain": 0.5}, **QUICK)
    assert same == record
    z = torch.randn(5, 1)
    assert torch.equal(prior.decode(z), again.decode(z))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"kernels": [1.0]}, TypeError, "kernels: expected a torch.Tensor"),
        ({"kernels": torch.ones(200, 3, 3).int()}, TypeError, "kernels: expected floating-point"),
        ({"kernels": torch.randn(200, 9)}, ValueError, r"kernels: expected shape \(N, k, k\)"),
        ({"kernels": torch.randn(99, 3, 3)}, ValueError, "kernels: expected at least 100, found 99"),
        ({"kernels": torch.zeros(200, 3, 3)}, ValueError, "kernels: expected a mean energy"),
        ({"kernels": torch.full((200, 3, 3), 1e30)}, ValueError, "kernels: expected a mean energy"),
        ({"kernels": torch.full((200, 3, 3), torch.nan)}, ValueError, "kernels: expected finite"),
        ({"space": "klein"}, TypeError, "space: expected a flat manifold, found str"),
        ({"space": tp.Sphere(2)}, TypeError, "space: expected a flat manifold"),
        ({"space": tp.Cylinder()}, ValueError, "space: expected a closed one"),
        ({"epochs": 0}, ValueError, "epochs: expected at least 1"),
        ({"epochs": 1.5}, TypeError, "epochs: expected an int"),
        ({"batch_size": 0}, ValueError, "batch_size: expected at least 1"),
        ({"restarts": 0}, ValueError, "restarts: expected at least 1"),
        ({"patience": 0}, ValueError, "patience: expected at least 1"),
        ({"learning_rate": 0.0}, ValueError, "learning_rate: expected a positive"),
        ({"tolerance": -1.0}, ValueError, "tolerance: expected a positive"),
        ({"harmonics": 0}, ValueError, "harmonics: expected at least 1"),
        ({"harmonics": 10**8}, ValueError, "harmonics: expected a search among at most 1,000,000"),
        ({"space": tp.Euclidean(2), "harmonics": 4}, ValueError, "harmonics: is for spaces that have"),
        ({"space": tp.HalfTurnManifold(), "tolerance": 0.1}, ValueError, "tolerance: is for closed"),
    ],
)
def test_arguments_are_checked_before_the_work(arguments, error, message, monkeypatch):
    given = {"kernels": torch.randn(200, 3, 3), "space": tp.KleinBottle(), **QUICK, **arguments}
    monkeypatch.setattr("topoprior.priors.decoded.training.fit", lambda *_, **__: pytest.fail("trained"))
    with pytest.raises(error, match=message):
        train_prior(**given)
