"""A normal law around the trained last layer (Laplace's approximation): every logit has a variance, and doubt takes from it."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from experiments.cifar10.measures import nll

PRECISIONS = tuple(
    10.0**e for e in range(-2, 5)
)  # of the prior, per weight: what validation images choose from


class LastLayer:
    r"""The last layer's weights and biases, normal around the trained ones, with the inverse covariance H + precision.

    H is the second derivative of the summed negative log likelihood, which is exact for a linear layer:

    .. math:: H = \sum_i (\mathrm{diag}(p_i) - p_i p_i^T) \otimes \phi_i \phi_i^T

    with the probabilities p and the features phi (a one appended) of example i. A logit is normal with the variance
    :math:`v_c = \phi^T \Sigma_{cc} \phi`, and by MacKay's approximation predicts as :math:`z_c / \sqrt{1 + \pi v_c / 8}`.

    Args:
        features: (N, D), of the images that were learned from, without shifts and flips.
        head: the layer, D to classes, with a bias.

    Source: Daxberger et al. 2021, Laplace redux; MacKay 1992, The evidence framework applied to classification networks.
    """

    def __init__(self, features: Tensor, head: nn.Module) -> None:
        self.head = head
        phi, p = _with_one(features), head(features).double().softmax(1)
        classes, size = p.shape[1], phi.shape[1]
        hessian = torch.empty(classes, size, classes, size, dtype=torch.double)
        for c in range(classes):
            for d in range(c + 1):
                slope = p[:, c] * (float(c == d) - p[:, d])
                hessian[c, :, d] = hessian[d, :, c] = (phi * slope[:, None]).T @ phi
        values, vectors = torch.linalg.eigh(hessian.reshape(classes * size, -1))
        self.values, self.vectors = values.clamp_min(0), vectors.reshape(classes, size, -1)

    def logits(self, features: Tensor, precision: float) -> Tensor:
        """(N, classes), of features (N, D)."""
        half = self.vectors * (self.values + precision).rsqrt()
        covariance = half @ half.mT  # (classes, D + 1, D + 1): a logit's own weights
        phi = _with_one(features)
        variance = ((phi @ covariance) * phi).sum(2).T
        return self.head(features).double() / (1 + math.pi / 8 * variance).sqrt()

    def best_precision(
        self, features: Tensor, labels: Tensor, precisions: Iterable[float] = PRECISIONS
    ) -> float:
        """That of the lowest negative log likelihood, on other images than those that were learned from."""
        return min(precisions, key=lambda precision: nll(self.logits(features, precision), labels))


def _with_one(features: Tensor) -> Tensor:
    return torch.cat([features, features.new_ones(len(features), 1)], 1).double()
