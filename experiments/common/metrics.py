"""Metrics of one run. Names are those of torch-uncertainty."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

METRICS = ("cls/Acc", "cls/NLL", "cls/Brier", "cal/ECE")
BINS = 15


def evaluate(probabilities: Tensor, labels: Tensor) -> dict[str, float]:
    """Metrics of predicted probabilities (N, classes) against labels (N,).

    Accuracy; mean negative log likelihood in nats; Brier score, the squared distance of the probabilities
    to the one-hot label, summed over classes, in [0, 2]; expected calibration error over 15 equal bins.
    """
    from torchmetrics.functional.classification import (  # takes seconds to import
        multiclass_accuracy,
        multiclass_calibration_error,
    )

    classes = probabilities.shape[1]
    smallest = torch.finfo(probabilities.dtype).tiny  # a probability of 0 shall cost 87 nats, not infinity
    one_hot = F.one_hot(labels, classes)
    values = (
        multiclass_accuracy(probabilities, labels, classes, average="micro"),
        F.nll_loss(probabilities.clamp_min(smallest).log(), labels),
        (probabilities - one_hot).square().sum(1).mean(),
        multiclass_calibration_error(probabilities, labels, classes, n_bins=BINS, norm="l1"),
    )
    return {name: float(value) for name, value in zip(METRICS, values, strict=True)}


class Reliability(NamedTuple):
    """For each of the bins of confidence: how many predictions, their mean confidence and accuracy."""

    counts: list[int]
    confidence: list[float]
    accuracy: list[float]


def reliability(probabilities: Tensor, labels: Tensor) -> Reliability:
    """What a reliability diagram shows; empty bins hold zeros."""
    confidence, predicted = probabilities.max(1)
    bins = (confidence * BINS).ceil().long().sub(1).clamp(0, BINS - 1)
    counts = torch.bincount(bins, minlength=BINS)

    def mean(values: Tensor) -> list[float]:
        return (torch.bincount(bins, values.double(), BINS) / counts.clamp_min(1)).tolist()

    return Reliability(counts.tolist(), mean(confidence), mean(predicted == labels))
