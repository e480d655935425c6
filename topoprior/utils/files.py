"""Checkpoints as a folder: config.json (what it is) + model.safetensors (numbers). Nothing is unpickled."""

from __future__ import annotations

import functools
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

_T = TypeVar("_T")
CONFIG, MODEL = "config.json", "model.safetensors"


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged or of another kind; the message says which file and why."""


def write_atomically(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` so that a reader, or a kill, never sees half of it."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def save(folder: Path | str, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write the two files, numbers first: a folder with a config.json is complete."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    numbers = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomically(folder / MODEL, safetensors.torch.save(numbers))
    write_atomically(folder / CONFIG, (json.dumps(config, indent=2) + "\n").encode())


def read_config(folder: Path | str) -> dict[str, Any]:
    """The config.json of a checkpoint that has both files.

    Raises:
        CheckpointError: a file is missing, or config.json is damaged.
    """
    folder = Path(folder)
    for name in (CONFIG, MODEL):
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder}: no {name}; expected a folder with {CONFIG} and {MODEL}")
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{folder / CONFIG}: not valid JSON ({error})") from None
    if not isinstance(config, dict):
        raise CheckpointError(f"{folder / CONFIG}: expected an object, found {type(config).__name__}")
    return config


def load(folder: Path | str, kind: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read the two files of a checkpoint whose config says ``"format": kind``.

    Raises:
        CheckpointError: a file is missing, damaged, or the format differs.
    """
    folder, config = Path(folder), read_config(folder)
    if config.get("format") != kind:
        raise CheckpointError(
            f"{folder / CONFIG}: expected format {kind!r}, found {config.get('format')!r}"
        )
    try:
        tensors = safetensors.torch.load((folder / MODEL).read_bytes())
    except SafetensorError as error:
        raise CheckpointError(f"{folder / MODEL}: damaged or not safetensors ({error})") from None
    return config, tensors


def on_cpu(function: Callable[..., _T]) -> Callable[..., _T]:
    """Make what ``function`` makes on the CPU, also inside ``with torch.device("meta")``: a prior's few numbers are
    read while layers are made."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> _T:
        with torch.device("cpu"):
            return function(*args, **kwargs)

    return wrapped


def check_options(options: Mapping[str, Any], known: Sequence[str]) -> None:
    """A :class:`TypeError` for a keyword that is none of ``known``, which a caller gave to override what is saved."""
    for name in options:
        if name not in known:
            raise TypeError(f"{name}: no such option, expected one of {', '.join(known)}")
