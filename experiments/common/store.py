"""Runs as files: found again by what decides them, written whole, with the versions and the processor that made them."""

from __future__ import annotations

import functools
import hashlib
import json
import platform
import re
import unicodedata
import warnings
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from experiments.common.progress import record
from topoprior.utils.files import write_atomically

_SLUG = 80  # characters
_DIGITS = 6  # of the numbers in a run


class Run(NamedTuple):
    """What was computed, from what, and by which software."""

    config: dict[str, Any]
    result: dict[str, Any]
    versions: dict[str, str]


class Store:
    """A folder of runs, a file each, named after its configuration *and its data*.

    A configuration is a dict of what JSON holds. Its entry "data" is a digest of the data that the run reads: pixels and
    labels may change under the same name. A file that is damaged, or of another configuration, counts as absent.
    A run takes the place of one that differs from it in nothing but the data.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> store = Store(Path(folder.name))
        >>> config = {"seed": 0, "data": digest(b"some images")}
        >>> store.get(config) is None
        True
        >>> _ = store.put(config, {"accuracy": 0.9})
        >>> store.get(config)
        {'accuracy': 0.9}
        >>> store.get({**config, "data": digest(b"others")}) is None
        True
        >>> folder.cleanup()
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)

    def path(self, config: Mapping[str, Any]) -> Path:
        """The file of a run: a few words that say which, the digest of the configuration, that of the data."""
        return self.folder / f"{self._name(config)}-{slug(config['data'])}.json"

    def _name(self, config: Mapping[str, Any]) -> str:
        if not isinstance(config.get("data"), str) or not config["data"]:
            raise ValueError("config: expected an entry 'data', the digest of what the run reads")
        rest = {key: value for key, value in config.items() if key != "data"}
        words = (
            v if isinstance(v, str) else f"{k}{v}" for k, v in rest.items() if isinstance(v, str | int)
        )
        return f"{slug('_'.join(words))}-{digest(_canonical(rest).encode())}"

    def get(self, config: Mapping[str, Any]) -> dict[str, Any] | None:
        """The result of exactly this configuration; None where there is none, or its file is damaged."""
        run = _read(self.path(config))
        return run.result if run and _canonical(run.config) == _canonical(config) else None

    def put(self, config: Mapping[str, Any], result: Mapping[str, Any]) -> Path:
        """Write a run, whole or not at all, its numbers to six significant digits."""
        path, content = self.path(config), {"config": dict(config), "result": rounded(result)}
        content["versions"] = versions()
        write_json(path, {**content, "digest": digest(_canonical(content).encode())})
        record(path.stem, result.get("measures", {}))
        for other in self.folder.glob(f"{self._name(config)}-*.json"):
            if other != path:
                other.unlink(missing_ok=True)
        return path

    def drop(self, config: Mapping[str, Any]) -> None:
        self.path(config).unlink(missing_ok=True)

    def __iter__(self) -> Iterator[Run]:
        """All runs by name; a damaged file is named in a warning and left out."""
        for path in sorted(self.folder.glob("*.json")):
            run = _read(path)
            if run is None:
                warnings.warn(f"{path}: damaged or not a run, left out", stacklevel=2)
            else:
                yield run


def _read(path: Path) -> Run | None:
    if not path.is_file():  # a pipe would be waited for
        return None
    try:
        content = json.loads(path.read_bytes())
        said = content.pop("digest")
        if said != digest(_canonical(content).encode()):
            return None
        return Run(**content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def slug(text: str) -> str:
    """A file name of at most 80 harmless characters; different texts may share it.

    Example:
        >>> slug("../<b>mnist|1")
        'b-mnist-1'
    """
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9._]+", "-", plain).strip("-._")[:_SLUG] or "run"


def digest(*parts: bytes) -> str:
    state = hashlib.sha256()
    for part in parts:
        state.update(len(part).to_bytes(8, "little"))  # ("ab", "c") is not ("a", "bc")
        state.update(part)
    return state.hexdigest()[:16]


def tensor_bytes(tensor: Tensor) -> bytes:
    """Kind, shape and numbers."""
    numbers = tensor.detach().cpu().contiguous().numpy()
    return f"{numbers.dtype} {numbers.shape} ".encode() + numbers.tobytes()


def versions() -> dict[str, str]:
    """Of software, and the processor: equal seeds give equal numbers on one kind of processor alone."""
    found = {"python": platform.python_version(), "processor": processor()}
    for name in ("torch", "topoprior", "blitz-bayesian-pytorch", "torchmetrics"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # used from a source folder
            found[name] = "not installed"
    return found


@functools.cache
def processor() -> str:
    """Its name, as Linux has it; elsewhere what Python knows."""
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8", "replace")
    except OSError:
        text = ""
    name = re.search(r"^model name\s*: (.+)$", text, re.MULTILINE)
    return name[1] if name else platform.processor() or platform.machine()


def rounded(value: Any) -> Any:
    """Floats to six significant digits: small files, and far finer than any difference between seeds."""
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}")
    if isinstance(value, Mapping):
        return {key: rounded(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(entry) for entry in value]
    return value


def write_json(path: Path, value: Any) -> None:
    """ASCII alone: a name that is not Unicode survives."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(value, indent=1) + "\n").encode())
