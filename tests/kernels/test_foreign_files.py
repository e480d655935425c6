"""Files of strangers, damaged or made to harm: one line with the file's name, at once."""

import json
import os
import pickle
import random
import zipfile
import zlib

import numpy as np
import pytest
import safetensors.torch
import torch

from topoprior.kernels.networks import harvest_kernels
from topoprior.kernels.patches import find_images, image_patches, read_image, read_patches


def refused(path, call, match=None):
    with pytest.raises(ValueError, match=match) as error:
        call(path)
    text = str(error.value)
    assert path.name in text
    assert "\n" not in text
    assert "weights_only" not in text
    assert len(text) < 600
    return text


def network():
    return {"conv.weight": torch.randn(20, 20, 3, 3)}


NOT_FILES = ["fifo", "folder", "device"]


@pytest.mark.parametrize("kind", NOT_FILES)
@pytest.mark.parametrize("suffix", [".npy", ".mat", ".pt", ".safetensors", ".png"])
def test_only_regular_files_are_read(suffix, kind, tmp_path):
    path = tmp_path / f"x{suffix}"
    {"fifo": os.mkfifo, "folder": os.mkdir, "device": lambda p: p.symlink_to("/dev/zero")}[kind](path)
    if suffix == ".mat":
        pytest.importorskip("scipy")
    if suffix == ".png":
        pytest.importorskip("PIL")
    call = harvest_kernels if suffix in (".pt", ".safetensors") else read_image
    if suffix in (".npy", ".mat") and kind != "folder":
        call = read_patches
    if call is read_image and suffix != ".png":
        return  # a folder of that name is one of images
    refused(path, call)


def damages(data, count):
    """``count`` random damages: bits, cuts, blocks."""
    rng = random.Random(0)
    for i in range(count):
        damaged, at = bytearray(data), rng.randrange(len(data))
        if i % 3 == 0:
            for _ in range(rng.choice((1, 8, 64))):
                damaged[rng.randrange(min(len(data), 400) if i % 2 else len(data))] ^= 1 << rng.randrange(8)
        elif i % 3 == 1:
            del damaged[at:]
        else:
            damaged[at : at + 20] = rng.randbytes(rng.randrange(40))
        yield bytes(damaged)


@pytest.mark.parametrize("suffix", [".npy", ".mat", ".pt", ".safetensors", ".png"])
def test_random_damage_is_one_line_or_numbers(suffix, tmp_path):
    """These formats have no digest, so that some damage is read as other numbers; nothing else may happen."""
    path, x = tmp_path / f"x{suffix}", torch.randn(150, 3, 3)
    call = read_patches
    if suffix == ".npy":
        np.save(path, x.numpy())
    elif suffix == ".mat":
        pytest.importorskip("scipy.io").savemat(path, {"x": x.flatten(1).numpy()}, do_compression=True)
    elif suffix == ".png":
        image, call = pytest.importorskip("PIL.Image"), read_image
        image.fromarray((255 * torch.rand(20, 20)).byte().numpy()).save(path)
    else:
        call = harvest_kernels
        (torch.save if suffix == ".pt" else safetensors.torch.save_file)(network(), path)
    data = path.read_bytes()
    errors = []
    for damaged in damages(data, 100):
        path.write_bytes(damaged)
        try:
            call(path)
        except ValueError as error:
            errors.append(str(error))
    assert all(path.name in error and "\n" not in error for error in errors)
    assert len(errors) > 30


def test_a_header_that_claims_a_terabyte(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.zeros((200, 9)))
    path.write_bytes(path.read_bytes().replace(b"(200, 9)", b"(10**12, 9)"))
    refused(path, read_patches)
    np.save(path, np.zeros((200, 9)))
    data = path.read_bytes()
    path.write_bytes(data.replace(b"(200, 9), }" + b" " * 10, b"(1000000000000, 9), }"))
    assert len(path.read_bytes()) == len(data)
    refused(path, read_patches)


def test_a_matlab_block_that_is_not_zlib(tmp_path):
    io = pytest.importorskip("scipy.io")
    path = tmp_path / "x.mat"
    io.savemat(path, {"x": np.zeros((200, 9))}, do_compression=True)
    data = bytearray(path.read_bytes())
    data[140:150] = bytes(10)
    with pytest.raises(zlib.error):
        zlib.decompress(bytes(data[136:]))
    path.write_bytes(data)
    refused(path, read_patches)


@pytest.mark.parametrize("dtype", ["F4", "F8_E8M0", "C64"])
def test_dtypes_of_safetensors(dtype, tmp_path):
    """Read where torch has them, else one line; kernels of 8 bits are kernels."""
    path = tmp_path / "x.SAFETENSORS"
    size = {"F4": 1800, "F8_E8M0": 3600, "C64": 28800}[dtype]
    header = json.dumps(
        {"w": {"dtype": dtype, "shape": [20, 20, 3, 3], "data_offsets": [0, size]}}
    ).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes([120]) * size)
    refused(path, harvest_kernels)


def test_suffixes_of_any_case(tmp_path):
    safetensors.torch.save_file(network(), tmp_path / "x.SAFETENSORS")
    torch.save(network(), tmp_path / "x.PT")
    for name in ("x.SAFETENSORS", "x.PT"):
        assert len(harvest_kernels(tmp_path / name).kernels) == 400


def circular():
    content = {"w": torch.randn(20, 20, 3, 3)}
    content["self"] = content
    return content


def test_a_dictionary_that_holds_itself(tmp_path):
    torch.save(circular(), tmp_path / "x.pt")
    assert len(harvest_kernels(tmp_path / "x.pt").kernels) == 400


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.randn(20, 20, 3, 3).to_sparse(), "torch.sparse_coo, expected a dense tensor"),
        (torch.randn(20, 20, 3, 3, device="meta"), "on the meta device, expected a dense tensor"),
        (torch.zeros(1).expand(100_000, 100_000, 3, 3), "has 4 bytes"),
    ],
    ids=["sparse", "meta", "bomb"],
)
def test_tensors_without_their_numbers(tensor, message, tmp_path):
    path = tmp_path / "x.pt"
    torch.save({"layer.weight": tensor}, path)
    refused(path, harvest_kernels, message)


def test_what_is_no_tensor_is_named():
    with pytest.raises(TypeError, match="found list for 'w'"):
        harvest_kernels({"w": [1.0]})
    with pytest.raises(ValueError, match="source: w is torch.sparse_coo"):
        harvest_kernels({"w": torch.randn(20, 20, 3, 3).to_sparse()})


def test_compressed_weights_are_no_weights(tmp_path):
    path = tmp_path / "x.pt"
    torch.save({"w": torch.zeros(20, 20, 3, 3)}, tmp_path / "y.pt")
    with zipfile.ZipFile(tmp_path / "y.pt") as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for part in old.infolist():
            new.writestr(part.filename, old.read(part))
    refused(path, harvest_kernels)


def test_nothing_is_executed(tmp_path):
    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "executed"),))

    path = tmp_path / "x.pt"
    torch.save({"w": Evil()}, path)
    refused(path, harvest_kernels, "more than tensors")
    path.write_bytes(pickle.dumps(Evil()))
    refused(path, harvest_kernels, "more than tensors")
    assert not (tmp_path / "executed").exists()


def test_images_that_are_bombs_or_broken(tmp_path, recwarn):
    image = pytest.importorskip("PIL.Image")
    image.new("1", (20_000, 20_000)).save(tmp_path / "large.png")
    refused(tmp_path / "large.png", read_image, "expected at most 50,000,000")
    image.new("1", (10_000, 9_000)).save(tmp_path / "wide.png")
    refused(tmp_path / "wide.png", read_image, "10000 x 9000 pixels, expected at most 50,000,000")
    image.new("RGB", (64, 64)).save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:300])
    refused(tmp_path / "cut.jpg", read_image, "not an image that can be read")
    assert not recwarn.list


def test_junk_in_a_folder_is_no_image(tmp_path):
    image = pytest.importorskip("PIL.Image")
    for name in (
        "a.png",
        "sub/b.gif",
        ".hidden.png",
        ".ipynb_checkpoints/a.png",
        "__MACOSX/._a.png",
        "c.jfif",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        kind = "JPEG" if name.endswith("jfif") else None
        image.fromarray((255 * torch.rand(20, 20)).byte().numpy()).save(tmp_path / name, kind)
    found = [str(path.relative_to(tmp_path)) for path in find_images(tmp_path)]
    assert found == ["a.png", "c.jfif", "sub/b.gif"]
    assert image_patches(tmp_path, per_image=50, keep=0.5).shape == (75, 3, 3)
    for path in (tmp_path / "a.png", tmp_path / "c.jfif", tmp_path / "sub/b.gif"):
        path.unlink()
    (tmp_path / "notes.heic").write_text("")
    with pytest.raises(
        ValueError, match=r"no images \(\.png.*\.gif, \.jfif\) in .*; 1 files of other kinds are"
    ):
        find_images(tmp_path)
