"""Pixels of a folder that are kept for the next call: used for the same files alone."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments.common import decoded
from experiments.common.data import DataError, load
from tests.experiments.priors.test_data import tree, write_image

__all__ = ["tree"]  # the fixture


@pytest.fixture
def kept(monkeypatch, tmp_path) -> Path:
    monkeypatch.setattr(decoded, "FEWEST", 4)
    return tmp_path / "data" / "here"


def never(*_: object) -> None:
    raise AssertionError("decoded again")


def pixels(tree: Path, kept: Path, **more: int) -> torch.Tensor:
    data = load(str(tree), kept, **more)
    return torch.cat([data.train_images, data.test_images])


def test_the_second_call_decodes_nothing(tree, kept, monkeypatch):
    first = pixels(tree, kept)
    (file,) = kept.iterdir()
    with np.load(file, allow_pickle=False) as found:
        assert sorted(found.files) == ["key", "pixels"]
    monkeypatch.setattr(decoded, "decode", never)
    assert torch.equal(pixels(tree, kept), first)
    with pytest.raises(AssertionError, match="again"):
        pixels(tree, kept, image_size=5)
    with pytest.raises(AssertionError, match="again"):
        pixels(tree, kept, train_size=4)


def changed(file: Path) -> None:
    """Other pixels, as many bytes, the old time of the last change."""
    at = file.stat()
    write_image(file, 110, (6, 5))
    assert file.stat().st_size == at.st_size
    os.utime(file, ns=(at.st_atime_ns, at.st_mtime_ns))


def test_what_changed_is_decoded_again_in_the_same_place(tree, kept):
    first = pixels(tree, kept)
    (file,) = kept.iterdir()
    changed(tree / "train" / "dog" / "1.png")
    second = pixels(tree, kept)
    assert not torch.equal(first, second)
    (tree / "test" / "cat" / "0.png").rename(tree / "test" / "cat" / "9.png")
    third = pixels(tree, kept)
    assert torch.equal(third.sum((1, 2, 3)).sort().values, second.sum((1, 2, 3)).sort().values)
    assert list(kept.iterdir()) == [file]


@pytest.mark.parametrize("damage", [b"", b"PK\3\4 nothing", "cut", "bit"])
def test_what_is_damaged_is_made_again(tree, kept, damage):
    first = pixels(tree, kept)
    (file,) = kept.iterdir()
    whole = file.read_bytes()
    cut, bit = whole[: len(whole) // 2], bytearray(whole)
    bit[whole.index(b"pixels.npy") + 200] ^= 1
    file.write_bytes({"cut": cut, "bit": bytes(bit)}.get(damage, damage))
    assert torch.equal(pixels(tree, kept), first)
    assert file.read_bytes() == whole


def test_where_nothing_can_be_written_images_are_decoded(tree, kept):
    kept.parent.mkdir()
    kept.write_text("a file")
    assert len(pixels(tree, kept))
    assert kept.read_text() == "a file"


def test_few_images_leave_no_file(tree, kept, monkeypatch):
    monkeypatch.setattr(decoded, "FEWEST", 10_000)
    pixels(tree, kept)
    assert not kept.exists()


def test_a_file_that_is_gone_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(decoded, "FEWEST", 1)
    with pytest.raises(DataError, match=r"gone\.png"):
        decoded.decoded(tmp_path, [str(tmp_path / "gone.png")], (4, 4), tmp_path)
