"""The command line trains priors, on tiny data: every source, every space, kills, errors of use."""

import json
import re

import pytest
import safetensors.torch
import torch

import topoprior as tp
from topoprior.__main__ import main
from topoprior.vae.run import Run

QUICK = ["--epochs", "2", "--no-progress", "--device", "cpu"]
SIMPLE = ["--harmonics", "8", "--tolerance", "0.1"]
FEW = ["--num", "300", *SIMPLE]
PLANE = ["--num", "100", "--covering", "euclidean"]  # neither a warm start nor harmonics


def trained(tmp_path, *arguments):
    """The source first, if there is one."""
    named = 2 if arguments[0] in ("patches", "kernels", "network") else 0
    command = [*arguments[:named], "--output", str(tmp_path / "out"), *QUICK, *arguments[named:]]
    assert main(["train-prior", *command]) == 0
    return json.loads((tmp_path / "out" / "training.json").read_text())


def test_a_prior_from_patches(tmp_path, patches, capsys):
    record = trained(
        tmp_path,
        "patches",
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
    record = trained(tmp_path, "network", str(path), "--size", "5", "--covering", "circle", *SIMPLE)
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
    assert (
        main(["train-prior", "--output", str(tmp_path / "out"), *command, "--overwrite", "--seed", "1"])
        == 2
    )


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
        ("--num x", "--num: expected a whole number, found 'x'"),
        ("--learning-rate 0", "--learning-rate: expected a positive number, found 0"),
        ("--learning-rate nan", "--learning-rate: expected a positive number, found nan"),
        ("--learning-rate x", "--learning-rate: expected a positive number, found x"),
        ("--patience 0", "--patience: expected at least 1, found 0"),
        ("--epochs 0", "--epochs: expected at least 1, found 0"),
        ("--size 1", "--size: expected at least 2, found 1"),
        ("--tolerance 0", "--tolerance: expected a positive number, found 0"),
        ("patches p.npy --densest 1.5", "--densest: expected a fraction in (0, 1], found 1.5"),
        ("patches p.npy --densest .5 --neighbour 0", "--neighbour: expected at least 1, found 0"),
        ("patches p.npy --densest .5 --neighbour 800", "--neighbour: expected less than the 800 patches"),
        ("patches p.npy --densest .5 --within -1", "--within: expected a positive number, found -1"),
        ("patches p.npy --neighbour 20", "--neighbour: there is nothing to rank without --densest"),
        ("patches p.npy --within 1", "--within: there is nothing to rank without --densest"),
        ("patches p.npy --contrast 0", "--contrast: expected a fraction in (0, 1], found 0"),
        ("patches p.npy --size 5", "--size: is for images; a file says its own"),
        ("patches p.npy --even 99", "--even: expected at least 100, found 99"),
        ("patches p.npy --num 500", "unrecognized arguments: --num 500"),
        ("kernels k.npy --keep-means", "unrecognized arguments: --keep-means"),
        ("--densest .5", "unrecognized arguments: --densest .5"),
        ("network w.pt --threshold 1", "--threshold: expected a number in [0, 1), found 1"),
        ("network missing.safetensors", "source: no file missing.safetensors"),
        ("network no-such-model", "nor a model of torchvision"),
        ("kernels missing.npy", "missing.npy: cannot be read"),
        ("kernels p.npy", "kernels: p.npy: expected shape (N, k, k) or (N, 1, k, k), found (800, 8)"),
        ("patches missing.npy", "missing.npy is neither a file nor a folder"),
        ("patches file", "file: expected .mat, .npy or a folder of images"),
        ("photos", "invalid choice: 'photos'"),
        ("--latent-dim 3", "--latent-dim: is for --covering torus or euclidean only"),
        ("--covering euclidean --harmonics 8", "--harmonics: is for spaces that have harmonics only"),
        (
            "--covering half-turn --tolerance 1",
            "--tolerance: is for closed spaces of dimension 1 and 2 only",
        ),
        ("--covering torus --latent-dim 12", "found 244,140,625 for 24 harmonics on Torus(12)"),
        ("--harmonics 100000000", "--harmonics: expected a search among at most 1,000,000 waves"),
        ("--checkpoint file", "--checkpoint: cannot write"),
    ],
)
def test_options_are_named_and_those_that_do_not_apply_refused(
    arguments, message, patches, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    patches.rename("p.npy")
    (tmp_path / "file").write_text("a file, not a folder")
    assert main(["train-prior", *arguments.split(), "--output", "out", *QUICK[2:]]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device here")
def test_a_device_that_is_not_there(tmp_path, capsys):
    assert main(["train-prior", "--output", str(tmp_path / "out"), "--device", "cuda"]) == 2
    assert "--device: expected cpu" in capsys.readouterr().err


def test_a_prior_that_is_there_is_replaced_on_demand_alone(tmp_path, capsys):
    out = str(tmp_path / "out")
    assert main(["export", "circle-3x3", "--output", out]) == 0
    for command in (["export", "klein-3x3"], ["train-prior", *FEW, *QUICK]):
        assert main([*command, "--output", out]) == 2
        assert "holds config.json, model.safetensors; --overwrite replaces them" in capsys.readouterr().err
    assert tp.get_prior(out).covering == tp.Circle()
    assert main(["export", "klein-3x3", "--output", out, "--overwrite"]) == 0
    assert tp.get_prior(out).covering == tp.KleinBottle()


def test_quiet_says_nothing(tmp_path, capsys):
    for command in (["train-prior", *PLANE, *QUICK[:2]], ["export", "circle-3x3"]):
        assert main([*command, "--output", str(tmp_path / command[0]), "--quiet"]) == 0
    assert main(["inspect", "circle-3x3", "--quiet"]) == 0
    found = capsys.readouterr()
    assert found.out == found.err == ""


def test_progress_is_over_the_whole_job(tmp_path, capsys):
    """Of two restarts, from 0 to 100%, never back."""
    command = ["--output", str(tmp_path / "out"), *PLANE, "--epochs", "2", "--restarts", "2"]
    assert main(["train-prior", *command]) == 0
    shares = [int(found) for found in re.findall(r"(\d+)%\|", capsys.readouterr().err)]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0, 100)


@pytest.mark.parametrize("command", ["", "train-prior", "train-prior patches", "inspect", "export"])
def test_help_says_defaults_and_no_more(command, capsys):
    assert main([*command.split(), "--help"]) == 0
    out = capsys.readouterr().out
    assert "default: None" not in out
    assert "default: False" not in out
    if command == "train-prior patches":
        assert all(f"--{name}" in out for name in ("overwrite", "densest", "restarts", "quiet"))
        assert "(default: 60)" in out
        assert "(default: 0)" in out


def test_the_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"topoprior {tp.__version__}\n"
