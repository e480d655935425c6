"""Kernels of a trained network, as data for a prior."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from topoprior.utils.files import CheckpointError, check_regular

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
_LEAST = 100
_DEEPEST = 20  # dictionaries within dictionaries


class Harvest(NamedTuple):
    """Kernels (N, k, k), each of norm 1, and what they were.

    Attributes:
        kernels: mean-free if ``center`` was asked for.
        layers: how many kernels every layer gave.
        dropped: near-zero kernels left out.
        mean_fraction: share of the energy of the kernels kept that was their means'.
    """

    kernels: Tensor
    layers: dict[str, int]
    dropped: int
    mean_fraction: float


def harvest_kernels(
    source: str | Path | Mapping[str, Tensor],
    size: int = 3,
    *,
    threshold: float = 0.1,
    center: bool = True,
) -> Harvest:
    """All ``size`` x ``size`` kernels of a network, near-zero ones dropped, scaled to norm 1.

    A kernel is near zero if its norm (without its mean, with ``center``) is below ``threshold`` times the
    root mean square of its layer's: units that died say nothing of the form of kernels, and what is left
    of them is noise.

    Args:
        source: weights, by name, of a network; a .safetensors file, or a .pt or .pth one of plain tensors
            (read with ``weights_only=True``: nothing is unpickled); or the name of a torchvision
            model, whose default weights are downloaded.
        size: pixels a side.
        center: take away every kernel's mean, for which decoder priors have a term of its own.

    Raises:
        ValueError: no such file or model, a damaged file, fewer than 100 kernels, tensors that are sparse or without
            numbers.
        TypeError: a mapping with values that are no tensors.

    Example:
        >>> weights = {"conv.weight": torch.randn(8, 16, 3, 3), "fc.weight": torch.randn(10, 8)}
        >>> harvest_kernels(weights).kernels.shape
        torch.Size([128, 3, 3])
    """
    if size < 2:
        raise ValueError(f"size: expected at least 2 pixels a side, found {size}")
    if not 0 <= threshold < 1:
        raise ValueError(f"threshold: expected a number in [0, 1), found {threshold}")
    state = source if isinstance(source, Mapping) else read_weights(source)
    where = "source:" if isinstance(source, Mapping) else f"source: {source}:"
    kept, layers, sizes, dropped = [], {}, set(), 0
    energy = mean_energy = 0.0
    for name, weight in sorted(state.items(), key=lambda item: str(item[0])):  # files have no order
        _check_tensor(where, name, weight)
        if weight.dim() != 4 or not weight.is_floating_point():
            continue
        sizes.add("x".join(map(str, weight.shape[2:])))
        if tuple(weight.shape[2:]) != (size, size) or weight.numel() == 0:
            continue
        kernels = weight.detach().float().flatten(0, 1)
        if not torch.isfinite(kernels).all():
            raise ValueError(f"{where} {name} contains NaN or infinite values")
        mean = kernels.mean((1, 2), keepdim=True)
        parts = kernels - mean if center else kernels
        norm = parts.flatten(1).norm(dim=1)
        alive = norm > max(threshold * norm.square().mean().sqrt().item(), 1e-30)
        dropped += int((~alive).sum())
        if alive.any():
            kept.append(parts[alive] / norm[alive, None, None])
            layers[name] = int(alive.sum())
            # Every layer counts by its kernels, not by its scale.
            total = kernels[alive].square().sum().item()
            mean_energy += layers[name] * size**2 * mean[alive].square().sum().item() / total
            energy += layers[name]
    count = sum(layers.values())
    if count < _LEAST:
        raise ValueError(
            f"{where} expected at least {_LEAST} {size}x{size} kernels, found {count}"
            + (f"; kernels there are {', '.join(sorted(sizes))}" if sizes else "; there are no 2-d kernels")
        )
    return Harvest(torch.cat(kept), layers, dropped, mean_energy / energy)


def _check_tensor(where: str, name: Any, weight: Any) -> None:
    if not isinstance(weight, Tensor):
        raise TypeError(f"{where} expected tensors by name, found {type(weight).__name__} for {name!r}")
    if weight.layout != torch.strided or weight.is_meta:
        kind = "on the meta device" if weight.is_meta else str(weight.layout)
        raise ValueError(f"{where} {str(name)[:80]} is {kind}, expected a dense tensor with numbers")


def read_weights(source: str | Path) -> dict[str, Tensor]:
    """The tensors of a file of weights, or of a torchvision model's default weights.

    Raises:
        ValueError: no such file or model, a damaged file, or one that is no regular file.
    """
    path = Path(source)
    if path.suffix.lower() in SUFFIXES:
        if not path.exists():
            raise ValueError(f"source: no file {path}")
        try:
            check_regular(path)
        except CheckpointError as error:
            raise ValueError(f"source: {error}") from None
        safe = path.suffix.lower() == ".safetensors"
        found = _tensors(_read_safetensors(path) if safe else _read_torch(path))
        for name, tensor in found.items():
            _check_tensor(f"source: {path}:", name, tensor)
            held = tensor.untyped_storage().nbytes()
            if (
                tensor.numel() * tensor.element_size() > held
            ):  # strides of 0 claim any size with a few bytes
                raise ValueError(
                    f"source: {path}: {name[:80]} of shape {tuple(tensor.shape)} has {held} bytes"
                )
        return found
    try:
        from torchvision import models
    except ImportError as error:
        raise ImportError(
            f"{str(source)!r} is no file of weights ({', '.join(SUFFIXES)}); torchvision's models need "
            "torchvision: pip install torchvision"
        ) from error
    if str(source) not in models.list_models():
        raise ValueError(
            f"source: {str(source)!r} is neither a file of weights ({', '.join(SUFFIXES)}) nor a model of torchvision"
        )
    weights = models.get_model_weights(str(source)).DEFAULT
    try:
        return _tensors(weights.get_state_dict(progress=False, check_hash=True, weights_only=True))
    except (OSError, RuntimeError) as error:
        raise ValueError(f"source: the weights of {source!r} cannot be downloaded ({error})") from None


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import safe_open

    name = ""
    try:
        with safe_open(
            path, framework="pt"
        ) as file:  # mapped: a claim of size that the file has not is an error
            found = {}
            for name in file.keys():  # noqa: SIM118 (no mapping)
                found[name] = file.get_tensor(name)
            return found
    except Exception as error:  # of Rust, of torch, or a KeyError, by the damage or the dtype
        at = f" at {name[:80]!r}" if name else ""
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"source: {path} is damaged or not safetensors{at} ({reason})") from None


def _read_torch(path: Path) -> Any:
    refused = ValueError(
        f"source: {path} is damaged or holds more than tensors; save the network's state_dict()"
    )
    try:
        if zipfile.is_zipfile(path):  # torch compresses nothing: what grows on reading is a bomb
            with zipfile.ZipFile(path) as archive:
                if sum(part.file_size for part in archive.infolist()) > path.stat().st_size:
                    raise refused
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickles' protocols, of sparse tensors
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # pickle, zip, EOF and runtime errors, by the damage
        raise refused from None


def _tensors(content: Any, prefix: str = "", inside: tuple[int, ...] = ()) -> dict[str, Tensor]:
    """All tensors of nested dictionaries, such as {"state_dict": {...}}."""
    found: dict[str, Tensor] = {}
    if not isinstance(content, Mapping) or id(content) in inside or len(inside) > _DEEPEST:
        return found
    for name, value in content.items():
        if isinstance(value, Tensor):
            found[f"{prefix}{name}"] = value
        else:
            found.update(_tensors(value, f"{prefix}{name}.", (*inside, id(content))))
    return found
