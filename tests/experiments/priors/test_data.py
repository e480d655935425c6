"""Data for the experiments: the embedded subset, stratified choices, folders of images, errors."""

import hashlib
import re
import subprocess
import sys
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from experiments.common import data as datasets
from experiments.common.data import DataError, describe, load
from experiments.common.splits import stratified_indices

ROOT = Path(__file__).parents[3]
DATA = ROOT / "data"
SUBSET = DATA / "fashion-mnist-subset.npz"
DEBIAN_FILES = Path("/usr/share/datasets/fashion-mnist")
SHARED_DATA = ROOT.parent / "shared" / "data"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def message(error: pytest.ExceptionInfo[DataError]) -> str:
    """The text of an error, which must be one line."""
    text = str(error.value)
    assert "\n" not in text
    return text


# The embedded subset


def test_embedded_matches_its_readme() -> None:
    readme = (DATA / "README.md").read_text(encoding="utf-8")
    assert SUBSET.stat().st_size < 3_000_000
    assert f"({SUBSET.stat().st_size:,} bytes)" in readme
    assert sha256(SUBSET.read_bytes()) in readme
    with np.load(SUBSET, allow_pickle=False) as file:
        assert len(file.files) == 4
        for name in file.files:
            assert file[name].dtype == np.uint8
            digest = sha256(file[name].tobytes())
            assert f"| `{name}` | {file[name].shape} | `{digest}` |" in readme
    assert "Copyright © 2017 Zalando SE" in readme
    named = ", ".join(f"{label} {c}" for label, c in enumerate(datasets.FASHION_CLASSES))
    assert named in readme.replace("\n", " ")


def test_embedded_is_balanced(tmp_path: Path) -> None:
    data = load("embedded", tmp_path)
    assert data.train_images.shape == (2000, 1, 28, 28)
    assert data.test_images.shape == (1000, 1, 28, 28)
    for images in (data.train_images, data.test_images):
        assert images.dtype == torch.float32
        assert images.is_contiguous()
        assert images.min() == 0
        assert images.max() == 1
    assert data.train_labels.dtype == torch.int64
    assert data.train_labels.bincount().tolist() == [200] * 10
    assert data.test_labels.bincount().tolist() == [100] * 10
    assert data.classes == datasets.FASHION_CLASSES
    assert list(tmp_path.iterdir()) == []


def test_embedded_subset_and_resize(tmp_path: Path) -> None:
    full = load("embedded", tmp_path)
    part = load("embedded", tmp_path, train_size=50, test_size=20, seed=3)
    chosen = stratified_indices(full.train_labels, 50, 3)
    assert torch.equal(part.train_images, full.train_images[chosen])
    assert torch.equal(part.train_labels, full.train_labels[chosen])
    assert part.test_labels.bincount().tolist() == [2] * 10

    small = load("embedded", tmp_path, train_size=50, test_size=20, seed=3, image_size=14)
    assert small.train_images.shape == (50, 1, 14, 14)
    # Halving a bilinear, antialiased image keeps its mean, up to the border.
    means = [d.train_images.mean((1, 2, 3)) for d in (small, part)]
    torch.testing.assert_close(means[0], means[1], atol=0.02, rtol=0)


def run_prepare(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(DATA / "prepare.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.skipif(not DEBIAN_FILES.is_dir(), reason="needs Debian's dataset-fashion-mnist")
def test_prepare_regenerates_the_embedded_data(tmp_path: Path) -> None:
    output = tmp_path / "subset.npz"
    result = run_prepare("--output", output)
    assert result.returncode == 0, result.stderr
    assert list(tmp_path.iterdir()) == [output]
    # Arrays, not bytes of the file: those depend on the version of zlib.
    with np.load(SUBSET) as old, np.load(output, allow_pickle=False) as new:
        assert old.files == new.files
        for name in old.files:
            np.testing.assert_array_equal(old[name], new[name])
            assert sha256(new[name].tobytes()) in result.stdout


def test_prepare_leaves_the_output_alone_when_it_fails(tmp_path: Path) -> None:
    output = tmp_path / "subset.npz"
    output.write_text("old")
    source = tmp_path / "source"
    result = run_prepare("--source", source, "--output", output)
    assert result.returncode == 2
    assert f"no folder {source}: install dataset-fashion-mnist" in result.stderr
    source.mkdir()
    (source / "train-images-idx3-ubyte.gz").write_bytes(b"\x1f\x8bnot really")
    result = run_prepare("--source", source, "--output", output)
    assert result.returncode == 2
    assert "train-images-idx3-ubyte.gz: damaged gzip file" in result.stderr
    assert "Traceback" not in result.stderr
    assert output.read_text() == "old"


# Folders of images


def write_image(path: Path, value: int | tuple[int, int, int], size: tuple[int, int]) -> None:
    """An image of one colour: grey for an integer, otherwise RGB; `size` is (width, height)."""
    image = pytest.importorskip("PIL.Image")
    path.parent.mkdir(parents=True, exist_ok=True)
    image.new("L" if isinstance(value, int) else "RGB", size, value).save(path)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Grey images, 6 wide and 5 high: 4 for training and 2 for testing of each of 2 classes."""
    pytest.importorskip("torchvision")
    for split, count in (("train", 4), ("test", 2)):
        for label, name in enumerate(("cat", "dog")):
            for i in range(count):
                write_image(tmp_path / split / name / f"{i}.png", 100 * label + i, (6, 5))
    return tmp_path


def levels(images: Tensor) -> list[int]:
    """The first pixel of each image, from 0 to 255."""
    return (images[:, 0, 0, 0] * 255).round().int().tolist()


def test_folder_of_grey_images(tree: Path) -> None:
    data = load(str(tree), tree)
    assert data.name == str(tree)
    assert data.classes == ("cat", "dog")
    assert data.train_images.shape == (8, 1, 5, 6)
    assert data.train_images.dtype == torch.float32
    assert data.train_labels.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert levels(data.train_images) == [0, 1, 2, 3, 100, 101, 102, 103]
    assert levels(data.test_images) == [0, 1, 100, 101]
    assert data.test_labels.tolist() == [0, 0, 1, 1]


def test_folder_with_colour_and_another_size(tree: Path) -> None:
    write_image(tree / "train" / "dog" / "9.png", (10, 20, 30), (12, 3))
    data = load(str(tree), tree)
    assert data.train_images.shape == (9, 3, 5, 6)
    assert data.test_images.shape == (4, 3, 5, 6)
    expected = torch.tensor([10, 20, 30]) / 255
    torch.testing.assert_close(data.train_images[-1].mean((1, 2)), expected)
    assert (data.train_images[4] * 255).round().unique().tolist() == [100]
    assert load(str(tree), tree, image_size=8).test_images.shape == (4, 3, 8, 8)


def test_photographs_of_a_folder_are_scaled_down_unless_a_size_is_asked_for(tree: Path) -> None:
    for path in tree.rglob("*.png"):
        write_image(path, (1, 2, 3), (320, 200))
    assert load(str(tree), tree).test_images.shape[2:] == (20, 32)
    assert load(str(tree), tree, image_size=100).test_images.shape[2:] == (100, 100)
    (note,) = describe(str(tree), tree).notes
    assert "320x200 and will be resized to 32x20" in note


def test_folder_subset_reads_only_what_it_needs(tree: Path) -> None:
    chosen = stratified_indices(torch.tensor([0] * 4 + [1] * 4), 4, seed=5).tolist()
    for index in set(range(1, 8)) - set(chosen):  # the first is read for its size
        label, i = divmod(index, 4)
        (tree / "train" / ("cat", "dog")[label] / f"{i}.png").write_text("not an image")
    data = load(str(tree), tree, train_size=4, seed=5)
    assert data.train_labels.tolist() == [0, 0, 1, 1]
    assert levels(data.train_images) == [[0, 1, 2, 3, 100, 101, 102, 103][i] for i in chosen]


def test_folder_errors(tree: Path) -> None:
    def fails() -> str:
        with pytest.raises(DataError) as error:
            load(str(tree), tree)
        return message(error)

    deep = tree / "train" / "dog" / "3.png"
    image = pytest.importorskip("PIL.Image")
    image.fromarray(np.full((5, 6), 1000, dtype=np.uint16)).save(deep)
    assert fails() == f"{deep}: more than 8 bits per channel; convert it to 8"
    for content in (b"not an image", (tree / "train" / "dog" / "2.png").read_bytes()[:-30]):
        deep.write_bytes(content)
        assert fails() == f"{deep}: not an image that can be read; repair or remove it"
    deep.unlink()

    first = tree / "train" / "cat" / "0.png"
    first.write_text("not an image")
    assert fails() == f"{first}: not an image that can be read; repair or remove it"
    first.unlink()

    extra = tree / "train" / "bird" / "0.png"
    write_image(extra, 0, (6, 5))
    text = "train/ and test/ must have the same classes; only one of them has bird"
    assert fails() == f"{tree}: {text}"
    (tree / "test" / "bird").mkdir()
    folder = tree / "test" / "bird"
    assert fails() == f"{folder}: no images; put some there or remove the class"
    (tree / "test").rename(tree / "elsewhere")
    assert fails() == f"{tree}: no folder test/; put images in test/<class>/"
    (tree / "test").mkdir()
    assert fails() == f"{tree / 'test'}: no images; put them in test/<class>/"
    (tree / "train").rename(tree / "away")
    assert fails() == f"{tree}: no folder train/; put images in train/<class>/"


# Names, sizes, downloads


def test_unknown_name(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        load("mnits", tmp_path)
    assert message(error) == (
        "no data set or folder 'mnits': choose one of embedded, mnist, fashion-mnist, cifar10, "
        "or a folder with train/<class>/ and test/<class>/"
    )


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            {"train_size": 5000},
            "--train-size 5000: only 2000 training images in 'embedded'; choose at most 2000",
        ),
        (
            {"test_size": 1001},
            "--test-size 1001: only 1000 test images in 'embedded'; choose at most 1000",
        ),
        ({"train_size": 0}, "--train-size 0: choose at least 1"),
        ({"image_size": 0}, "--image-size 0: choose at least 1"),
    ],
)
def test_sizes_out_of_range(options: dict[str, int], expected: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        load("embedded", tmp_path, **options)  # type: ignore[arg-type]
    assert message(error) == expected


def test_embedded_file_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "EMBEDDED", tmp_path / "none.npz")
    with pytest.raises(DataError) as error:
        load("embedded", tmp_path)
    assert message(error) == f"cannot read {tmp_path / 'none.npz'}: run python data/prepare.py"


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10"])
def test_no_network(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torchvision")

    def refuse(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    with pytest.raises(DataError) as error:
        load(name, tmp_path)
    text = message(error)
    assert text.startswith(f"{name}: cannot be read or downloaded (")
    assert "no route to host" in text
    assert re.search(rf"put .* in .* in {re.escape(str(tmp_path))}$", text)

    with pytest.raises(DataError) as error:
        load(name, tmp_path, download=False)
    assert message(error).startswith(f"{name}: cannot be read without download (")


@pytest.mark.skipif(not (SHARED_DATA / "MNIST").is_dir(), reason="needs MNIST in ../shared/data")
@pytest.mark.parametrize("download", [True, False])
def test_mnist_offline(download: bool) -> None:
    pytest.importorskip("torchvision")
    data = load("mnist", SHARED_DATA, download=download, train_size=1000)
    assert data.train_images.shape == (1000, 1, 28, 28)
    assert data.test_images.shape == (10_000, 1, 28, 28)
    assert len(data.classes) == 10
    # The classes of MNIST differ in frequency: from 5421 to 6742 of 60,000.
    counts = data.train_labels.bincount()
    assert counts.sum() == 1000
    assert counts.min() == 90
    assert counts.max() == 112
    assert data.test_images.mean().item() == pytest.approx(0.1325, abs=1e-4)
