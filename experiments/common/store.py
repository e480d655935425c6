"""Results as files: JSON written whole, digests of what decides a run, versions of what made it."""

from __future__ import annotations

import hashlib
import json
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from torch import Tensor

from topoprior.utils.files import write_atomically


def digest(*parts: bytes) -> str:
    state = hashlib.sha256()
    for part in parts:
        state.update(part)
    return state.hexdigest()[:16]


def tensor_bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().numpy().tobytes()


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("torch", "topoprior", "blitz-bayesian-pytorch", "torchmetrics"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # used from a source folder
            found[name] = "not installed"
    return found


def write_json(path: Path, value: Any) -> None:
    write_atomically(path, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())
