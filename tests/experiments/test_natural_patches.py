"""The report on natural patches, on patches near the bottle."""

import json
import re

import numpy as np
import pytest
import torch

from experiments.natural_patches import run as natural_patches
from topoprior.kernels.contrast import dct_coordinates
from topoprior.kernels.describe import describe_kernels
from topoprior.kernels.klein import klein_kernels, nearest_klein
from topoprior.kernels.patches import densest, read_patches


def test_the_reading_of_natural_patches_is_reported(tmp_path, capsys):
    """On patches near the bottle: the numbers of the report are those of the command, priors are told apart."""
    pytest.importorskip("ripser")
    pytest.importorskip("matplotlib")
    x = klein_kernels(torch.rand(800, 2)) + 0.02 * torch.randn(800, 3, 3)
    patches = tmp_path / "patches.npy"
    np.save(patches, dct_coordinates(x.double()).numpy())
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
    assert text.count(".png)") == 4 * 3 + 2 + 1  # one of them comes first, too
    for link in re.findall(r"\]\((.*?\.png)\)", text):
        assert (folder / link).exists()
    found = describe_kernels(read_patches(patches))
    assert results["filters"]["all"]["klein_energy"] == pytest.approx(found["klein_energy"])
    # With free amplitudes |w - best| / |w| is the sine of the angle to the analytic kernels.
    near = read_patches(patches)
    near = near[densest(dct_coordinates(near), 15, 0.3)]
    angle = 2 * (nearest_klein(near, "pixels")[0] / 2).asin()
    expected = angle.sin().square().mean().sqrt().item()
    assert results["left over"]["klein-3x3"] == pytest.approx(expected, rel=0.1)
    assert results["left over"]["klein-3x3"] < results["left over"]["torus-3x3"]
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        natural_patches.main(["--patches", "missing.npy", *command[2:]])
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
