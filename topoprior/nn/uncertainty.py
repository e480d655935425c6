r"""How sure a prediction is: entropies of class probabilities under draws of the weights, in nats.

.. math:: H\big[E_w\, p(y \mid x, w)\big] = E_w H\big[p(y \mid x, w)\big] + I(y; w \mid x)

total uncertainty = that of the labels themselves (aleatoric, "expected entropy") + that of the weights
(epistemic, "mutual information"). Depeweg et al. 2018, section 3.
"""

from __future__ import annotations

import torch
from torch import Tensor


def predictive_entropy(probabilities: Tensor) -> Tensor:
    r"""Entropy of the posterior predictive, :math:`H[\frac1S \sum_s p_s]`, in nats: total uncertainty.

    Args:
        probabilities: (num_samples, batch, classes, ...), as :func:`~topoprior.predict` returns them.

    Returns:
        (batch, ...), from 0 to log(classes).

    Raises:
        TypeError: no floating-point tensor.
        ValueError: wrong shape, negative numbers, or numbers that do not sum to 1 over the classes.

    Example:
        >>> predictive_entropy(torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]]))  # log 2: the draws disagree
        tensor([0.6931])
    """
    return _entropy(_checked(probabilities).mean(0))


def expected_entropy(probabilities: Tensor) -> Tensor:
    r"""Mean entropy of the draws, :math:`\frac1S \sum_s H[p_s]`, in nats: what no more data would remove.

    Shapes and errors as in :func:`predictive_entropy`.

    Example:
        >>> expected_entropy(torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]]))  # each draw is sure
        tensor([0.])
    """
    return _mean_entropy(_checked(probabilities))


def mutual_information(probabilities: Tensor) -> Tensor:
    r"""Mutual information of label and weights, :math:`H[\bar p] - \frac1S \sum_s H[p_s]`, in nats.

    The score of BALD (Houlsby et al. 2011): large where the draws disagree, each being sure. S samples show
    at most log S of it, and on average less than there is. Shapes and errors as in
    :func:`predictive_entropy`.

    Example:
        >>> mutual_information(torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]]))
        tensor([0.6931])
    """
    probabilities = _checked(probabilities)
    # Not negative by Jensen's inequality; rounding may say otherwise where all draws agree.
    return (_entropy(probabilities.mean(0)) - _mean_entropy(probabilities)).clamp_min(0)


def _entropy(probabilities: Tensor) -> Tensor:
    """Over dimension 1; `entr` is -p log p, and 0 at p = 0."""
    return torch.special.entr(probabilities).sum(1)


def _mean_entropy(probabilities: Tensor) -> Tensor:
    return torch.special.entr(probabilities).sum(2).mean(0)


def _checked(probabilities: Tensor) -> Tensor:
    if not isinstance(probabilities, Tensor) or not probabilities.is_floating_point():
        found = getattr(probabilities, "dtype", type(probabilities).__name__)
        raise TypeError(f"probabilities: expected a floating-point tensor, found {found}")
    if probabilities.dim() < 3 or len(probabilities) < 1 or probabilities.shape[2] < 2:
        raise ValueError(
            "probabilities: expected shape (num_samples, batch, classes, ...) of 2 classes or more, found "
            f"{tuple(probabilities.shape)}"
        )
    if probabilities.dtype in (torch.float16, torch.bfloat16):
        probabilities = probabilities.float()
    gap = (probabilities.sum(2) - 1).abs()
    if not bool((probabilities >= 0).all() & (gap < 1e-2).all()):
        raise ValueError(
            "probabilities: expected numbers from 0 that sum to 1 over the classes, found "
            f"{float(probabilities.min()):.3g} to {float(probabilities.max()):.3g} with sums up to "
            f"{float(gap.max()):.3g} off; logits need softmax(2)"
        )
    return probabilities
