"""Numbers of a training by step: a CSV file, and TensorBoard's events beside it where tensorboard is installed."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Scalars:
    """A folder with scalars.csv (step, name, value), a row a number, written at once; and events for TensorBoard.

    Rows are added to what is there: a training that goes on goes on here.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> with Scalars(Path(folder.name) / "run") as scalars:
        ...     scalars.write(1, {"loss": 0.5})
        >>> print((Path(folder.name) / "run" / "scalars.csv").read_text().strip())
        step,name,value
        1,loss,0.5
        >>> folder.cleanup()
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "scalars.csv"
        new = not path.exists() or not path.stat().st_size
        self._file = path.open("a", newline="", buffering=1, encoding="utf-8")
        self._rows = csv.writer(self._file, lineterminator="\n")
        if new:
            self._rows.writerow(["step", "name", "value"])
        self._events = _events(folder)

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        for name, value in numbers.items():
            self._rows.writerow([step, name, f"{value:.6g}"])
            if self._events is not None:
                self._events.add_scalar(name, value, step)

    def __enter__(self) -> Scalars:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        if self._events is not None:
            self._events.close()


def _events(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:  # the CSV file is enough
        return None
    return SummaryWriter(folder)
