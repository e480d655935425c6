"""Commands about priors end to end, and errors of use."""

import json
import os

import pytest
import torch

import topoprior as tp
from topoprior.__main__ import main
from topoprior.kernels.klein import klein_kernels

K = tp.KleinBottle()


def uniform(num=4000):
    return K.sample_uniform(torch.Size([num]), torch.float32, torch.device("cpu"))


def test_train_prior_writes_a_prior_that_layers_load(tmp_path, capsys):
    """A circle of edges of all orientations: a search on a circle is quick."""
    numpy = pytest.importorskip("numpy")
    edges = klein_kernels(torch.stack([2 * torch.rand(300), torch.full((300,), 0.25)], 1))
    numpy.save(tmp_path / "kernels.npy", edges.numpy())
    source = ["kernels", str(tmp_path / "kernels.npy"), "--covering", "circle"]
    source += [
        "--harmonics",
        "8",
        "--tolerance",
        "0.1",
    ]  # edges of all orientations are waves of degree 1 and 2
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
