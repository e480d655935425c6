"""The kernels that spaces are compared on: seven sets, and a network to take one from."""

from __future__ import annotations

import functools
import io
import tarfile
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.common.store import digest
from topoprior.kernels.contrast import dct_coordinates, normalized_patches
from topoprior.kernels.klein import sample_klein_kernels
from topoprior.kernels.networks import harvest_kernels
from topoprior.kernels.patches import densest, read_patches
from topoprior.topology.homology import farthest_points
from topoprior.utils.files import write_atomically

PATCHES, IMAGES = "natural-patches-3x3-dct.mat", "cifar10-jpeg.tar.xz"
DWP = {"dwp-7x7": "dwp-kernels-7x7.npy", "dwp-5x5": "dwp-kernels-5x5.npy"}
SETS = {
    "klein": "analytic Klein kernels, 3x3, uniform on the bottle",
    "patches-10": "natural 3x3 patches, densest 10% (k = 15)",
    "patches-30": "natural 3x3 patches, densest 30% (k = 15)",
    "patches-30-even": "the same, a subset that covers them evenly (farthest points)",
    "dwp-7x7": "first-layer kernels of 100 networks trained on notMNIST, 7x7 (deep weight prior)",
    "dwp-5x5": "5x5 kernels of networks trained on notMNIST, a random subset (deep weight prior)",
    "cnn-3x3": "3x3 kernels of a network trained on CIFAR-10 (JPEG)",
}
_NEIGHBOUR = 15


def kernel_set(name: str, data: Path, network: Path, limit: int) -> Tensor:
    """At most ``limit`` kernels (N, k, k) of mean energy 1; all but the analytic ones mean-free and of norm 1."""
    if name == "klein":
        return sample_klein_kernels(limit, generator=torch.Generator().manual_seed(0))[0]
    if name == "cnn-3x3":
        kernels = harvest_kernels(network).kernels
    elif name in DWP:
        kernels = normalized_patches(torch.from_numpy(_array(data / DWP[name])).float().squeeze(1))
    else:
        patches = _patches_by_density(data / PATCHES)
        kernels = patches[: round(len(patches) * (0.1 if name == "patches-10" else 0.3))]
        if name.endswith("even"):
            kernels = kernels[farthest_points(dct_coordinates(kernels), limit)]
    kernels = kernels / kernels.flatten(1).norm(dim=1)[:, None, None]
    return kernels[torch.randperm(len(kernels), generator=torch.Generator().manual_seed(0))[:limit]]


def _patches_by_density(path: Path) -> Tensor:
    """Read once for the sets of a run, and again once the file is another."""
    changed = path.stat().st_mtime_ns if path.exists() else 0
    return _read_by_density(path, changed)


@functools.lru_cache(maxsize=1)
def _read_by_density(path: Path, changed: int) -> Tensor:
    patches = read_patches(path)
    return patches[densest(dct_coordinates(patches), _NEIGHBOUR, 1.0)]


def _array(path: Path) -> np.ndarray:
    if not path.is_file():
        raise ValueError(f"--data: no {path.name} in {path.parent}")
    return np.load(path, allow_pickle=False)


def train_network(data: Path, path: Path, *, images: int = 10_000, epochs: int = 8, seed: int = 0) -> float:
    """Train a small network on CIFAR-10 (JPEG), write its weights to ``path``; the test accuracy.

    Four 3x3 convolutions (32, 32, 64, 64 channels) with batch normalization, SGD with momentum, weight
    decay 2e-3 and horizontal flips. Convolutions start at a tenth of He's scale: what is large in the end
    has been learned.
    """
    train, labels, test, test_labels = read_images(data / IMAGES, images, images // 5)
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for i, (inputs, outputs) in enumerate(((3, 32), (32, 32), (32, 64), (64, 64))):
        conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        nn.init.normal_(conv.weight, std=0.1 * (2 / (9 * inputs)) ** 0.5)
        layers += [conv, nn.BatchNorm2d(outputs), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if i != 1 else []
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(
        network.parameters(), lr=0.1, momentum=0.9, weight_decay=2e-3, nesterov=True
    )
    batch = 100
    steps = epochs * (len(train) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(train)).split(batch)[: len(train) // batch]:
            x = train[rows]
            x = torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x.flip(-1), x)
            loss = F.cross_entropy(network(x), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    network.eval()
    with torch.no_grad():
        guesses = torch.cat([network(part).argmax(1) for part in test.split(500)])
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {name: value.contiguous() for name, value in network.state_dict().items()}
    accuracy = (guesses == test_labels).double().mean().item()
    noted = {"test_accuracy": f"{accuracy:.4f}", "images": digest((data / IMAGES).read_bytes())}
    write_atomically(path, safetensors.torch.save(state, noted))
    return accuracy


def noted_accuracy(path: Path) -> float | None:
    """What :func:`train_network` noted in the file, None for a network from elsewhere."""
    noted = _noted(path).get("test_accuracy")
    return None if noted is None else float(noted)


def is_of(path: Path, data: Path) -> bool:
    """Whether a network that :func:`train_network` wrote is of the images that are there now, or nothing says otherwise."""
    noted, archive = _noted(path).get("images"), data / IMAGES
    return noted is None or not archive.is_file() or noted == digest(archive.read_bytes())


def _noted(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return file.metadata() or {}


def read_images(archive: Path, num_train: int, num_test: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images (N, 3, 32, 32), centered at 0, and labels of the archive: the first of every class."""
    from PIL import Image

    if not archive.is_file():
        raise ValueError(f"--data: no {archive.name} in {archive.parent}; or give --network FILE")
    wanted = {"train": num_train // 10, "test": num_test // 10}
    found: dict[tuple[str, str], list[np.ndarray]] = {}
    with tarfile.open(archive) as file:
        for member in file:  # one pass: the archive is a stream
            parts = member.name.split("/")
            if not member.isfile() or len(parts) != 4 or parts[1] not in wanted:
                continue
            images = found.setdefault((parts[1], parts[2]), [])
            content = file.extractfile(member)
            if len(images) < wanted[parts[1]] and content is not None:
                images.append(np.asarray(Image.open(io.BytesIO(content.read())).convert("RGB")))
    classes = sorted({name for _, name in found})
    result: list[Tensor] = []
    for split in ("train", "test"):
        arrays = [np.stack(found[split, name]) for name in classes]
        result.append(torch.from_numpy(np.concatenate(arrays)).permute(0, 3, 1, 2).float() / 127.5 - 1)
        result.append(torch.arange(len(classes)).repeat_interleave(torch.tensor([len(a) for a in arrays])))
    return result[0].contiguous(), result[1], result[2].contiguous(), result[3]
