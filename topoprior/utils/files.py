"""Files that may be damaged, or a stranger's: regular ones only, of bounded size, nothing unpickled, written whole.

A checkpoint is one safetensors file that says itself what it is: its metadata hold ``config`` (JSON) and ``sha256``
of config and numbers. One file is replaced in one step, so a reader, or a kill, sees the old one or the new one, and
no bit can change unseen. A folder has a readable copy of the configuration beside it, config.json.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from topoprior.utils.plain import on_cpu as on_cpu
from topoprior.utils.strict_json import MOST_CONFIG, CheckpointError, parse_json, reason

CONFIG, MODEL = "config.json", "model.safetensors"
MOST_MODEL = 1 << 28  # bytes of a prior's numbers: shipped ones take a few kB
_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
    "BOOL": torch.bool,
}  # fmt: skip


# --- any file --------------------------------------------------------------------------------------


def check_regular(path: Path | str, most: int | None = None) -> None:
    """Refuse what is no regular file: reading a FIFO or a device may never end.

    Args:
        most: bytes that it may have.

    Raises:
        CheckpointError: no such file, a folder, a FIFO, a device, or too large.
    """
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:  # the latter: a NUL in the name
        raise CheckpointError(f"{path}: cannot be read ({reason(error)})") from None
    _check_status(path, status, most)


def _check_status(path: Path | str, status: os.stat_result, most: int | None) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a FIFO, a socket or a device"
        raise CheckpointError(f"{path}: expected a file, found {kind}")
    if most is not None and status.st_size > most:
        raise CheckpointError(f"{path}: expected at most {most:,} bytes, found {status.st_size:,}")


def read_file(path: Path | str, most: int) -> bytes:
    """The bytes of a regular file of at most ``most`` bytes.

    Raises:
        CheckpointError: as of :func:`check_regular`, or it cannot be read.
    """
    check_regular(path, most)
    try:  # without waiting for a writer, if it became a FIFO since
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(handle, "rb") as file:
            _check_status(path, os.fstat(handle), most)
            return file.read(most)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({reason(error)})") from None


def check_writable(folder: Path, name: str) -> None:
    """Refuse a folder that cannot be made or written to, before the work and not after it.

    Raises:
        ValueError: it names the argument, ``name``, and the folder.
    """
    try:
        existing = next(p for p in [folder.absolute(), *folder.absolute().parents] if p.exists())
    except (OSError, ValueError) as error:  # a name too long, or with a NUL
        raise ValueError(f"{name}: {folder} cannot be written to ({reason(error)})") from None
    try:
        with tempfile.TemporaryFile(
            dir=existing
        ):  # permissions say little: of root, of a file system of the kernel
            return
    except OSError as error:
        why = f"{name}: cannot write to {existing} ({reason(error)}); choose another folder"
    raise ValueError(why)


def write_atomically(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` so that a reader, or a kill, never sees half of it."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


# --- one file: numbers, what they are, and a digest of both -----------------------------------------


def pack(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> bytes:
    """A checkpoint of one file: safetensors, with ``config`` and a digest of all in its metadata. Equal checkpoints are
    equal bytes."""
    numbers = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    text = json.dumps(config, allow_nan=False)
    data = safetensors.torch.save(numbers, {"config": text, "sha256": _digest(text, numbers)})
    start = 8 + int.from_bytes(data[:8], "little")
    # The library writes metadata in an order that changes from call to call.
    header = json.dumps(json.loads(data[8:start]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[start:]


def unpack(
    data: bytes, where: Path | str, most: int = MOST_CONFIG
) -> tuple[dict[str, Any] | None, dict[str, Tensor], str | None]:
    """What :func:`pack` wrote, and its digest; configuration and digest are None in a plain safetensors file.

    Args:
        where: the file, of which errors speak.
        most: bytes of the configuration.

    Raises:
        CheckpointError: damaged, or a dtype that torch's numbers do not have.
    """
    try:
        parts = safetensors.deserialize(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    except (SafetensorError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{where}: damaged or not safetensors ({reason(error)})") from None
    tensors = {name: _tensor(name, part, where) for name, part in parts}
    metadata = header.get("__metadata__") or {}
    if "config" not in metadata and "sha256" not in metadata:
        return None, tensors, None
    text, digest = metadata.get("config", ""), metadata.get("sha256", "")
    if digest != _digest(text, tensors):
        raise CheckpointError(f"{where}: damaged, its digest is not that of what it holds")
    return parse_json(text, where, most), tensors, digest


def _tensor(name: str, part: Mapping[str, Any], where: Path | str) -> Tensor:
    dtype = _DTYPES.get(part["dtype"])
    if dtype is None:
        raise CheckpointError(
            f"{where}: {name[:80]!r} has dtype {part['dtype']}, expected one of {', '.join(_DTYPES)}"
        )
    if not len(part["data"]):
        return torch.empty(part["shape"], dtype=dtype)
    return torch.frombuffer(bytearray(part["data"]), dtype=dtype).reshape(part["shape"])


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    found = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        found.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        found.update(tensor.flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


# --- a folder: config.json + model.safetensors -------------------------------------------------------


def save(folder: Path | str, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write a checkpoint folder, over an older one in one step.

    model.safetensors holds all, and readers go by it. config.json is a copy for people, written second.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    data = pack(config, tensors)
    _, _, digest = unpack(data, folder / MODEL)
    write_atomically(folder / MODEL, data)
    copy = {**config, "sha256": digest}
    write_atomically(folder / CONFIG, (json.dumps(copy, indent=2) + "\n").encode())


def read_config(folder: Path | str) -> dict[str, Any]:
    """The configuration of a checkpoint folder.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    return _read(folder)[0]


def load(folder: Path | str, *kinds: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Configuration and numbers of a checkpoint whose configuration says ``"format": kind``, one of ``kinds``.

    Raises:
        CheckpointError: a file is missing or damaged, the format differs, or tensors are not finite floating-point
            numbers.
    """
    config, tensors = _read(folder)
    if config.get("format") not in kinds:
        expected, found = " or ".join(map(repr, kinds)), repr(config.get("format"))
        raise CheckpointError(f"{Path(folder) / CONFIG}: expected format {expected}, found {found[:80]}")
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or not torch.isfinite(tensor).all():
            found = str(tensor.dtype) if not tensor.is_floating_point() else "NaN or infinity"
            raise CheckpointError(
                f"{Path(folder) / MODEL}: {name[:80]!r}: expected finite floating-point numbers, found {found}"
            )
    return config, tensors


def _read(folder: Path | str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    folder = Path(folder)
    model, copy = folder / MODEL, folder / CONFIG
    # The copy first: a save writes it last, so what it tells of a digest is of this model or one before.
    readable = parse_json(read_file(copy, MOST_CONFIG), copy) if os.path.lexists(copy) else None
    if not os.path.lexists(model):
        raise CheckpointError(f"{folder}: no {MODEL}; expected a folder with {CONFIG} and {MODEL}")
    config, tensors, digest = unpack(read_file(model, MOST_MODEL), model)
    said = None if readable is None else readable.pop("sha256", None)
    if config is None:  # from before checkpoints had a digest
        if readable is None:
            raise CheckpointError(f"{folder}: no {CONFIG}; expected a folder with {CONFIG} and {MODEL}")
        if said is not None:
            raise CheckpointError(f"{copy}: is of another {MODEL}, one with a digest")
        return readable, tensors
    # Another digest, or no copy, is that of a save that was cut short: the model is whole by itself.
    if said == digest and readable != config:
        raise CheckpointError(
            f"{copy}: was changed after it was saved; load the prior with the options that you want and save it again"
        )
    return config, tensors


# --- what from_pretrained shares ---------------------------------------------------------------------


def check_options(options: Mapping[str, Any], known: Sequence[str]) -> None:
    """A :class:`TypeError` for a keyword that is none of ``known``, which a caller gave to override what is saved."""
    for name in options:
        if name not in known:
            raise TypeError(f"{name}: no such option, expected one of {', '.join(known)}")
