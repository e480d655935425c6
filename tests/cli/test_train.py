"""The command line trains priors, on tiny data: every source, every space, kills, errors of use."""

import json

import pytest
import safetensors.torch
import torch

import topoprior as tp
from topoprior.__main__ import main
from topoprior.vae.run import Run

QUICK = ["--epochs", "2", "--no-progress", "--device", "cpu"]
SIMPLE = ["--harmonics", "8", "--tolerance", "0.1"]
FEW = ["--num", "100", *SIMPLE]  # as few as may be: a search on a third as many takes half the time
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
        "100",
        *SIMPLE,
    )
    assert (record["patches"], record["densest"], record["even"]) == (800, 640, 100)
    assert record["num_train"] + record["num_test"] == 100
    prior = tp.get_prior(tmp_path / "out")
    assert isinstance(prior, tp.DecoderPrior)
    assert prior.covering == tp.KleinBottle()
    assert str(tmp_path) not in (tmp_path / "out" / "training.json").read_text()
    assert "nats" in capsys.readouterr().out


def test_a_prior_from_a_network(tmp_path):
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 5), torch.nn.Conv2d(8, 12, 5))
    with torch.no_grad():
        network[1].weight += 0.1
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(network.state_dict(), path)
    options = ["--size", "5", "--covering", "circle", "--num", "110", *SIMPLE]
    record = trained(tmp_path, "network", str(path), *options)
    assert record["layers"] == {"0.weight": 24, "1.weight": 96}
    assert record["drawn"] == record["num_train"] + record["num_test"] == 110
    prior = tp.get_prior(tmp_path / "out")
    assert prior.kernel_size == (5, 5)
    # The energy of the means that were taken away is the prior's beta's.
    weight = network[1].weight
    share = 25 * weight.mean((2, 3)).square().sum() / weight.square().sum()
    assert prior.mean_fraction == pytest.approx(record["mean_fraction"])
    assert abs(prior.mean_fraction - share.item() * 96 / 120) < 0.1


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


def decoded(folder):
    prior = tp.get_prior(folder)
    dim = prior.dim if isinstance(prior, tp.EuclideanDecoderPrior) else prior.covering.dim
    return prior.decode(torch.linspace(-0.4, 0.9, 7)[:, None].expand(7, dim))


@pytest.mark.parametrize(
    "small", [PLANE, pytest.param(FEW, marks=pytest.mark.slow)], ids=["plane", "klein"]
)
def test_the_same_seed_gives_the_same_prior(small, tmp_path):
    for name in ("a", "b"):
        assert main(["train-prior", "--output", str(tmp_path / name), *QUICK, *small]) == 0
    assert torch.equal(decoded(tmp_path / "a"), decoded(tmp_path / "b"))


@pytest.mark.parametrize(
    "small", [PLANE, pytest.param(FEW, marks=pytest.mark.slow)], ids=["plane", "klein"]
)
@pytest.mark.parametrize("killed_after", [1, 3, 4])
def test_a_killed_job_goes_on_to_the_same_prior(killed_after, small, tmp_path, monkeypatch):
    """Of two restarts of two epochs: killed in the first, at the start of the second, and after both."""
    command = [*QUICK, *small, "--restarts", "2", "--patience", "5"]
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
    assert torch.equal(decoded(tmp_path / "whole"), decoded(tmp_path / "out"))
    # Another seed draws other kernels: its job may not go on from here.
    assert (
        main(["train-prior", "--output", str(tmp_path / "out"), *command, "--overwrite", "--seed", "1"])
        == 2
    )


def test_the_loss_of_every_epoch_is_logged(tmp_path, capsys):
    record = trained(tmp_path, *PLANE, "--restarts", "2", "--quiet", "--log", str(tmp_path / "log"))
    assert capsys.readouterr() == ("", "")
    head, *rows = (tmp_path / "log" / "scalars.csv").read_text().splitlines()
    assert head == "step,name,value"
    found = [(int(step), name) for step, name, _ in (row.split(",") for row in rows)]
    parts = ("negative ELBO/train", "negative ELBO/validation")
    assert found == [(step, name) for step in (1, 2, 3, 4) for name in parts]  # two epochs, twice
    assert "log" not in record["arguments"]
