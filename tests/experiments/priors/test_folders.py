"""Folders of images as people have them: junk, other suffixes, hostile files, odd names."""

import os
import shutil
import unicodedata
import warnings
from pathlib import Path

import pytest

from experiments.common.data import DataError, describe, load
from experiments.common.folders import SUFFIXES
from experiments.priors import compare
from tests.experiments.priors.test_data import levels, tree, write_image

__all__ = ["tree"]  # the fixture


def fails(folder: Path) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DataError) as error:
            describe(str(folder), folder)
    text = str(error.value)
    assert "\n" not in text
    return text


def notes(folder: Path) -> list[str]:
    return list(describe(str(folder), folder).notes)


def test_junk_is_ignored_and_said_once(tree: Path) -> None:
    clean = describe(str(tree), tree)
    assert clean.notes == ()
    for junk in (
        "train/.ipynb_checkpoints",
        "train/__MACOSX",
        "train/cat/.ipynb_checkpoints",
        "train/dog/__MACOSX/x",
    ):
        shutil.copytree(tree / "test" / "cat", tree / junk)
    for junk in ("train/.DS_Store", "train/cat/._0.png", "train/dog/.hidden.png"):
        shutil.copy(tree / "test/cat/0.png", tree / junk)
    found = describe(str(tree), tree)
    assert found.digest == clean.digest
    (said,) = found.notes
    assert said.startswith(f"{tree / 'train'}: ignored .DS_Store, ._0.png, .hidden.png, .ipynb_checkpoints")
    data = load(str(tree), tree)
    assert data.classes == ("cat", "dog")
    assert len(data.train_images) == 8


@pytest.mark.parametrize("suffix", [".gif", ".jfif", ".webp", ".GIF", ".bmp", ".tif"])
def test_other_suffixes_are_images_too(tree: Path, suffix: str) -> None:
    from PIL import Image

    for path in list(tree.rglob("*.png")):
        kind = {".jfif": "JPEG", ".tif": "TIFF"}.get(suffix.lower(), suffix[1:].upper())
        Image.open(path).save(path.with_suffix(suffix), kind)
        path.unlink()
    data = load(str(tree), tree)
    assert (len(data.train_images), len(data.test_images)) == (8, 4)
    assert levels(data.train_images)[4] == pytest.approx(100, abs=3)


def test_what_is_skipped_is_counted_and_suffixes_are_listed(tree: Path) -> None:
    for name in ("a.heic", "b.heic", "notes.txt", "README"):
        (tree / "train/cat" / name).write_text("x")
    (said,) = notes(tree)
    assert "skipped 4 files (.heic: 2, " in said
    assert ".txt: 1" in said
    assert "no suffix: 1" in said
    assert all(suffix in said for suffix in SUFFIXES)
    for path in (tree / "test").rglob("*.png"):
        path.rename(path.with_suffix(".heic"))
    assert ".heic: 2" in fails(tree)


def test_a_pipe_is_not_waited_for(tree: Path) -> None:
    os.mkfifo(tree / "train/cat/x.png")
    (tree / "train/dog/broken.png").symlink_to("nowhere")
    (tree / "train/dog/round").symlink_to(tree / "train/dog")
    (said,) = notes(tree)
    assert "skipped 2 files (not a regular file: 2)" in said
    assert len(load(str(tree), tree).train_images) == 8


@pytest.mark.parametrize("side", [20_000, 10_500, 9_000])
def test_a_huge_image_is_named(tree: Path, side: int) -> None:
    """Beyond what Pillow reads, where it only warns, and where it says nothing."""
    from PIL import Image

    path = tree / "train/dog/huge.png"
    Image.new("1", (side, side)).save(path)
    assert fails(tree).startswith(f"{path}: ")


def test_damaged_images_are_named_before_training(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also one that no run of this command would read."""
    path = tree / "test/dog/1.png"
    path.write_bytes(path.read_bytes()[:-30])
    assert fails(tree) == f"{path}: not an image that can be read; repair or remove it"
    command = [
        "--dataset",
        str(tree),
        "--test-size",
        "2",
        "--image-size",
        "8",
        "--output",
        str(tmp_path / "out"),
    ]
    with pytest.raises(SystemExit):
        compare.main(command)
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_one_class_is_none(tree: Path) -> None:
    for split in ("train", "test"):
        shutil.rmtree(tree / split / "dog")
    assert fails(tree) == f"{tree}: only one class, cat; there is nothing to tell apart"


def test_composed_and_decomposed_letters_are_one_class(tree: Path) -> None:
    """train/ from a Mac, test/ from elsewhere: é as one letter and as two."""
    forms = [unicodedata.normalize(form, "café") for form in ("NFD", "NFC")]
    for split, name in zip(("train", "test"), forms, strict=True):
        (tree / split / "cat").rename(tree / split / name)
    assert load(str(tree), tree).classes == ("café", "dog")
    write_image(tree / "train" / forms[1] / "0.png", 0, (6, 5))
    assert "two folders are called café" in fails(tree)


def test_a_path_that_is_not_unicode(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    odd = os.fsdecode(b"caf\xe9 <b>|")
    for split in ("train", "test"):
        (tree / split / "cat").rename(tree / split / odd)
    (tree / "train" / odd / "0.png").rename(tree / "train" / odd / os.fsdecode(b"\xff.png"))
    data = load(str(tree), tree)
    assert data.classes == ("caf\\udce9 <b>|", "dog")
    folder = tree.parent / os.fsdecode(b"f\xff|<script>")
    shutil.move(tree, folder)
    command = (
        f"--priors gaussian --seeds 1 --steps 1 --samples 1 --image-size 8 --output {folder}/out".split(" ")
    )
    compare.main(["--dataset", str(folder), *command])
    text = (folder / "out/report.md").read_text(encoding="utf-8")
    assert "<script>" not in text
    capsys.readouterr().out.encode("utf-8")  # strict, as a terminal is


def test_one_large_image_does_not_resize_the_others(tree: Path) -> None:
    write_image(tree / "train/cat/000.png", 7, (5000, 5000))
    (said,) = notes(tree)
    assert "\n" not in said
    assert said.startswith(f"{tree / 'train/cat/000.png'} is 5000x5000: 1 of 9 training images are not 6x5")
    data = load(str(tree), tree)
    assert data.train_images.shape == (9, 1, 5, 6)
    assert sorted(levels(data.train_images)) == [0, 1, 2, 3, 7, 100, 101, 102, 103]
