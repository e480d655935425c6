"""One run of a comparison: data, training, every measure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from experiments.common import data as datasets
from experiments.common import metrics
from experiments.common import uncertainty as uncertainty_measures
from experiments.common.data import ImageData
from experiments.common.progress import say, scalars
from experiments.common.splits import stratified_indices
from experiments.common.store import Store, digest, tensor_bytes
from experiments.priors import networks, training
from experiments.priors.grid import Job
from experiments.priors.hardware import Hardware
from experiments.priors.methods import Method

KERNELS_KEPT = 16


@dataclass(frozen=True)
class Sources:
    """Where data sets are on the machine that runs: it is no part of a run's configuration."""

    data_dir: str
    folders: dict[str, str] = field(default_factory=dict)

    def load(
        self,
        label: str,
        train_size: int | None = None,
        test_size: int | None = None,
        seed: int = 0,
        image_size: int | None = None,
        *,
        digest: str,
    ) -> ImageData:
        """``digest``: of what is there now, or of more; what was read under another one is read again."""
        place = self.folders.get(label, label)
        return _load(place, self.data_dir, train_size, test_size, seed, image_size, digest)

    def digests(self, labels: Iterable[str], image_size: int | None = None) -> dict[str, str]:
        """Of every data set. What is left out of a folder is said here, once.

        Raises:
            DataError: there is no such data, or a file is no image.
        """
        found = {}
        for label in dict.fromkeys(labels):
            place = self.folders.get(label, label)
            described = datasets.describe(place, Path(self.data_dir), image_size=image_size)
            for note in described.notes:
                say(note)
            found[label] = described.digest
        return found


@lru_cache(maxsize=3)  # the runs of a cell follow one another
def _load(
    name: str,
    data_dir: str,
    train_size: int | None,
    test_size: int | None,
    seed: int,
    image_size: int | None,
    digest: str,
) -> ImageData:
    return datasets.load(
        name, Path(data_dir), seed=seed, train_size=train_size, test_size=test_size, image_size=image_size
    )


def run_job(job: Job, sources: Sources, hardware: Hardware) -> dict[str, Any]:
    """Train, predict, measure.

    Returns:
        "measures" by their names; "reliability"; "kernels" of the first layer; "images", the digest of those that were read;
        "curve" where one was asked for.
    """
    data = sources.load(
        job.dataset, job.train_size, job.test_size, job.seed, job.image_size, digest=job.data
    )
    method = job.make_method()
    device = hardware.device
    some = stratified_indices(data.test_labels, min(job.foreign_size, len(data.test_labels)), 0)
    images, watched = training.standardize(data.train_images, data.test_images[some])
    watch = training.Watch(watched, data.test_labels[some], job.curve) if job.curve else None
    with scalars(Store("").path(job.config()).stem) as log:
        trained = training.train(
            method, images, data.train_labels, len(data.classes), job.budget, job.seed, hardware, watch, log
        )

    def predict(images: Tensor) -> Tensor:
        _, images = training.standardize(data.train_images, images)
        return training.predict(method, trained.network, images.to(device), job.budget.samples).cpu()

    predicted = predict(data.test_images)
    results = {
        **metrics.evaluate(predicted, data.test_labels),
        uncertainty_measures.AURC: uncertainty_measures.aurc(predicted, data.test_labels),
        "KL / image": trained.kl / len(data.train_images),
        "parameters": trained.parameters,
        "train seconds": trained.seconds,
    }
    if job.foreign:
        unknown = sources.load(job.foreign, 1, job.foreign_size, 0, digest=job.data).test_images
        unknown = uncertainty_measures.as_foreign(unknown, data.test_images)
        results |= uncertainty_measures.foreign(predicted, predict(unknown))
    for shift in job.shifts:
        shifted = predict(uncertainty_measures.shift(data.test_images[some], shift))
        measured = metrics.evaluate(shifted, data.test_labels[some])
        results |= {f"{shift} {name}": value for name, value in measured.items()}
    images_read = (data.train_images, data.train_labels, data.test_images, data.test_labels)
    return {
        "measures": results,
        "reliability": metrics.reliability(predicted, data.test_labels)._asdict(),
        "kernels": describe_kernels(method, trained.network, data.train_images.shape[1]),
        "images": digest(*map(tensor_bytes, images_read)),
        "shape": list(data.train_images.shape),
        **({"curve": list(trained.curve)} if job.curve else {}),
    }


@torch.no_grad()
def describe_kernels(method: Method, network: nn.Module, channels: int) -> dict[str, Any]:
    """Kernels of the first layer before and after training."""
    prior = method.sample_prior((KERNELS_KEPT, channels, 3, 3)).flatten(0, 1)
    return {
        "prior": prior[:KERNELS_KEPT].tolist(),
        "posterior": networks.first_kernels(network).flatten(0, 1)[:KERNELS_KEPT].tolist(),
    }


def tell(result: dict[str, Any]) -> str:
    """A run in a few words."""
    return ", ".join(f"{name} {result['measures'][name]:.4f}" for name in metrics.METRICS)
