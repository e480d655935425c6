"""Runs as rows: the last weights and their average, and ensembles of the networks that learned from the same images."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from experiments.cifar10.images import Images
from experiments.cifar10.measures import fitted_temperature, judge
from experiments.common.store import Run, Store, rounded
from experiments.common.tables import write_csv
from topoprior.utils.files import write_atomically

WEIGHTS = ("last", "average")  # of the last step, and the running mean


def keep(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Logits of a run, whole or not at all."""
    written = io.BytesIO()
    logits: dict[str, Any] = {name: array.astype(np.float32) for name, array in arrays.items()}
    np.savez(written, **logits)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, written.getvalue())


def rows(runs: Iterable[Run]) -> Iterator[dict[str, Any]]:
    """Two of a run."""
    for run in runs:
        for weights, measures in zip(WEIGHTS, (run.result["measures"], run.result["average"]), strict=True):
            made_by = run.versions.get("processor", "not known")
            yield {**run.config, "weights": weights, "members": 1, "processor": made_by, **measures}


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
            for name in ("core seconds", "numbers", "kernel numbers")
        }
        for weights in WEIGHTS:
            measures = rounded(_ensemble(files, weights, images)) | whole
            yield {**json.loads(key), "weights": weights, "members": len(some), **measures}


def _file(store: Store, logits: Path, run: Run) -> Path:
    return logits / f"{store.path(run.config).stem}.npz"


def _ensemble(files: Iterable[Mapping[str, np.ndarray]], weights: str, images: Images) -> dict[str, float]:
    def mean(part: str) -> Tensor:
        members = torch.stack([torch.from_numpy(file[f"{weights} {part}"]).double() for file in files])
        return members.log_softmax(2).logsumexp(0) - np.log(len(members))  # of probabilities, as logits

    temperature = fitted_temperature(mean("validation"), torch.from_numpy(images.validation[1]))
    return judge(mean("test"), torch.from_numpy(images.test[1]), temperature)


def write(store: Store, output: Path, images: Images, earlier: pd.DataFrame) -> Path:
    """runs.csv: a row a network and kind of weights, then those of ensembles, then those of ``earlier`` that are not there yet."""
    found = pd.DataFrame([*rows(store), *ensembles(store, output / "logits", images)])
    parts = [part for part in (found, earlier) if len(part)]
    if parts:
        both = pd.concat(parts)
        settled = list(both.columns[: list(both.columns).index("members") + 1])
        write_csv(output / "runs.csv", both.drop_duplicates(settled))
    return output / "runs.csv"
