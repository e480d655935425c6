"""Does the model know what it does not know? Selective classification, out-of-distribution data, shift.

Names and conventions are torch-uncertainty's: confidence is the largest probability, foreign images are the
positive class, and what is not in torchmetrics is tested against torch-uncertainty.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

AURC, AUROC, FPR95 = "sc/AURC", "ood/AUROC", "ood/FPR95"


def aurc(probabilities: Tensor, labels: Tensor) -> float:
    """Area under the risk-coverage curve: the error among the k surest answers, averaged over k by trapezoids.

    0 is best. A model whose confidence says nothing has its error rate.

    Example:
        >>> p = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4]])
        >>> round(aurc(p, torch.tensor([0, 0, 1])), 4)  # risks 0, 0, 1/3 at coverages 1/3, 2/3, 1
        0.0833
    """
    confidence, predicted = probabilities.max(1)
    wrong = (predicted != labels).double()[confidence.argsort(descending=True, stable=True)]
    count = len(wrong)
    risks = wrong.cumsum(0) / torch.arange(1, count + 1, dtype=torch.double)
    if count == 1:
        return float(risks)
    return float((risks[:-1] + risks[1:]).mean() / 2)  # coverages 1/n to 1: divided by their length


def foreign(known: Tensor, unknown: Tensor) -> dict[str, float]:
    """How well confidence tells images of the task (N, classes) from foreign ones (M, classes).

    AUROC: the chance that a foreign image gets less confidence than one of the task, 0.5 for a guess.
    FPR95: the part of the task's images that is rejected by the threshold that rejects 95% of the foreign ones.
    """
    from torchmetrics.functional.classification import (  # takes seconds to import
        binary_auroc,
        binary_specificity_at_sensitivity,
    )

    doubt = 1 - torch.cat([known, unknown]).double().max(1).values
    is_foreign = torch.cat([torch.zeros(len(known)), torch.ones(len(unknown))]).long()
    specificity, _ = binary_specificity_at_sensitivity(doubt, is_foreign, min_sensitivity=0.95)
    return {AUROC: float(binary_auroc(doubt, is_foreign)), FPR95: 1 - float(specificity)}


# Shifts: images in [0, 1], (N, C, H, W)


def rotate(images: Tensor, degrees: float) -> Tensor:
    """Rotated around the middle, counterclockwise, bilinear, with what is black outside."""
    from torchvision.transforms import functional  # takes seconds to import

    return functional.rotate(images, degrees, functional.InterpolationMode.BILINEAR)


def blur(images: Tensor, sigma: float) -> Tensor:
    """Gaussian blur, sigma in pixels, cut off at three of them; edges are mirrored."""
    from torchvision.transforms import functional  # takes seconds to import

    return functional.gaussian_blur(images, 2 * math.ceil(3 * sigma) + 1, sigma)


def add_noise(images: Tensor, std: float) -> Tensor:
    """Normal noise, the same for every call, cut to [0, 1]."""
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    return (images + std * noise).clamp(0, 1)


_SHIFTS = {"rotation": rotate, "blur": blur, "noise": add_noise}


def shift(images: Tensor, name: str) -> Tensor:
    """The images after the shift of a name such as rotation-30, blur-1 or noise-0.1."""
    kind, _, amount = name.partition("-")
    return _SHIFTS[kind](images, float(amount))


def as_foreign(images: Tensor, like: Tensor) -> Tensor:
    """Images of another data set with the size and the channels of ``like``: resized, grey repeated in colour."""
    channels, *size = like.shape[1:]
    if list(images.shape[2:]) != size:
        images = F.interpolate(images, size, mode="bilinear", antialias=True)
    if images.shape[1] != channels:
        images = images.mean(1, keepdim=True).expand(-1, channels, -1, -1)
    return images
