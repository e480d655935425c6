"""Shipped and saved priors: what they decode, what is refused, the command line, the import."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import topoprior as tp
from topoprior.__main__ import main
from topoprior.kernels.klein import klein_energy, klein_kernels, nearest_klein
from topoprior.priors.decoded.prior import pretrained_names
from topoprior.utils.files import CheckpointError

K = tp.KleinBottle()


@pytest.fixture
def klein():
    return tp.DecoderPrior.from_pretrained("klein-3x3")


def uniform(num=4000):
    return K.sample_uniform(torch.Size([num]), torch.float32, torch.device("cpu"))


def test_decoder_has_unit_energy_and_no_seam(klein):
    z = uniform(40_000)
    energy = klein.decode(z).square().sum((1, 2))
    assert abs(energy.mean() - 1) < 5 * energy.std() / math.sqrt(len(z))
    lifts = K.lifts(z[:100], 2.0)
    torch.testing.assert_close(
        klein.decode(lifts),
        klein.decode(z[:100]).unsqueeze(1).expand(-1, lifts.shape[1], 3, 3),
        atol=1e-5,
        rtol=0,
    )


def test_decoder_reaches_every_klein_kernel(klein):
    """Every analytic kernel has a decoded one within 1 percent, by search on a 400 x 400 grid."""
    line = torch.arange(400) / 400
    decoded = klein.decode(torch.cartesian_prod(2 * line, line)).flatten(1)
    kernels = klein_kernels(uniform(300)).flatten(1)
    error = torch.cdist(kernels, decoded).amin(1) / kernels.norm(dim=1)
    assert error.square().mean().sqrt() < 0.01


def test_the_natural_prior_is_near_the_analytic_one_and_not_the_same():
    """Learned from patches: most of its kernels are near analytic ones, with unit energy and no seam."""
    natural = tp.DecoderPrior.from_pretrained("klein-natural-3x3")
    z = uniform(2000)
    kernels = natural.decode(z)
    assert natural.covering == K
    torch.testing.assert_close(natural.decode(K.lifts(z, 1.0)[:, 1]), kernels, atol=1e-5, rtol=0)
    assert kernels.mean((1, 2)).abs().max() < 0.05  # the patches have no means
    distance = nearest_klein(kernels)[0]
    assert 0.05 < distance.median() < 0.3
    assert klein_energy(kernels).mean() > 0.9


@pytest.mark.parametrize("name", ["klein-3x3", "klein-natural-3x3"])
@pytest.mark.parametrize(("field", "betti"), [(2, (1, 2)), (3, (1, 1))])
def test_decoded_kernels_have_the_homology_of_the_klein_bottle(name, field, betti):
    homology = pytest.importorskip("topoprior.topology.homology")
    pytest.importorskip("ripser")
    prior = tp.DecoderPrior.from_pretrained(name)
    diagrams = homology.persistence(prior.decode(uniform()), field=field, max_dim=1)
    assert homology.betti_numbers(diagrams) == betti


@pytest.mark.slow
@pytest.mark.parametrize(("field", "betti"), [(2, (1, 2, 1)), (3, (1, 1, 0))])
def test_decoded_kernels_have_the_second_homology_too(klein, field, betti):
    homology = pytest.importorskip("topoprior.topology.homology")
    pytest.importorskip("ripser")
    assert homology.betti_numbers(homology.persistence(klein.decode(uniform()), field=field)) == betti


def test_homology_tells_a_torus_from_a_klein_bottle():
    homology = pytest.importorskip("topoprior.topology.homology")
    pytest.importorskip("ripser")
    torus = tp.Torus(2).embed(torch.rand(3000, 2))
    assert homology.betti_numbers(homology.persistence(torus, field=3, max_dim=1)) == (1, 2)


def test_shipped_files_are_small():
    folder = Path(tp.__file__).parent / "priors" / "pretrained"
    assert "klein-3x3" in pretrained_names()
    for name in pretrained_names():
        assert sum(f.stat().st_size for f in (folder / name).iterdir()) < 200_000


def test_save_load_round_trip(klein, tmp_path):
    klein.save_pretrained(tmp_path / "prior")
    again = tp.DecoderPrior.from_pretrained(tmp_path / "prior", gain=1.0)
    z = uniform(50)
    assert torch.equal(klein.decode(z), again.decode(z))
    assert again.gain == 1.0
    assert again.covering == klein.covering
    layer = tp.BayesConv2d(2, 3, 3, prior=tmp_path / "prior")
    assert torch.equal(layer.prior.decode(z), klein.decode(z))


def test_a_prior_on_a_group_of_ones_own_round_trips(tmp_path):
    space = tp.FlatManifold(K.lattice, [(K.linear[1], K.shift[1])])
    prior = tp.DecoderPrior.from_decoder(klein_kernels, space, (3, 3))
    prior.save_pretrained(tmp_path)
    again = tp.DecoderPrior.from_pretrained(tmp_path)
    z = uniform(50)
    torch.testing.assert_close(again.decode(z), klein_kernels(z), atol=1e-5, rtol=0)


def damage(folder, how):
    config, model = folder / "config.json", folder / "model.safetensors"
    data = json.loads(config.read_text())
    if how == "no model":
        model.unlink()
    elif how == "truncated model":
        model.write_bytes(model.read_bytes()[:40])
    elif how == "not json":
        config.write_text("{")
    elif how == "other format":
        config.write_text(json.dumps({**data, "format": "something/2"}))
    elif how == "other space":
        config.write_text(json.dumps({**data, "covering": {"name": "Moon", "dim": 2}}))
    elif how == "wrong shape":
        config.write_text(json.dumps({**data, "kernel_size": [5, 5]}))
    elif how == "missing key":
        del data["harmonics"]
        config.write_text(json.dumps(data))


@pytest.mark.parametrize(
    "how",
    [
        "no model",
        "truncated model",
        "not json",
        "other format",
        "other space",
        "wrong shape",
        "missing key",
    ],
)
def test_a_damaged_checkpoint_is_refused_in_one_line(klein, tmp_path, how, capsys):
    klein.save_pretrained(tmp_path)
    damage(tmp_path, how)
    with pytest.raises(CheckpointError) as error:
        tp.DecoderPrior.from_pretrained(tmp_path)
    assert "\n" not in str(error.value)
    assert main(["inspect", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_unknown_name():
    with pytest.raises(CheckpointError, match="klein-3x3"):
        tp.DecoderPrior.from_pretrained("klein-9x9")


# --- command line ------------------------------------------------------------------------------


def test_train_prior_writes_a_prior_that_layers_load(tmp_path, capsys):
    """A circle of edges of all orientations: a search on a circle is quick."""
    numpy = pytest.importorskip("numpy")
    edges = klein_kernels(torch.stack([2 * torch.rand(300), torch.full((300,), 0.25)], 1))
    numpy.save(tmp_path / "kernels.npy", edges.numpy())
    source = ["kernels", str(tmp_path / "kernels.npy"), "--covering", "circle"]
    arguments = ["--epochs", "60", "--no-progress", "--seed", "1", "--output", str(tmp_path / "out")]
    assert main(["train-prior", *source, *arguments]) == 0
    record = json.loads((tmp_path / "out" / "training.json").read_text())
    assert record["test_relative_error"] < 0.2
    assert record["arguments"]["seed"] == 1
    layer = tp.BayesConv2d(3, 4, 3, prior=tmp_path / "out")
    assert torch.isfinite(layer(torch.randn(1, 3, 8, 8))).all()
    assert "relative error" in capsys.readouterr().out


def test_train_prior_takes_kernels_of_ones_own(tmp_path):
    numpy = pytest.importorskip("numpy")
    kernels = klein_kernels(uniform(100), 5).unsqueeze(1).numpy()
    numpy.save(tmp_path / "kernels.npy", kernels)
    arguments = [
        "kernels",
        str(tmp_path / "kernels.npy"),
        "--output",
        str(tmp_path / "out"),
        "--covering",
        "torus",
        "--epochs",
        "2",
        "--tolerance",
        "0.1",
        "--harmonics",
        "8",
        "--no-progress",
    ]
    assert main(["train-prior", *arguments]) == 0
    assert tp.DecoderPrior.from_pretrained(tmp_path / "out").kernel_size == (5, 5)


@pytest.mark.parametrize(
    "arguments",
    [
        ["inspect", "no-such-prior"],
        ["export", "no-such-prior", "--output", "x"],
        ["train-prior", "kernels", "no-such-file.npy", "--output", "x"],
        ["train-prior", "--output", "x", "--size", "1"],
        ["train-prior", "--output", "file/x"],
    ],
)
def test_errors_of_use_are_one_line_and_write_nothing(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("a file, not a folder")
    assert main(arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert os.listdir(tmp_path) == ["file"]


def test_export(tmp_path):
    assert main(["export", "klein-3x3", "--output", str(tmp_path / "out")]) == 0
    assert sorted(os.listdir(tmp_path / "out")) == ["config.json", "model.safetensors"]


def test_import_is_light():
    code = (
        "import sys, topoprior; heavy = {'torchvision', 'matplotlib', 'ripser', 'gudhi', 'blitz', 'scipy'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
