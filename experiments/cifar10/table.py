"""Runs as rows: the last weights and their average, and ensembles of the networks that learned from the same images."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from experiments.cifar10.images import Images
from experiments.cifar10.measures import judge_parts
from experiments.common.store import Run, Store, rounded
from experiments.common.tables import write_csv
from topoprior.utils.files import write_atomically

#: Of the last step; the running mean; the last step's with Laplace's law of the last layer. By their entry in a run's result.
WEIGHTS = {"last": "measures", "average": "average", "laplace": "laplace"}
PARTS = ("validation", "test", "foreign")


def keep(path: Path, logits: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Logits of a run by weights and part, as arrays "weights part" of float32."""
    written = io.BytesIO()
    arrays: dict[str, Any] = {
        f"{weights} {part}": z.float().numpy()
        for weights, parts in logits.items()
        for part, z in parts.items()
    }
    np.savez(written, **arrays)
    write_file(path, written.getvalue())


def write_file(path: Path, data: bytes) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, data)


def rows(runs: Iterable[Run]) -> Iterator[dict[str, Any]]:
    """One of a run and each kind of weights."""
    for run in runs:
        made_by = run.versions.get("processor", "not known")
        for weights, entry in WEIGHTS.items():
            if entry in run.result:
                yield {
                    **run.config,
                    "weights": weights,
                    "members": 1,
                    "processor": made_by,
                    **run.result[entry],
                }


def ensembles(store: Store, logits: Path, images: Images) -> Iterator[dict[str, Any]]:
    """The mean predictions of networks that differ in their start alone, with a temperature of their own."""
    groups: dict[str, list[Run]] = {}
    for run in store:
        if run.config["role"] == "reported" and _file(store, logits, run).is_file():
            shared = {k: v for k, v in run.config.items() if k != "member"}
            groups.setdefault(json.dumps(shared, sort_keys=True), []).append(run)
    for key, some in groups.items():
        if len(some) < 2:
            continue
        files = [np.load(_file(store, logits, run), allow_pickle=False) for run in some]
        whole = {
            name: sum(run.result["measures"][name] for run in some)
            for name in ("core seconds", "numbers", "kernel numbers", "checkpoint kB")
        }
        for weights in (w for w in WEIGHTS if all(f"{w} test" in file for file in files)):
            measures = rounded(_ensemble(files, weights, images)) | whole
            yield {**json.loads(key), "weights": weights, "members": len(some), **measures}


def _file(store: Store, logits: Path, run: Run) -> Path:
    return logits / f"{store.path(run.config).stem}.npz"


def _ensemble(files: Sequence[Mapping[str, np.ndarray]], weights: str, images: Images) -> dict[str, float]:
    def mean(part: str) -> Tensor:
        members = torch.stack([torch.from_numpy(file[f"{weights} {part}"]).double() for file in files])
        return members.log_softmax(2).logsumexp(0) - np.log(len(members))  # of probabilities, as logits

    return judge_parts({part: mean(part) for part in PARTS if f"{weights} {part}" in files[0]}, images)


def write(store: Store, output: Path, images: Images, earlier: pd.DataFrame) -> Path:
    """runs.csv: a row a network and kind of weights, then those of ensembles, then those of ``earlier`` that are not there yet."""
    found = pd.DataFrame([*rows(store), *ensembles(store, output / "logits", images)])
    parts = [part for part in (found, earlier) if len(part)]
    if parts:
        both = pd.concat(parts)
        settled = list(both.columns[: list(both.columns).index("members") + 1])
        write_csv(output / "runs.csv", both.drop_duplicates(settled))
    return output / "runs.csv"
