"""Priors in files: saved and loaded, damaged, refused."""

import datetime
import json
import time
from pathlib import Path

import pytest
import torch

import topoprior as tp
from topoprior.__main__ import main
from topoprior.kernels.klein import klein_kernels
from topoprior.priors import pretrained_names
from topoprior.utils import files
from topoprior.utils.files import CheckpointError

K = tp.KleinBottle()


@pytest.fixture
def klein():
    return tp.DecoderPrior.from_pretrained("klein-3x3")


def uniform(num=4000):
    return K.sample_uniform(torch.Size([num]), torch.float32, torch.device("cpu"))


def test_save_load_round_trip(klein, tmp_path):
    klein.save_pretrained(tmp_path / "prior")
    again = tp.DecoderPrior.from_pretrained(tmp_path / "prior", gain=1.0)
    z = uniform(50)
    assert torch.equal(klein.decode(z), again.decode(z))
    assert again.gain == 1.0
    assert again.covering == klein.covering
    layer = tp.BayesConv2d(2, 3, 3, prior=tmp_path / "prior")
    assert torch.equal(layer.prior.decode(z), klein.decode(z))


def test_a_checkpoint_says_where_it_is_from(klein, tmp_path):
    klein.save_pretrained(tmp_path / "a", data="Kernels of mine.", licence="cc0-1.0", authors="Ada")
    again = tp.get_prior(tmp_path / "a")
    said = {"data": "Kernels of mine.", "licence": "cc0-1.0", "authors": "Ada", "version": tp.__version__}
    assert said.items() <= again.about.items()
    datetime.date.fromisoformat(again.about["date"])
    again.save_pretrained(tmp_path / "b", authors="Ada, Bob")
    assert tp.get_prior(tmp_path / "b").about == {**again.about, "authors": "Ada, Bob"}
    for wrong in ({"data": 3}, {"licence": "x" * 2000}):
        with pytest.raises((TypeError, ValueError), match=f"^{next(iter(wrong))}: expected"):
            klein.save_pretrained(tmp_path / "c", **wrong)
    assert not (tmp_path / "c").exists()


def test_a_checkpoint_from_before_says_nothing_of_it(klein, tmp_path):
    klein.save_pretrained(tmp_path)
    config, tensors = files.load(tmp_path, "topoprior.DecoderPrior/1")
    files.save(tmp_path, {name: value for name, value in config.items() if name != "about"}, tensors)
    assert tp.get_prior(tmp_path).about == {}


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


def test_shipped_files_are_small():
    folder = Path(tp.__file__).parent / "priors" / "pretrained"
    assert "klein-3x3" in pretrained_names()
    for name in pretrained_names():
        assert sum(f.stat().st_size for f in (folder / name).iterdir()) < 200_000


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


BOMBS = {
    "klein-3x3": [
        {"about": ["Ada"]},
        {"about": {"date": 20260102}},
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
