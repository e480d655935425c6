"""One run of a sweep: data, training, every measure."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import topoprior as tp
from experiments.priors import data as datasets
from experiments.priors import metrics, networks, training
from experiments.priors import uncertainty as uncertainty_measures
from experiments.priors.data import ImageData
from experiments.priors.grid import Job
from experiments.priors.hardware import Hardware
from experiments.priors.methods import Method
from experiments.priors.runs import digest_images
from topoprior.priors.decoded.posterior import DecoderPosterior

_DIGITS = 6  # of the numbers in a result file
KERNELS_KEPT = 32


@dataclass(frozen=True)
class Sources:
    """Where data sets are on the machine that runs: it is no part of a run's configuration."""

    data_dir: str
    folders: dict[str, str]

    def load(self, label: str, train_size: int | None, test_size: int | None, seed: int) -> ImageData:
        return _load(self.folders.get(label, label), self.data_dir, train_size, test_size, seed)


@lru_cache(maxsize=3)  # the runs of a cell follow one another
def _load(name: str, data_dir: str, train_size: int | None, test_size: int | None, seed: int) -> ImageData:
    return datasets.load(name, Path(data_dir), seed=seed, train_size=train_size, test_size=test_size)


def run_job(job: Job, sources: Sources, hardware: Hardware) -> dict[str, Any]:
    """Train, predict, measure.

    Returns:
        "results" by the names of the measures; "reliability"; "kernels" of the first layer; a digest of the data;
        "curve" where one was asked for.
    """
    data = sources.load(job.dataset, job.train_size, job.test_size, job.seed)
    method = job.make_method()
    device = hardware.device
    some = datasets.stratified_indices(data.test_labels, min(job.foreign_size, len(data.test_labels)), 0)
    images, watched = training.standardize(data.train_images, data.test_images[some])
    watch = training.Watch(watched, data.test_labels[some], job.curve) if job.curve else None
    classes = len(data.classes)
    trained = training.train(
        method, images, data.train_labels, classes, job.budget, job.seed, hardware, watch
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
        unknown = sources.load(job.foreign, 1, job.foreign_size, 0).test_images
        unknown = uncertainty_measures.as_foreign(unknown, data.test_images)
        results |= uncertainty_measures.foreign(predicted, predict(unknown))
    for shift in job.shifts:
        shifted = predict(uncertainty_measures.shift(data.test_images[some], shift))
        measured = metrics.evaluate(shifted, data.test_labels[some])
        results |= {f"{shift} {name}": value for name, value in measured.items()}
    return {
        "results": _rounded(results),
        "reliability": _rounded(metrics.reliability(predicted, data.test_labels)._asdict()),
        "kernels": _rounded(describe_kernels(method, trained.network, data.train_images.shape[1])),
        "data": digest_images(data),
        **({"curve": _rounded(list(trained.curve))} if job.curve else {}),
    }


@torch.no_grad()
def describe_kernels(method: Method, network: nn.Module, channels: int) -> dict[str, Any]:
    """Kernels of the first layer before and after training, and the latent points they are decoded from."""
    layer = networks.first_layer(network)
    prior = method.sample_prior((KERNELS_KEPT, channels, 3, 3)).flatten(0, 1)
    found: dict[str, Any] = {
        "prior": prior[:KERNELS_KEPT].tolist(),
        "posterior": networks.first_kernels(network).flatten(0, 1)[:KERNELS_KEPT].tolist(),
    }
    posterior = getattr(layer, "weight_posterior", None) if isinstance(layer, tp.BayesConv2d) else None
    if isinstance(posterior, DecoderPosterior):
        points = posterior.prior.covering.project(posterior.latent_loc).flatten(0, 1)[:KERNELS_KEPT]
        found |= {
            "points": points.tolist(),
            "point scales": posterior.latent_scale.flatten(0, 1)[:KERNELS_KEPT].tolist(),
            "amplitudes": posterior.loc[posterior.dim].flatten()[:KERNELS_KEPT].tolist(),
        }
    return found


def _rounded(value: Any) -> Any:
    """Floats to six significant digits: small files, and far finer than any difference between seeds."""
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}")
    if isinstance(value, dict):
        return {key: _rounded(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(entry) for entry in value]
    return value
