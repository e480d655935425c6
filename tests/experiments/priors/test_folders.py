"""Folders of images as people have them: junk, other suffixes, hostile files, odd names."""

import os
import shutil
import unicodedata
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from experiments.common.data import DataError, describe, load
from experiments.common.folders import SUFFIXES, decode
from experiments.priors import compare
from tests.experiments.priors.test_data import levels, tree, write_image
from topoprior.kernels.patches import find_images, read_image

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


@pytest.mark.parametrize(
    "name", ["Thumbs.db", "desktop.ini", "._x.png", "Icon\r", "#recycle", "@eaDir", ".git", ".Trash-1000"]
)
def test_what_systems_leave_is_ignored_anywhere(tree: Path, name: str) -> None:
    for folder in ("train", "train/cat", "test", "test/dog"):
        if "." in name[1:] or name.endswith("\r"):
            shutil.copy(tree / "test/cat/0.png", tree / folder / name)
        else:
            shutil.copytree(tree / "test/cat", tree / folder / name)
    train, test = notes(tree)
    assert train.startswith(f"{tree / 'train'}: ignored ")
    assert test.startswith(f"{tree / 'test'}: ignored ")
    data = load(str(tree), tree)
    assert (len(data.train_images), len(data.test_images), data.classes) == (8, 4, ("cat", "dog"))
    assert len(find_images(tree)) == 12


@pytest.mark.parametrize("suffix", [".gif", ".jfif", ".webp", ".GIF", ".bmp", ".tif"])
def test_other_suffixes_are_images_too(tree: Path, suffix: str) -> None:
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


def test_links_to_folders_above_are_not_followed(tree: Path) -> None:
    """In train/cat/up all of train/ would be cats; a link in a circle is no folder."""
    (tree / "train/cat/up").symlink_to("..")
    (tree / "train/dog/top").symlink_to(tree)
    (tree / "train/circle").symlink_to("circle")
    (said,) = notes(tree)
    assert "a link to a folder above: 2" in said
    assert "outside of a class: 1" in said
    data = load(str(tree), tree)
    assert data.train_labels.bincount().tolist() == [4, 4]
    for split in ("train", "test"):
        (tree / split / "all").symlink_to(tree)
    assert "all: no images" in fails(tree)


@pytest.mark.parametrize("side", [20_000, 10_500, 9_000])
def test_a_huge_image_is_named(tree: Path, side: int) -> None:
    """Beyond what Pillow reads, where it only warns, and where it says nothing."""
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


# --- unusual images ----------------------------------------------------------------------------

PIXELS = np.arange(90, dtype=np.uint8).reshape(9, 10, 1) * np.array([1, 2, 1], np.uint8)
GREY = PIXELS[..., 0]


def colour(name: str, **options: Any) -> Callable[[Path], None]:
    """Writes PIXELS in another mode; what is read are the same numbers."""
    return lambda path: Image.fromarray(PIXELS).convert(name).save(path, **options)


EXACT = {
    "RGBA": ("x.png", colour("RGBA"), PIXELS),
    "CMYK": ("x.tif", colour("CMYK"), PIXELS),
    "palette": ("x.png", lambda path: Image.fromarray(PIXELS).quantize(256).save(path), PIXELS),
    "grey palette": ("x.gif", lambda path: Image.fromarray(GREY).save(path), GREY),
    "grey and alpha": ("x.png", lambda path: Image.fromarray(GREY).convert("LA").save(path), GREY),
    "animation": ("x.gif", lambda path: Image.fromarray(GREY).save(path, save_all=True, append_images=[Image.fromarray(255 - GREY)]), GREY),
    "pages": ("x.tif", lambda path: Image.fromarray(PIXELS).save(path, save_all=True, append_images=[Image.fromarray(255 - PIXELS)]), PIXELS),
    "one bit": ("x.bmp", lambda path: Image.fromarray(GREY > 44).save(path), (GREY > 44) * np.uint8(255)),
    "suffix": ("x.PnG", lambda path: Image.fromarray(GREY).save(path, "PNG"), GREY),
}  # fmt: skip


@pytest.mark.parametrize("name", EXACT)
def test_unusual_images_have_their_pixels(tmp_path: Path, name: str) -> None:
    file, write, expected = EXACT[name]
    write(tmp_path / file)
    found = decode([str(tmp_path / file)], (10, 9))[0].numpy()
    assert found.shape[2] == (1 if expected.ndim == 2 else 3)
    np.testing.assert_array_equal(found.squeeze(), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "tif", "webp"])
def test_images_are_turned_as_the_camera_says(tree: Path, orientation: int, suffix: str) -> None:
    """The tag of EXIF says where the first row and column are; the picture that people see is the same."""
    stored = {
        1: GREY, 2: GREY[:, ::-1], 3: GREY[::-1, ::-1], 4: GREY[::-1], 5: GREY.T, 6: np.rot90(GREY), 7: GREY[::-1, ::-1].T, 8: np.rot90(GREY, -1),
    }[orientation]  # fmt: skip
    image = Image.fromarray(np.ascontiguousarray(stored))
    exif = image.getexif()
    exif[0x0112] = orientation
    for path in tree.rglob("*.png"):
        options: dict[str, Any] = {"webp": {"lossless": True}, "tif": {"compression": "tiff_lzw"}}.get(
            suffix, {"quality": 100}
        )
        image.save(path.with_suffix(f".{suffix}"), exif=exif, **options)
        path.unlink()
    assert notes(tree) == []
    (found, *_) = load(str(tree), tree).train_images
    assert found.shape[1:] == GREY.shape
    assert np.abs(255 * found.mean(0).numpy() - GREY).max() <= 3  # of JPEG


REFUSED: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "empty": ("x.png", lambda path: path.write_bytes(b""), "not an image that can be read"),
    "text": ("x.jpg", lambda path: path.write_text("hello"), "not an image that can be read"),
    "16 bits": ("x.png", lambda path: Image.fromarray(GREY.astype(np.uint16) * 300).save(path), "more than 8 bits"),
    "16 bits, pgm": ("x.pgm", lambda path: path.write_bytes(b"P5 10 9 65535\n" + bytes(180)), "more than 8 bits"),
    "floats": ("x.tif", lambda path: Image.fromarray(GREY.astype(np.float32)).save(path), "more than 8 bits"),
    "a huge header": ("x.pgm", lambda path: path.write_bytes(b"P5 1000000000 1000000000 255\n"), "more pixels than"),
    "cut off": ("x.tif", lambda path: (colour("RGB")(path), path.write_bytes(path.read_bytes()[:200])), "not an image"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_images_that_are_refused(tree: Path, name: str) -> None:
    file, write, words = REFUSED[name]
    write(tree / "train/cat" / file)
    assert fails(tree).startswith(f"{tree / 'train/cat' / file}: {words}")


def test_patches_of_unusual_images(tmp_path: Path) -> None:
    """16 bits and floats are read, what is not finite is named."""
    for name, values in (("a.png", GREY.astype(np.uint16) * 300), ("b.tif", GREY.astype(np.float32) / 7)):
        Image.fromarray(values).save(tmp_path / name)
        np.testing.assert_array_equal(read_image(tmp_path / name).numpy(), values.astype(np.float64))
    Image.fromarray(np.where(GREY == 40, np.nan, GREY).astype(np.float32)).save(tmp_path / "c.tif")
    with pytest.raises(ValueError, match=r"patches: .*c\.tif contains NaN or infinite values"):
        read_image(tmp_path / "c.tif")
