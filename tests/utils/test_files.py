"""Files: what a stranger wrote is refused at once, what a save was killed in is old or new, no bit changes unseen."""

import itertools
import json
import os
import threading
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch

from topoprior.utils import files
from topoprior.utils.files import CheckpointError

KIND = "a/1"


def saved(folder, gain=1.0, seed=0):
    numbers = {
        "a": torch.randn(3, 2, generator=torch.Generator().manual_seed(seed)),
        "b": torch.zeros(0, 4),
    }
    files.save(folder, {"format": KIND, "gain": gain}, numbers)
    return numbers


def test_round_trip_of_every_dtype():
    numbers = {str(d): torch.arange(6).reshape(2, 3).to(d) for d in files._DTYPES.values()}
    numbers |= {"scalar": torch.tensor(0.1), "empty": torch.zeros(0, 3), "slice": torch.rand(4, 4)[:, 1]}
    config = {"gain": 0.1, "on": True, "none": None, "list": [1, 2.5, "é"], "seed": 2**63}
    found, tensors, digest = files.unpack(files.pack(config, numbers), "x")
    assert found == config
    assert len(digest) == 64
    assert tensors.keys() == numbers.keys()
    for name, tensor in numbers.items():
        assert tensors[name].dtype == tensor.dtype
        assert torch.equal(tensors[name], tensor)


def test_equal_checkpoints_are_equal_bytes():
    """Twenty times: if each of two orders of the metadata had a chance of 1/2, one in 500,000 would not be seen."""
    numbers = {"b": torch.arange(3), "a": torch.ones(2, 2)}
    assert len({files.pack({"gain": 0.5}, numbers) for _ in range(20)}) == 1


def test_no_bit_of_a_packed_file_changes_unseen():
    """Every bit, one at a time: refused, or (a space of the header for another blank) the same is read."""
    config, numbers = {"format": KIND, "gain": 0.5}, {"a": torch.tensor([1.0, -2.0])}
    data = files.pack(config, numbers)
    same = 0
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            found, tensors, _ = files.unpack(bytes(damaged), "x")
        except CheckpointError:
            continue
        assert found == config
        assert torch.equal(tensors["a"], numbers["a"])
        same += 1
    assert same < 8


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 10_000, "nested deeper than 50"),
        ('{"a": ' + "[" * 60 + "]" * 60 + "}", "nested deeper than 50"),
        ('{"a": 1' + "0" * 400 + "}", "an integer of 401 digits"),
        ('{"a": 18446744073709551616}', "an integer of 20 digits"),
        ('{"a": 1e999}', "1e999 is no finite number"),
        ('{"a": -Infinity}', "-Infinity is no finite number"),
        ('{"a": NaN}', "NaN is no finite number"),
        ('{"a": 1, "a": 2}', "a key is there twice"),
        ("{", "not valid JSON"),
        ("", "not valid JSON"),
        ("[]", "expected an object, found list"),
        (b"\xff", "not valid JSON"),
        ('{"a": "' + "x" * 100_000 + '"}', "expected at most 100,000 bytes"),
    ],
    ids=range(13),
)
def test_json_of_a_stranger(text, message):
    with pytest.raises(CheckpointError, match=f"^c.json: .*{message}") as error:
        files.parse_json(text, "c.json")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 200


def hostile(folder, how):
    """A folder, or a link to the device, in the place of both files, one after the other."""
    name, kind = how
    path = folder / name
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "large":
        with open(path, "wb") as file:
            file.truncate(1 << 40)  # sparse
    elif kind == "secret":
        path.write_bytes(b"x")
        path.chmod(0)


@pytest.mark.parametrize("name", [files.CONFIG, files.MODEL])
@pytest.mark.parametrize("kind", ["fifo", "folder", "device", "loop", "large", "secret"])
def test_only_regular_files_of_bounded_size_are_read(name, kind, tmp_path):
    if kind == "secret" and os.geteuid() == 0:
        pytest.skip("root reads everything")
    saved(tmp_path)
    hostile(tmp_path, (name, kind))
    with pytest.raises(CheckpointError, match=name):
        files.load(tmp_path, KIND)


@pytest.mark.parametrize("dtype", ["F4", "F8_E8M0", "F8_E4M3", "C64"])
def test_dtypes_that_a_prior_does_not_have(dtype, tmp_path):
    bits = {"F4": 4, "C64": 64}.get(dtype, 8)
    header = json.dumps({"a": {"dtype": dtype, "shape": [2, 4], "data_offsets": [0, bits]}}).encode()
    (tmp_path / files.MODEL).write_bytes(len(header).to_bytes(8, "little") + header + bytes(bits))
    (tmp_path / files.CONFIG).write_text(json.dumps({"format": KIND}))
    with pytest.raises(CheckpointError, match=f"model.safetensors: .*{dtype}"):
        files.load(tmp_path, KIND)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.tensor([True]), "found torch.bool"),
        (torch.tensor([1]), "found torch.int64"),
        (torch.tensor([1.0, torch.nan]), "found NaN or infinity"),
        (torch.tensor([torch.inf]), "found NaN or infinity"),
    ],
)
def test_numbers_of_a_prior_are_finite_floats(tensor, message, tmp_path):
    files.save(tmp_path, {"format": KIND}, {"a": tensor})
    with pytest.raises(CheckpointError, match=f"model.safetensors: 'a': .*{message}"):
        files.load(tmp_path, KIND)


def test_checkpoints_without_a_digest_load_still(tmp_path):
    numbers = {"a": torch.rand(3)}
    safetensors.torch.save_file(numbers, tmp_path / files.MODEL)
    (tmp_path / files.CONFIG).write_text(json.dumps({"format": KIND, "gain": 2.0}))
    config, tensors = files.load(tmp_path, KIND)
    assert config == {"format": KIND, "gain": 2.0}
    assert torch.equal(tensors["a"], numbers["a"])
    saved(tmp_path / "new")
    (tmp_path / files.CONFIG).write_bytes((tmp_path / "new" / files.CONFIG).read_bytes())
    with pytest.raises(CheckpointError, match="another model.safetensors"):
        files.load(tmp_path, KIND)


def test_a_folder_between_two_saves_is_the_one_or_the_other(tmp_path):
    """All mixtures of the files of two saves and of none, as kills leave them: the model's own configuration counts."""
    old, new = saved(tmp_path / "old", 1.0, 1), saved(tmp_path / "new", 2.0, 2)
    for model, expected, gain in (("old", old, 1.0), ("new", new, 2.0)):
        for copy in ("old", "new", None):
            folder = tmp_path / f"{model}-{copy}"
            folder.mkdir()
            (folder / files.MODEL).write_bytes((tmp_path / model / files.MODEL).read_bytes())
            if copy is not None:
                (folder / files.CONFIG).write_bytes((tmp_path / copy / files.CONFIG).read_bytes())
            config, tensors = files.load(folder, KIND)
            assert config == files.read_config(folder) == {"format": KIND, "gain": gain}
            assert torch.equal(tensors["a"], expected["a"])


def test_a_configuration_changed_by_hand_is_not_passed_over(tmp_path):
    saved(tmp_path)
    text = (tmp_path / files.CONFIG).read_text()
    (tmp_path / files.CONFIG).write_text(text.replace('"gain": 1.0', '"gain": 3.0'))
    with pytest.raises(CheckpointError, match="config.json: was changed after it was saved"):
        files.load(tmp_path, KIND)


def test_a_reader_beside_a_writer_sees_one_save_or_the_other(tmp_path):
    """First over a folder without digest, then over one with: gain and numbers are of one save, every time."""
    numbers = {"a": torch.full((3,), 7.0)}
    safetensors.torch.save_file(numbers, tmp_path / files.MODEL)
    (tmp_path / files.CONFIG).write_text(json.dumps({"format": KIND, "gain": 7.0}))
    over = threading.Event()

    def write():
        for i in itertools.count():
            if over.is_set():
                return
            files.save(tmp_path, {"format": KIND, "gain": float(i)}, {"a": torch.full((3,), float(i))})

    writer = threading.Thread(target=write)
    writer.start()
    seen = set()
    try:
        for _ in range(300):
            config, tensors = files.load(tmp_path, KIND)
            assert tensors["a"].tolist() == [config["gain"]] * 3
            seen.add(config["gain"])
    finally:
        over.set()
        writer.join()
    assert len(seen) > 1
    assert sorted(p.name for p in tmp_path.iterdir()) == [files.CONFIG, files.MODEL]


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "x"
    files.write_atomically(path, b"old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "chmod", fail)
    with pytest.raises(OSError, match="No space"):
        files.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x"]


def test_a_folder_is_tried_before_the_work(tmp_path):
    (tmp_path / "file").write_text("")
    files.check_writable(tmp_path / "new" / "one", "--output")
    files.check_writable(tmp_path, "--output")
    assert os.listdir(tmp_path) == ["file"]
    refused = [tmp_path / "file", tmp_path / "file" / "x", tmp_path / ("x" * 300)]
    refused += [Path("/proc/x")] if Path("/proc/self").exists() else []  # where root may write, but cannot
    for folder in refused:
        with pytest.raises(ValueError, match="^--output: .*cannot (be written|write) to") as error:
            files.check_writable(folder, "--output")
        assert "\n" not in str(error.value)
