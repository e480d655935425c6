"""Decoders as priors: what the shipped ones reach, and their checkpoints saved, loaded and refused."""

import json
import math
import time
from pathlib import Path

import pytest
import torch

import topoprior as tp
from topoprior.utils import files
from topoprior.utils.files import CheckpointError


def one_posterior(prior, *, channels):
    return prior.posterior((*channels, *prior.kernel_size))


@pytest.mark.parametrize(
    ("name", "numbers"),
    [("klein-3x3", 8), ("klein-5x5", 8), ("circle-3x3", 6), ("torus-3x3", 8), ("euclidean-3x3", 8)],
)
def test_numbers_a_kernel(name, numbers):
    posterior = one_posterior(tp.get_prior(name), channels=(5, 7))
    assert sum(p.numel() for p in posterior.parameters()) == 35 * numbers


def test_circle_decodes_straight_edges():
    edges = tp.get_prior("circle-3x3").decode(torch.rand(100, 1)).double()
    line = torch.linspace(-1, 1, 3, dtype=torch.float64)
    y, x = torch.meshgrid(line, line, indexing="ij")
    angle = torch.atan2((edges * y).sum((1, 2)), (edges * x).sum((1, 2)))[:, None, None]
    torch.testing.assert_close(edges, (x * angle.cos() + y * angle.sin()) / math.sqrt(6), atol=1e-6, rtol=0)


def test_what_each_decoder_leaves_out_of_the_klein_kernels():
    """Circle > plane > torus > Klein bottle: the figures of docs/concepts/priors.md."""
    from topoprior.kernels.klein import sample_klein_kernels

    kernels = sample_klein_kernels(1000)[0].unsqueeze(1)
    left = {
        name: one_posterior(tp.get_prior(name), channels=(1000, 1)).project_(kernels).item()
        for name in ("klein-3x3", "torus-3x3", "euclidean-3x3", "circle-3x3")
    }
    assert left["klein-3x3"] < 0.005
    assert 0.02 < left["torus-3x3"] < 0.06
    assert 0.1 < left["euclidean-3x3"] < 0.25
    assert 0.75 < left["circle-3x3"] < 0.85


def test_euclidean_prior_round_trips_and_its_folder_says_what_it_is(tmp_path):
    prior = tp.EuclideanDecoderPrior.from_pretrained("euclidean-3x3", gain=1.0)
    prior.save_pretrained(tmp_path)
    again = tp.get_prior(tmp_path)
    assert isinstance(again, tp.EuclideanDecoderPrior)
    assert again.gain == 1.0
    z = torch.randn(50, 2)
    torch.testing.assert_close(again.decode(z), prior.decode(z))
    tp.DecoderPrior.from_pretrained("klein-3x3").save_pretrained(tmp_path / "klein")
    assert isinstance(tp.get_prior(tmp_path / "klein"), tp.DecoderPrior)


@pytest.mark.parametrize(
    "change",
    [
        {"format": "something/2"},
        {"format": ["a list"]},
        {"kernel_size": [5, 5]},
        {"kernel_size": None},
        {"depth": 2},
        {"mean_fraction": 2.0},
    ],
    ids=str,
)
def test_damaged_euclidean_checkpoints_are_refused(change, tmp_path):
    tp.EuclideanDecoderPrior.from_pretrained("euclidean-3x3").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(CheckpointError, match="config.json") as error:
        tp.get_prior(tmp_path)
    assert "\n" not in str(error.value)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError):
        tp.get_prior(tmp_path)


@pytest.mark.parametrize(
    ("kind", "name"),
    [(tp.DecoderPrior, "klein-3x3"), (tp.EuclideanDecoderPrior, "euclidean-3x3")],
    ids=str,
)
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"mean_fraction": 2}, ValueError, r"^mean_fraction: expected a number in \[0, 1\), found 2"),
        ({"gain": -1.0}, ValueError, "^gain: expected a positive number, found -1"),
        ({"bogus": 1}, TypeError, "^bogus: no such option, expected one of gain, mean_fraction"),
    ],
    ids=str,
)
def test_a_wrong_option_is_no_fault_of_the_file(kind, name, options, error, message):
    with pytest.raises(error, match=message) as found:
        kind.from_pretrained(name, **options)
    assert not isinstance(found.value, CheckpointError)


def test_a_vae_on_a_closed_space_is_no_euclidean_prior():
    vae = tp.CoveringVAE(tp.KleinBottle(), (3, 3), likelihood="gaussian")
    with pytest.raises(ValueError, match="Euclidean latents"):
        tp.EuclideanDecoderPrior.from_vae(vae)


BOMBS = {
    "klein-3x3": [
        {"columns": [10**9, 4, 5, 6, 7]},
        {"columns": [3, 3, 5, 6, 7]},
        {"columns": ["3", "4", "5", "6", "7"]},
        {"columns": [-1, 4, 5, 6, 7]},
        {"columns": []},
        {"columns": 3},
        {"covering": {"name": "Torus", "dim": 30}},
        {"empirical_bayes": "x"},
        {"init_scale": 1e19},
        {"gain": "2"},
        {"kernel_size": [9.0, 1]},
        {"kernel_size": [1, 1, 9, 1]},
    ],
    "euclidean-3x3": [
        {"depth": 10**9},
        {"depth": 3.0},
        {"depth": True},
        {"empirical_bayes": 1},
        {"gain": 1e19},
    ],
}


@pytest.mark.parametrize(
    ("name", "change"), [(name, change) for name, changes in BOMBS.items() for change in changes], ids=str
)
def test_a_configuration_that_asks_for_too_much_is_refused_at_once(name, change, tmp_path):
    """Whole files, with the right digest: what is wrong is what they say."""
    kind = {"klein-3x3": "topoprior.DecoderPrior/1", "euclidean-3x3": "topoprior.EuclideanDecoderPrior/1"}[
        name
    ]
    config, tensors = files.load(Path(tp.__file__).parent / "priors" / "pretrained" / name, kind)
    config.pop("harmonics", None) if "columns" in change else None
    files.save(tmp_path, {**config, **change}, tensors)
    start = time.process_time()
    with pytest.raises(CheckpointError, match="does not describe|unusable covering|config.json"):
        tp.get_prior(tmp_path)
    assert time.process_time() - start < 0.5
