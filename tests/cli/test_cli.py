"""The command line from end to end, on tiny data: every source, every space, pictures, errors of use."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import safetensors.torch
import torch

import topoprior as tp
from experiments.natural_patches import run as natural_patches
from topoprior.__main__ import main
from topoprior.kernels.contrast import dct_coordinates
from topoprior.kernels.klein import klein_kernels, nearest_klein
from topoprior.kernels.patches import densest, read_patches
from topoprior.topology.homology import betti_numbers, betti_reading, persistence
from topoprior.vae.run import Run

QUICK = ["--epochs", "2", "--no-progress", "--device", "cpu"]
SIMPLE = ["--harmonics", "8", "--tolerance", "0.1"]
FEW = ["--num", "300", *SIMPLE]


@pytest.fixture
def patches(tmp_path):
    """Patches near the Klein bottle, as DCT coordinates in a .npy file."""
    x = klein_kernels(torch.rand(800, 2)) + 0.02 * torch.randn(800, 3, 3)
    np.save(tmp_path / "patches.npy", dct_coordinates(x.double()).numpy())
    return tmp_path / "patches.npy"


def trained(tmp_path, *arguments):
    assert main(["train-prior", "--output", str(tmp_path / "out"), *QUICK, *arguments]) == 0
    return json.loads((tmp_path / "out" / "training.json").read_text())


def test_a_prior_from_patches(tmp_path, patches, capsys):
    record = trained(
        tmp_path,
        "--patches",
        str(patches),
        "--neighbour",
        "5",
        "--densest",
        "0.8",
        "--even",
        "400",
        *SIMPLE,
    )
    assert (record["patches"], record["densest"], record["even"]) == (800, 640, 400)
    assert record["num_train"] + record["num_test"] == 400
    prior = tp.get_prior(tmp_path / "out")
    assert isinstance(prior, tp.DecoderPrior)
    assert prior.covering == tp.KleinBottle()
    assert str(tmp_path) not in (tmp_path / "out" / "training.json").read_text()
    assert "nats" in capsys.readouterr().out


def test_a_prior_from_a_network(tmp_path):
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 5), torch.nn.Conv2d(8, 60, 5))
    with torch.no_grad():
        network[1].weight += 0.1
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(network.state_dict(), path)
    record = trained(tmp_path, "--from-network", str(path), "--size", "5", "--covering", "circle", *SIMPLE)
    assert record["layers"] == {"0.weight": 24, "1.weight": 480}
    prior = tp.get_prior(tmp_path / "out")
    assert prior.kernel_size == (5, 5)
    # The energy of the means that were taken away is the prior's beta's.
    weight = network[1].weight
    share = 25 * weight.mean((2, 3)).square().sum() / weight.square().sum()
    assert prior.mean_fraction == pytest.approx(record["mean_fraction"])
    assert abs(prior.mean_fraction - share.item() * 480 / 504) < 0.1


@pytest.mark.parametrize(
    "space",
    [
        "klein",
        "torus",
        "circle",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("half-turn", "hantzsche-wendt")),
        "euclidean",
    ],
)
def test_every_space_makes_a_prior_that_layers_load(tmp_path, space):
    # Options that a space does not have are refused.
    few = {"euclidean": FEW[:2], "half-turn": FEW[:4], "hantzsche-wendt": FEW[:4]}.get(space, FEW)
    trained(tmp_path, "--covering", space, *few)
    prior = tp.get_prior(tmp_path / "out")
    kind = tp.EuclideanDecoderPrior if space == "euclidean" else tp.DecoderPrior
    assert isinstance(prior, kind)
    layer = tp.BayesConv2d(2, 3, 3, prior=tmp_path / "out")
    assert torch.isfinite(layer(torch.randn(1, 2, 6, 6))).all()
    assert torch.isfinite(layer.kl())


def test_the_same_seed_gives_the_same_prior(tmp_path):
    weights = []
    for name in ("a", "b"):
        assert main(["train-prior", "--output", str(tmp_path / name), *QUICK, *FEW]) == 0
        weights.append(tp.get_prior(tmp_path / name).coefficients)
    assert torch.equal(*weights)


@pytest.mark.parametrize("killed_after", [1, 3, 4])
def test_a_killed_job_goes_on_to_the_same_prior(killed_after, tmp_path, monkeypatch):
    """Of two restarts of two epochs: killed in the first, at the start of the second, and after both."""
    command = [*QUICK, *FEW, "--restarts", "2", "--patience", "5"]
    assert main(["train-prior", "--output", str(tmp_path / "whole"), *command]) == 0
    save, epochs = Run.save, iter(range(killed_after))

    def killed(self, path):
        save(self, path)
        if next(epochs, None) == killed_after - 1:
            raise KeyboardInterrupt

    command += ["--checkpoint", str(tmp_path / "checkpoints")]
    monkeypatch.setattr(Run, "save", killed)
    assert main(["train-prior", "--output", str(tmp_path / "out"), *command]) == 130
    monkeypatch.setattr(Run, "save", save)
    assert not (tmp_path / "out").exists()
    assert main(["train-prior", "--output", str(tmp_path / "out"), *command]) == 0
    whole, resumed = (tp.get_prior(tmp_path / name).coefficients for name in ("whole", "out"))
    assert torch.equal(whole, resumed)
    # Another seed draws other kernels: its job may not go on from here.
    assert main(["train-prior", "--output", str(tmp_path / "out"), *command, "--seed", "1"]) == 2


def test_patience_stops_training(tmp_path, monkeypatch):
    epochs = []
    save = Run.keep_best
    monkeypatch.setattr(Run, "keep_best", lambda self: (save(self), epochs.append(self.scores[-1])))
    trained(tmp_path, *FEW, "--epochs", "40", "--patience", "1", "--learning-rate", "1e-9")
    assert 1 < len(epochs) < 40


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--num 99", "--num: expected at least 100, found 99"),
        ("--learning-rate 0", "--learning-rate: expected a positive number, found 0.0"),
        ("--learning-rate nan", "--learning-rate: expected a positive number, found nan"),
        ("--patience 0", "--patience: expected at least 1, found 0"),
        ("--size 1", "--size: expected at least 2, found 1"),
        ("--patches p.npy --densest 1.5", "--densest: expected a fraction in (0, 1], found 1.5"),
        ("--patches p.npy --densest .5 --neighbour 0", "--neighbour: expected at least 1, found 0"),
        ("--patches p.npy --densest .5 --neighbour 800", "--neighbour: expected less than the 800 patches"),
        ("--patches p.npy --densest .5 --within -1", "--within: expected a positive distance, found -1.0"),
        ("--patches p.npy --neighbour 20", "--neighbour: there is nothing to rank without --densest"),
        ("--patches p.npy --contrast 0", "--contrast: expected a fraction in (0, 1], found 0.0"),
        ("--patches p.npy --num 500", "--num: is for analytic kernels only"),
        ("--patches p.npy --size 5", "--size: is for analytic kernels, images or a network only"),
        ("--kernels k.npy --keep-means", "--keep-means: is for --from-network only"),
        ("--densest .5", "--densest: is for --patches only"),
        ("--even 500", "--even: is for --patches only"),
        ("--from-network w.pt --threshold 1", "--threshold: expected a number in [0, 1), found 1.0"),
        ("--latent-dim 3", "--latent-dim: is for --covering torus or euclidean only"),
        ("--covering euclidean --harmonics 8", "--harmonics: is for spaces that have harmonics only"),
        (
            "--covering half-turn --tolerance 1",
            "--tolerance: is for closed spaces of dimension 1 and 2 only",
        ),
        ("--covering torus --latent-dim 12", "found 244,140,625 for 24 harmonics on Torus(12)"),
        ("--harmonics 100000000", "--harmonics, --latent-dim: expected a search among at most 1,000,000"),
        ("--checkpoint file", "--checkpoint: cannot write"),
    ],
)
def test_options_are_named_and_those_that_do_not_apply_refused(
    arguments, message, patches, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    patches.rename("p.npy")
    (tmp_path / "file").write_text("a file, not a folder")
    assert main(["train-prior", "--output", "out", *QUICK, *arguments.split()]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device here")
def test_a_device_that_is_not_there(tmp_path, capsys):
    assert main(["train-prior", "--output", str(tmp_path / "out"), "--device", "cuda"]) == 2
    assert "--device: expected auto or cpu" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name", ["klein-3x3", "klein-natural-3x3", "torus-3x3", "circle-3x3", "euclidean-3x3", "gaussian"]
)
def test_every_shipped_prior_is_inspected_and_drawn(name, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    assert main(["inspect", name, "--output", str(tmp_path / "out")]) == 0
    record = json.loads((tmp_path / "out" / "report.json").read_text())
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "kernels.png",
        "latents.png",
        "report.json",
    ]
    assert record["kernels"] > 3900
    near = record["klein_distance"]["median"]
    least, most = {"klein-3x3": (0, 0.01), "gaussian": (0.6, 1.1), "circle-3x3": (0, 0.01)}.get(
        name, (0, 0.4)
    )
    assert least <= near <= most
    assert "energy in the Klein subspace" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["klein-3x3", "euclidean-3x3"])
def test_export_of_every_class_of_prior(name, tmp_path):
    assert main(["export", name, "--output", str(tmp_path / "out")]) == 0
    z = torch.rand(5, 2)
    torch.testing.assert_close(tp.get_prior(tmp_path / "out").decode(z), tp.get_prior(name).decode(z))


def test_patches_are_inspected(patches, tmp_path, capsys):
    arguments = [
        "--neighbour",
        "5",
        "--densest",
        "0.5",
        "--near-klein",
        "0.2",
        "--output",
        str(tmp_path / "out"),
    ]
    pytest.importorskip("matplotlib")
    assert main(["inspect", str(patches), *arguments]) == 0
    record = json.loads((tmp_path / "out" / "report.json").read_text())
    assert record["densest"] == 400
    assert record["klein_distance"]["90%"] <= 0.2
    assert record["klein_energy"] > 0.95
    assert "800 patches, 400 densest" in capsys.readouterr().out


def test_a_network_is_inspected(tmp_path, capsys):
    weights = {"conv.weight": torch.randn(20, 20, 3, 3)}
    safetensors.torch.save_file(weights, tmp_path / "w.safetensors")
    assert main(["inspect", str(tmp_path / "w.safetensors")]) == 0
    assert "400 kernels of 1 layers" in capsys.readouterr().out


def test_homology_is_read_in_both_fields(tmp_path, capsys):
    pytest.importorskip("ripser")
    pytest.importorskip("matplotlib")
    arguments = ["--homology", "--max-dim", "1", "--points", "250", "--output", str(tmp_path)]
    assert main(["inspect", "klein-natural-3x3", *arguments]) == 0
    out = capsys.readouterr().out
    assert "over Z/2: (1, 2)" in out
    assert "over Z/3: (1, 1)" in out
    assert "as of a Klein bottle" in out
    assert (tmp_path / "persistence.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("over_2", "over_3", "name"),
    [
        ((1, 2, 1), (1, 1, 0), "Klein"),
        ((1, 2, 1), (1, 2, 1), "torus"),
        ((1, 1, 1), (1, 0, 0), "projective"),
        ((1, 5), (1, 5), "three circles"),
        ((2, 0), (2, 0), "none"),
    ],
)
def test_readings(over_2, over_3, name):
    assert name in betti_reading(over_2, over_3)


def test_three_circles_have_five_loops():
    """A circle that two others meet in two points each: the densest patches' skeleton."""
    pytest.importorskip("ripser")
    v = torch.arange(120) / 120
    across, up, straight = (torch.stack([u, v], 1) for u in (0 * v, 0 * v + 0.5, v))
    straight = torch.stack([2 * v, torch.full_like(v, 0.25)], 1)
    x = dct_coordinates(klein_kernels(torch.cat([straight, across, up])))
    x = x / x.norm(dim=1, keepdim=True)
    for field in (2, 3):
        assert betti_numbers(persistence(x, field=field, max_dim=1, num_points=200)) == (1, 5)


@pytest.mark.parametrize(
    "arguments",
    [
        ["train-prior", "--output", "x", "--patches", "missing.npy"],
        ["train-prior", "--output", "x", "--patches", "file"],
        ["train-prior", "--output", "x", "--from-network", "missing.safetensors"],
        ["train-prior", "--output", "x", "--from-network", "no-such-model"],
        ["train-prior", "--output", "x", "--epochs", "0"],
        ["train-prior", "--output", "x", "--tolerance", "0"],
        ["train-prior", "--output", "x", "--num", "20", "--harmonics", "0"],
        ["inspect", "missing.npy"],
        ["inspect", "klein-3x3", "--max-dim", "3"],
        ["inspect", "klein-3x3", "--points", "2"],
        ["inspect", "circle-3x3", "--output", "file/x"],
        ["inspect", "klein-3x3", "--near-klein", "-1"],
        ["export", "gaussian", "--output", "x"],
    ],
)
def test_errors_of_use_are_one_line_and_write_nothing(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("a file, not a folder")
    assert main(arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_one_source_at_a_time(capsys):
    with pytest.raises(SystemExit):
        main(["train-prior", "--output", "x", "--patches", "a.npy", "--from-network", "b.pt"])
    assert "not allowed with" in capsys.readouterr().err


def test_the_module_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "topoprior", "--help"], capture_output=True, text=True, check=True
    )
    assert all(command in done.stdout for command in ("train-prior", "export", "inspect"))


def test_the_reading_of_natural_patches_is_reported(patches, tmp_path, capsys):
    """On patches near the bottle: the numbers of the report are those of the command, priors are told apart."""
    pytest.importorskip("ripser")
    pytest.importorskip("matplotlib")
    folder = tmp_path / "out"
    command = ["--patches", str(patches), "--output", str(folder), "--points", "60"]
    assert natural_patches.main(command) == 0
    results = json.loads((folder / "results.json").read_text())
    text = (folder / "report.md").read_text()
    assert str(tmp_path) not in text + (folder / "results.json").read_text()
    assert results["filters"]["all"]["kernels"] == 800
    assert results["filters"]["densest-30"]["kernels"] == 240
    assert "| none | 800 |" in text
    assert "| `--neighbour 15 --densest 0.3` | 240 |" in text
    assert text.count(".png)") == 4 * 3 + 2
    for link in re.findall(r"\]\((.*?\.png)\)", text):
        assert (folder / link).exists()
    # With free amplitudes |w - best| / |w| is the sine of the angle to the analytic kernels.
    near = read_patches(patches)
    near = near[densest(dct_coordinates(near), 15, 0.3)]
    angle = 2 * (nearest_klein(near, "pixels")[0] / 2).asin()
    expected = angle.sin().square().mean().sqrt().item()
    assert results["left over"]["klein-3x3"] == pytest.approx(expected, rel=0.1)
    assert results["left over"]["klein-3x3"] < results["left over"]["torus-3x3"]
    capsys.readouterr()
    assert natural_patches.main(["--patches", "missing.npy", *command[2:]]) == 2
    assert capsys.readouterr().err.count("\n") == 1
