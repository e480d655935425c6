"""What logits are worth, as they are and with a temperature fitted on other images."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from experiments.cifar10.images import Images
from experiments.common.metrics import evaluate
from experiments.common.uncertainty import AURC, aurc, foreign

_RANGE = 1e-2, 1e2  # of 1 / temperature


def fitted_temperature(logits: Tensor, labels: Tensor) -> float:
    r"""The temperature T that minimizes the mean of :math:`-\log \mathrm{softmax}(z / T)_y`.

    In b = 1 / T the loss is convex, with the slope E_p[z] - z_y, p = softmax(b z): its zero is found by halving, on a scale of logarithms.

    Args:
        logits: (N, classes).
        labels: (N,).

    Source: Guo et al. 2017, On calibration of modern neural networks.
    """
    z = logits.double()
    right = z.gather(1, labels[:, None]).mean()
    low, high = (torch.tensor(b, dtype=torch.float64).log() for b in _RANGE)
    for _ in range(50):
        middle = (low + high) / 2
        slope = ((z * middle.exp()).softmax(1) * z).sum(1).mean() - right
        low, high = (middle, high) if slope < 0 else (low, middle)
    return float((-(low + high) / 2).exp())


def nll(logits: Tensor, labels: Tensor) -> float:
    return float(F.cross_entropy(logits, labels))


def judge(logits: Tensor, labels: Tensor, temperature: float) -> dict[str, float]:
    """Accuracy, NLL, Brier, ECE, AURC; the middle three also at ``temperature``, as "scaled/..."."""
    z = logits.double()
    plain, scaled = evaluate(z.softmax(1), labels), evaluate((z / temperature).softmax(1), labels)
    also = {"scaled/" + k.split("/")[1]: v for k, v in scaled.items() if k != "cls/Acc"}
    return {**plain, **also, AURC: aurc(z.softmax(1), labels), "fitted temperature": temperature}


def judge_parts(logits: Mapping[str, Tensor], images: Images) -> dict[str, float]:
    """Logits of "validation" images fit the temperature; those of "test" are judged, and told apart from "foreign" ones, where given."""
    labels = torch.from_numpy(images.validation[1])
    temperature = fitted_temperature(logits["validation"], labels)
    found = judge(logits["validation"], labels, temperature)
    measures = {f"validation {name}": value for name, value in found.items()}
    if "test" in logits:
        measures |= judge(logits["test"], torch.from_numpy(images.test[1]), temperature)
    if len(logits.get("foreign", ())):
        measures |= foreign(*(logits[part].double().softmax(1) for part in ("test", "foreign")))
    return measures
