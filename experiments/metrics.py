"""Metrics of one run, and what several seeds say together. Names are those of torch-uncertainty."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_calibration_error

METRICS = ("cls/Acc", "cls/NLL", "cls/Brier", "cal/ECE")
BINS = 15

# Two-sided 95% quantiles of Student's t with 1, 2, ... degrees of freedom.
_T95 = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281)


def evaluate(probabilities: Tensor, labels: Tensor) -> dict[str, float]:
    """Metrics of predicted probabilities (N, classes) against labels (N,).

    Accuracy; mean negative log likelihood in nats; Brier score, the squared distance of the probabilities
    to the one-hot label, summed over classes, in [0, 2]; expected calibration error over 15 equal bins.
    """
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


class Interval(NamedTuple):
    """Mean over seeds and half the width of its 95% interval, None where one seed says nothing of it."""

    mean: float
    half_width: float | None

    def __str__(self) -> str:
        digits = 1 if abs(self.mean) >= 10 else 4
        mean = f"{self.mean:.{digits}f}"
        return mean if self.half_width is None else f"{mean} ± {self.half_width:.{digits}f}"


def interval(values: Sequence[float]) -> Interval:
    """Student's interval: mean ± t s / sqrt(n).

    Example:
        >>> print(interval([0.80, 0.82, 0.84]))
        0.8200 ± 0.0497
    """
    count = len(values)
    mean = math.fsum(values) / count
    if count == 1:
        return Interval(mean, None)
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    return Interval(mean, t_quantile(count - 1) * math.sqrt(variance / count))


def t_quantile(degrees: int) -> float:
    """Two-sided 95% quantile of Student's t: from the table, then by expansion around the normal."""
    if degrees <= len(_T95):
        return _T95[degrees - 1]
    z = 1.959964
    first = (z**3 + z) / (4 * degrees)
    second = (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * degrees**3)
    return z + first + second + third
