"""Checkpoints say what they decode: read without the package, by numpy, and found again among a space's harmonics."""

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch

import topoprior as tp
from topoprior.priors.decoded.described import describe, find
from topoprior.spaces import Harmonics
from topoprior.utils.files import CheckpointError

PAGE = Path(__file__).parents[2] / "docs" / "api" / "checkpoints.md"
SHIPPED = ["klein-3x3", "klein-5x5", "klein-7x7", "klein-natural-3x3", "torus-3x3", "circle-3x3"]


def hexagonal() -> tp.FlatManifold:
    return tp.FlatManifold([[1.0, -0.5], [0.0, math.sqrt(3) / 2]])


@pytest.mark.parametrize("name", ["klein-3x3", "klein-natural-3x3", "torus-3x3"])
def test_twenty_lines_of_numpy_decode_a_checkpoint(name, tmp_path):
    """The code of docs/api/checkpoints.md, where neither torch nor this package can be imported."""
    tp.get_prior(name).save_pretrained(tmp_path / "my-prior")
    (code,) = re.findall(r"```python\n(import json\n.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(code.strip().splitlines()) <= 20
    z = [[0.3, 0.2], [1.7, -0.4], [-2.2, 5.1]]
    hide = "import sys; sys.modules['torch'] = sys.modules['topoprior'] = None\n"
    show = f"\nprint(json.dumps([decode(np.array(z)).ravel().tolist() for z in {z}]))"
    done = subprocess.run(
        [sys.executable, "-c", hide + code + show],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    found = torch.tensor(json.loads(done.stdout.splitlines()[-1]), dtype=torch.float64)
    expected = tp.get_prior(name).decode(torch.tensor(z, dtype=torch.float64)).flatten(1)
    assert torch.allclose(found, expected, atol=1e-6)


def test_the_harmonics_of_klein_are_those_of_the_page():
    z = torch.randn(50, 2, dtype=torch.float64)
    a, b = 2 * math.pi * z[:, 1], math.pi * z[:, 0]
    expected = torch.stack([
        math.sqrt(2) * a.cos(), -2 * a.sin() * b.sin(), -2 * a.sin() * b.cos(),
        2 * a.cos() * (2 * b).cos(), -2 * a.cos() * (2 * b).sin(),
    ], 1)  # fmt: skip
    assert torch.allclose(tp.get_prior("klein-3x3").harmonics(z), expected, atol=1e-12)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_priors_write_their_harmonics_out(name):
    config = json.loads(
        (Path(tp.__file__).parent / "priors" / "pretrained" / name / "config.json").read_text()
    )
    assert "columns" not in config
    assert config["harmonics"] == describe(tp.get_prior(name).harmonics)


@pytest.mark.parametrize(
    "space",
    [tp.KleinBottle(), tp.Torus(2), tp.Circle(), hexagonal(), tp.HantzscheWendt(), tp.HalfTurnManifold()],
    ids=repr,
)
def test_harmonics_are_found_again_in_any_order_and_sign(space):
    harmonics = Harmonics(space, 12).select([7, 0, 3, 11])
    described = json.loads(json.dumps(describe(harmonics)))
    described[1] = [[*wave[:-2], -wave[-2], -wave[-1]] for wave in described[1]]
    described[2] = [
        [*(-f for f in wave[:-2]), wave[-2], -wave[-1]] for wave in described[2]
    ]  # the same wave
    found, signs = find(space, described)
    assert signs.tolist() == [1, -1, 1, 1]
    z = torch.randn(20, space.dim, dtype=torch.float64)
    assert torch.allclose(found(z), harmonics(z), atol=1e-12)


def _old(name: str, folder: Path) -> None:
    """A folder as it was written before: no digest, harmonics by number."""
    prior = tp.get_prior(name)
    prior.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    del config["harmonics"], config["sha256"]
    config["columns"] = prior.harmonics.columns
    (folder / "config.json").write_text(json.dumps(config))
    safetensors.torch.save_file({"coefficients": prior.coefficients}, folder / "model.safetensors")


@pytest.mark.parametrize("name", SHIPPED)
def test_old_checkpoints_load(name, tmp_path):
    _old(name, tmp_path)
    z = torch.randn(20, tp.get_prior(name).covering.dim)
    assert torch.equal(tp.DecoderPrior.from_pretrained(tmp_path).decode(z), tp.get_prior(name).decode(z))


@pytest.mark.parametrize(
    "harmonics",
    [
        [],
        "x",
        [[]],
        [[[0.5, 1.0, 1.0]]],
        [[[0.5, 1.0, 1.0, math.pi]]],
        [[[0.0, 0.25, 1.0, 0.0]]],
        [[[0.5, 0.0, math.sqrt(2), 0.0]]],  # e^{ib}: changes sign with the sheet
        [[[0.0, 1.0, 1.0, 0.0]]],  # not of norm 1
        [[[0.0, 1.0, math.sqrt(2), 0.0]]] * 2,
        [[[0.0, 1e9, math.sqrt(2), 0.0]]],
        [[[0.0, 1.0, float("nan"), 0.0]]],
        [[[0.0, 1.0, None, 0.0]]],
    ],
)
def test_what_is_no_list_of_harmonics_is_refused(harmonics):
    with pytest.raises((ValueError, TypeError)):
        find(tp.KleinBottle(), harmonics)


def test_a_checkpoint_with_other_functions_is_refused(tmp_path):
    _old("klein-3x3", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["harmonics"] = [[[0.5, 0.0, math.sqrt(2), 0.0]]] * 5
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="does not describe a decoder prior"):
        tp.DecoderPrior.from_pretrained(tmp_path)
