"""Parts of a data set that keep the frequencies of its classes."""

from __future__ import annotations

import torch
from torch import Tensor

from experiments.common.folders import DataError


def stratified_indices(labels: Tensor, size: int | None, seed: int) -> Tensor:
    """Choose `size` of N items at random, each class in proportion to its frequency.

    A class with n of the N items gets floor(size n / N) or one more; the items left over go to
    the classes with the largest remainders, equal ones in an order drawn by `seed`. So equally
    frequent classes get numbers that differ by at most 1.

    Args:
        labels: non-negative integers, shape (N,).
        size: how many items, from 0 to N; None means all.
        seed: equal seeds give equal choices, whatever the state of the global generator.

    Returns:
        Indices into `labels`, int64, shape (size,), increasing.

    Raises:
        DataError: `size` is not between 0 and N.
    """
    total = len(labels)
    if size is None:
        return torch.arange(total)
    if not 0 <= size <= total:
        raise DataError(f"cannot choose {size} of {total} items: choose a size from 0 to {total}")
    generator = torch.Generator().manual_seed(seed)
    counts = torch.bincount(labels)
    # Integers throughout: floating-point remainders would make ties depend on rounding.
    quotas = size * counts // max(total, 1)
    remainders = size * counts % max(total, 1)
    order = torch.randperm(len(counts), generator=generator)
    order = order[remainders[order].argsort(descending=True, stable=True)]
    quotas[order[: size - int(quotas.sum())]] += 1

    chosen = []
    for label, quota in enumerate(quotas.tolist()):
        members = (labels == label).nonzero().flatten()
        chosen.append(members[torch.randperm(len(members), generator=generator)[:quota]])
    return torch.cat(chosen).sort().values if chosen else torch.arange(0)


def train_validation_split(labels: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Split N items at random into training and validation, both with the class frequencies.

    Args:
        labels: non-negative integers, shape (N,).
        fraction: the part for validation, in [0, 1); round(fraction N) items.
        seed: as in `stratified_indices`.

    Returns:
        Training indices and validation indices, int64, increasing: together each of 0, ..., N - 1
        once.

    Raises:
        DataError: `fraction` is not in [0, 1), or leaves nothing to train on.
    """
    if not 0 <= fraction < 1:
        raise DataError(f"validation fraction {fraction}: choose at least 0 and less than 1")
    size = round(fraction * len(labels))
    if size == len(labels):
        raise DataError(
            f"validation fraction {fraction} of {len(labels)} items leaves none to train on; "
            "choose a smaller one"
        )
    validation = stratified_indices(labels, size, seed)
    in_training = torch.ones(len(labels), dtype=torch.bool)
    in_training[validation] = False
    return in_training.nonzero().flatten(), validation
