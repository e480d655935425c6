"""The comparison of latent spaces: resumed jobs, what may be reused, who wins."""

import pandas as pd
import pytest
import safetensors.torch
import torch

import topoprior as tp
from experiments.common.store import digest
from experiments.latent_spaces import kernels, report
from experiments.latent_spaces import run as compare_latent_spaces
from topoprior.topology.fit import Fit


def test_latent_spaces_are_compared_and_the_job_goes_on(tmp_path, capsys, monkeypatch):
    pytest.importorskip("matplotlib")
    two = {"plane": compare_latent_spaces.SPACES["plane"], "line": lambda: tp.Euclidean(1)}  # no warm start
    monkeypatch.setattr(compare_latent_spaces, "SPACES", two)
    arguments = ["--data", str(tmp_path), "--output", str(tmp_path / "out"), "--sets", "klein"]
    small = ["--epochs", "1", "--kernels", "300"]
    assert compare_latent_spaces.main([*arguments, *small, "--seeds", "1"]) == 0
    first = pd.read_csv(tmp_path / "out" / "runs.csv")
    assert len(first) == len(compare_latent_spaces.SPACES)
    assert compare_latent_spaces.main([*arguments, *small, "--seeds", "2"]) == 0
    second = pd.read_csv(tmp_path / "out" / "runs.csv")
    assert len(second) == 2 * len(compare_latent_spaces.SPACES)
    pd.testing.assert_frame_equal(
        second[second["seed"] == 0].reset_index(drop=True), first
    )  # not computed again
    text = (tmp_path / "out" / "report.md").read_text()
    assert "Negative ELBO in nats a kernel" in text
    assert str(tmp_path) not in text
    assert "| plane |" in text


def test_results_of_other_kernels_are_not_reused(tmp_path, monkeypatch):
    """Another network under the same command: every number of its set is computed again, no other one."""
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(compare_latent_spaces, "SPACES", {"plane": compare_latent_spaces.SPACES["plane"]})

    def compare(network, sets="klein,cnn-3x3"):
        small = ["--epochs", "1", "--kernels", "300", "--seeds", "1", "--sets", sets]
        folders = ["--data", str(tmp_path), "--output", str(tmp_path / "out"), "--network", str(network)]
        assert compare_latent_spaces.main([*folders, *small]) == 0
        return pd.read_csv(tmp_path / "out" / "runs.csv").set_index("set")

    for name in ("a", "b"):
        weights = {"conv.weight": torch.randn(20, 20, 3, 3)}
        safetensors.torch.save_file(weights, tmp_path / f"{name}.safetensors")
    first = compare(tmp_path / "a.safetensors")
    pd.testing.assert_frame_equal(compare(tmp_path / "a.safetensors"), first)
    second = compare(tmp_path / "b.safetensors")
    assert second.loc["klein", "seconds"] == first.loc["klein", "seconds"]  # not computed again
    for column in ("data", "negative_elbo"):
        assert second.loc["cnn-3x3", column] != first.loc["cnn-3x3", column]


def test_a_network_of_other_images_is_not_reused(tmp_path):
    """Of its own training alone: a network from elsewhere says nothing of images."""
    weights, file = {"w": torch.zeros(1)}, tmp_path / "network.safetensors"
    archive = tmp_path / kernels.IMAGES
    archive.write_bytes(b"some images")
    safetensors.torch.save_file(weights, file)
    assert kernels.is_of(file, tmp_path)
    noted = {"test_accuracy": "0.5", "images": digest(b"some images")}
    safetensors.torch.save_file(weights, file, noted)
    assert kernels.is_of(file, tmp_path)
    assert kernels.noted_accuracy(file) == 0.5
    archive.write_bytes(b"other images")
    assert not kernels.is_of(file, tmp_path)
    archive.unlink()
    assert kernels.is_of(file, tmp_path)


def test_the_mismatch_is_the_fits():
    fit = Fit(torch.empty(0), residual=0.2, unexplained=0.1, torn=0.03, uncovered=0.05, energy=1.0)
    numbers = {name: value for name, value in fit._asdict().items() if name != "latents"}
    assert Fit.of(numbers).mismatch == fit.mismatch == pytest.approx(0.28)


def test_the_best_space_and_what_is_not_told_from_it():
    runs = {"a": [1.0, 1.1, 1.2], "b": [1.0, 1.3, 1.1], "c": [2.0, 2.1, 2.2]}
    assert report.best_space(runs) == ("a", ["b"])


def test_missing_data_is_one_line(tmp_path, capsys):
    arguments = ["--data", str(tmp_path), "--output", str(tmp_path / "out")]
    for name in ("patches-10", "dwp-7x7", "dwp-5x5", "cnn-3x3", "nothing"):
        with pytest.raises(SystemExit) as stopped:
            compare_latent_spaces.main([*arguments, "--sets", name])
        assert stopped.value.code == 2
        assert capsys.readouterr().err.count("\n") == 1
