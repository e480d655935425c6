"""The command line inspects and exports priors, patches and networks."""

import json
import subprocess
import sys

import pytest
import safetensors.torch
import torch

import topoprior as tp
from topoprior.__main__ import main
from topoprior.kernels.contrast import dct_coordinates
from topoprior.kernels.klein import klein_kernels
from topoprior.topology.homology import betti_numbers, betti_reading, persistence


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
        ["inspect", "missing.npy"],
        ["inspect", "klein-3x3", "--max-dim", "3"],
        ["inspect", "klein-3x3", "--points", "2"],
        ["inspect", "circle-3x3", "--output", "file/x"],
        ["inspect", "klein-3x3", "--near-klein", "-1"],
        ["inspect", "klein-3x3", "--densest", "0.5"],
        ["inspect", "klein-3x3", "--size", "5"],
        ["export", "gaussian", "--output", "x"],
    ],
)
def test_errors_of_use_are_one_line_and_write_nothing(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("a file, not a folder")
    assert main(arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_the_module_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "topoprior", "--help"], capture_output=True, text=True, check=True
    )
    assert all(command in done.stdout for command in ("train-prior", "export", "inspect"))
