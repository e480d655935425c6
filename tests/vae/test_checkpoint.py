"""Checkpoints of training: resumed to the same bits; damaged, hostile or another's: refused, the model untouched."""

import json
import os

import pytest
import torch

import topoprior as tp
from tests.vae.cases import small_training
from topoprior.utils.files import CheckpointError, pack, unpack
from topoprior.vae.training import fit


def test_a_killed_training_resumes_to_the_same_numbers(tmp_path):
    whole, expected = small_training(None, 8)
    with pytest.raises(StopIteration):
        small_training(tmp_path / "run.pt", 8, interrupt=13)  # in the fifth epoch, of three steps each
    resumed, found = small_training(tmp_path / "run.pt", 8)
    assert found == expected
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
    again, same = small_training(tmp_path / "run.pt", 8)
    assert same == expected


def test_a_checkpoint_of_another_training_is_refused(tmp_path):
    small_training(tmp_path / "run.pt", 2)
    with pytest.raises(ValueError, match="epochs"):
        small_training(tmp_path / "run.pt", 3)
    with pytest.raises(ValueError, match="coverage"):
        small_training(tmp_path / "run.pt", 2, coverage=1.0)
    (tmp_path / "run.pt").write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match="damaged"):
        small_training(tmp_path / "run.pt", 2)


def test_a_checkpoint_of_another_model_or_other_data_is_refused(tmp_path):
    """Each differs in one thing, and the message says in which; the sum of permuted data is the same."""

    def train(x, held_out, hidden=(8,), **options):
        torch.manual_seed(5)
        vae = tp.CoveringVAE(tp.Circle(), (3,), encoder_hidden=hidden, decoder_hidden=(), **options)
        quick = {"epochs": 1, "warm": False, "progress": False, "checkpoint": tmp_path / "run.pt"}
        return fit(vae, x, validation=held_out, **quick)

    x = torch.rand(60, 3)
    history = train(x[:50], x[50:])
    assert train(x[:50], x[50:]) == history
    for message, arguments in {
        "with x =": (x[:50].flip(0), x[50:]),
        "with validation =": (x[:50], x[50:].flip(0)),
        "with validation = .* this one has 'none'": (x[:50], None),
        "another architecture, encoder.0.weight": (x[:50], x[50:], (9,)),
        "another architecture, encoder.2.weight": (x[:50], x[50:], (8, 8)),
    }.items():
        with pytest.raises(ValueError, match=message):
            train(*arguments)
    with pytest.raises(ValueError, match="likelihood = 'bernoulli', this one has 'gaussian'"):
        train(x[:50], x[50:], likelihood="gaussian")
    with pytest.raises(ValueError, match="another architecture, decoder.0.weight"):
        train(x[:50], x[50:], num_harmonics=4)
    (tmp_path / "run.pt").unlink()
    train(x[:50], x[50:], (3, 3))  # as wide as the input and the output
    with pytest.raises(ValueError, match="another architecture, with encoder.4.bias"):
        train(x[:50], x[50:], (3,))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Two epochs of three."""
    path = tmp_path_factory.mktemp("whole") / "run"
    with pytest.raises(StopIteration):
        small_training(path, 3, interrupt=9, warm=True)
    return path


def resumed(data, path):
    """The error of a training that goes on from ``data``, or None; the model has to be untouched by an error."""
    path.write_bytes(data)
    made = []
    init = tp.CoveringVAE.__init__

    def remember(self, *args, **kwargs):
        init(self, *args, **kwargs)
        made.append((self, {name: value.clone() for name, value in self.state_dict().items()}))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tp.CoveringVAE, "__init__", remember)
        try:
            small_training(path, 3, warm=True)
        except ValueError as error:
            ((vae, before),) = made
            assert all(torch.equal(value, before[name]) for name, value in vae.state_dict().items())
            assert path.read_bytes() == data
            return error
    return None


def changed(name, value=None):
    def change(config, tensors):
        if value is None:
            del tensors[name]
        else:
            tensors[name] = value(tensors[name])

    return change


def configured(**fields):
    return lambda config, tensors: config.update(fields)


def without(name):
    return lambda config, tensors: config.pop(name)


FIRST = "encoder.0.weight"  # (8, 3)
WRONG = {
    "moment of another size": changed(f"exp_avg.{FIRST}", lambda t: torch.zeros(1)),
    "moment larger": changed(f"exp_avg.{FIRST}", lambda t: torch.zeros(800, 3)),
    "moment turned": changed(f"exp_avg_sq.{FIRST}", lambda t: t.T.contiguous()),
    "moment of another dtype": changed(f"exp_avg.{FIRST}", lambda t: t.double()),
    "moment of integers": changed(f"exp_avg.{FIRST}", lambda t: t.int()),
    "moment missing": changed(f"exp_avg.{FIRST}"),
    "moment NaN": changed(f"exp_avg.{FIRST}", lambda t: t * torch.nan),
    "moment infinite": changed(f"exp_avg_sq.{FIRST}", lambda t: t + torch.inf),
    "squares below 0": changed(f"exp_avg_sq.{FIRST}", lambda t: -t - 1),
    "best missing": changed(f"best.{FIRST}"),
    "best of another shape": changed(f"best.{FIRST}", lambda t: t[:1]),
    "weights of another dtype": changed(f"vae.{FIRST}", lambda t: t.half()),
    "weights NaN": changed(f"vae.{FIRST}", lambda t: t * torch.nan),
    "losses too short": changed("train", lambda t: t[:1]),
    "losses too long": changed("train", lambda t: torch.cat([t, t, t, t])),
    "losses NaN": changed("validation", lambda t: t * torch.nan),
    "losses as a scalar": changed("train", lambda t: t[0]),
    "no losses": changed("train"),
    "validation empty": changed("validation", lambda t: t[:0]),
    "random missing": changed("random"),
    "random too short": changed("random", lambda t: t[:-1]),
    "random no state": changed("random", lambda t: torch.full_like(t, 255)),
    "random as floats": changed("random", lambda t: t.float()),
    "unknown tensor": lambda config, tensors: tensors.update(other=torch.zeros(1)),
    "no format": without("format"),
    "no settings": without("settings"),
    "settings a list": configured(settings=[1]),
    "no steps": without("steps"),
    "steps of half an epoch": configured(steps=5),
    "no step": configured(steps=0),
    "steps below 0": configured(steps=-3),
    "steps beyond the end": configured(steps=12),
    "steps a bomb": configured(steps=10**18),
    "steps a float": configured(steps=6.0),
    "steps true": configured(steps=True),
    "steps text": configured(steps="6"),
    "best epoch beyond": configured(best_epoch=9),
    "best epoch below 0": configured(best_epoch=-1),
    "best epoch missing": without("best_epoch"),
    "fit a list": configured(fit=[1.0]),
    "fit without a residual": configured(fit={}),
    "fit text": configured(fit={"residual": "x"}),
    "fit nested": configured(fit={"residual": [1.0]}),
}


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG)
def test_every_field_is_checked_before_any_is_used(change, checkpoint, tmp_path):
    config, tensors, _ = unpack(checkpoint.read_bytes(), checkpoint)
    change(config, tensors)
    error = resumed(pack(config, tensors), tmp_path / "run")
    assert isinstance(error, CheckpointError)
    assert str(tmp_path / "run") in str(error)
    assert "\n" not in str(error)
    assert len(str(error)) < 400


def test_an_unchanged_checkpoint_is_taken(checkpoint, tmp_path):
    config, tensors, _ = unpack(checkpoint.read_bytes(), checkpoint)
    assert isinstance(config["fit"]["residual"], float)
    assert resumed(pack(config, tensors), tmp_path / "run") is None


def test_random_damage_is_seen(checkpoint, tmp_path):
    """A flipped bit, a cut, an inserted or a doubled block, anywhere."""
    data = checkpoint.read_bytes()
    where = torch.Generator().manual_seed(0)
    for i in range(60):
        at, length = (int(torch.randint(len(data), (), generator=where)) for _ in range(2))
        damaged = bytearray(data)
        if i % 4 == 0:
            damaged[at] ^= 1 << i % 8
        elif i % 4 == 1:
            del damaged[at:]
        elif i % 4 == 2:
            damaged[at:at] = bytes(length % 100 + 1)
        else:
            damaged[at : at + length] = damaged[:length]
        if damaged != data:
            assert isinstance(resumed(bytes(damaged), tmp_path / "run"), CheckpointError), (i, at, length)


@pytest.mark.parametrize("kind", ["fifo", "folder", "device", "dangling", "large"])
def test_only_a_regular_file_is_a_checkpoint(kind, tmp_path):
    path = tmp_path / "run"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "dangling":
        path.symlink_to(tmp_path / "nothing")
    else:
        with open(path, "wb") as file:
            file.truncate(1 << 40)  # sparse
    with pytest.raises(CheckpointError, match="run: "):
        small_training(path, 1)


def test_a_folder_that_cannot_be_is_refused_before_the_work(tmp_path):
    (tmp_path / "file").write_text("a file, not a folder")
    with pytest.raises(ValueError, match="checkpoint: cannot write to .*file"):
        small_training(tmp_path / "file" / "run", 1, interrupt=0)


def test_a_checkpoint_of_torch_is_refused_without_advice(tmp_path):
    """torch's own error says that weights_only=False will likely succeed: never said here."""

    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "executed"),))

    for content in ({"settings": {}}, Evil(), {"settings": Evil()}):
        torch.save(content, tmp_path / "run")
        with pytest.raises(CheckpointError, match="torch.save") as error:
            small_training(tmp_path / "run", 1)
        assert "weights_only" not in str(error.value)
    assert not (tmp_path / "executed").exists()


def test_settings_that_json_has_not(tmp_path):
    """numpy's numbers, and floats that are not finite."""
    numpy = pytest.importorskip("numpy")
    options = {"learning_rate": numpy.float32(1e-3), "seed": numpy.int64(3)}
    _, first = small_training(tmp_path / "run", 2, **options)
    _, again = small_training(tmp_path / "run", 2, **options)
    assert again == first
    config, tensors, _ = unpack((tmp_path / "run").read_bytes(), "run")
    config["fit"] = {
        "residual": "inf",
        "mismatch": "nan",
        "chosen": None,
        "certified": False,
        "why": "a word",
    }
    (tmp_path / "run").write_bytes(pack(config, tensors))
    _, history = small_training(tmp_path / "run", 2, **options)
    assert history.residual == float("inf")
    json.dumps(config)
