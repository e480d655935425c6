"""Are these logits and targets of a classification? Asked by whatever takes a cross entropy of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from topoprior.utils.real_module import REAL_DTYPES
from topoprior.utils.tracing import values_known

_LEFT_OUT = -100  # to torch: no target at this position
_ONE_LOGIT = (
    "the likelihood of one logit is torch.nn.functional.binary_cross_entropy_with_logits(logits, target), to which "
    "topoprior.kl_divergence(model) / num_data is added; samplers take a log_likelihood"
)


def check_classes(logits: Any, target: Any) -> None:
    """Logits (batch, classes, ...) with class indices (batch, ...) or probabilities (batch, classes, ...).

    The cross entropy of torch is 0 for one logit, whatever the target is, and stops at others of these without a name.

    Raises:
        TypeError: no tensors, logits that are no real floating-point numbers, targets that are neither int64 (or uint8) nor floating.
        ValueError: shapes or devices that do not fit, an empty batch, a single logit, classes that there are not, probabilities
            that are none.

    Example:
        >>> check_classes(torch.zeros(2, 3), torch.tensor([0, 3]))
        Traceback (most recent call last):
        ValueError: target: expected classes from 0 to 2, or -100 to leave a position out, found 0 to 3
    """
    for name, given in (("logits", logits), ("target", target)):
        if not isinstance(given, Tensor):
            entries = ", ".join(map(repr, given)) if isinstance(given, Mapping) else ""
            hint = f"; give one of its entries {entries}" if entries else ""
            raise TypeError(f"{name}: expected a tensor, found {type(given).__name__}{hint}")
    if logits.dtype not in REAL_DTYPES:
        raise TypeError(f"logits: expected floating-point numbers, found {logits.dtype}")
    if logits.dim() < 2 or len(logits) < 1:
        raise ValueError(f"logits: expected shape (batch, classes, ...), found {tuple(logits.shape)}")
    check_several(logits)
    soft = target.is_floating_point()
    if not soft and target.dtype not in (torch.int64, torch.uint8):  # what F.cross_entropy takes
        raise TypeError(
            f"target: expected class indices (torch.int64) or probabilities, found {target.dtype}"
        )
    if target.device != logits.device:
        raise ValueError(f"target: expected device {logits.device}, as logits, found {target.device}")
    indices = logits.shape[:1] + logits.shape[2:]
    expected = logits.shape if soft else indices
    if target.shape != expected:
        kind = "probabilities" if soft else "class indices"
        hint = "; class indices are integers: target.long()" if soft and target.shape == indices else ""
        if not soft and target.shape == logits.shape:
            hint = "; one-hot targets are probabilities: target.to(logits)"
        raise ValueError(f"target: expected {kind} {tuple(expected)}, found {tuple(target.shape)}{hint}")
    if values_known(target):
        _check_probabilities(target) if soft else _check_indices(target, logits.shape[1])


def check_several(logits: Tensor) -> None:
    """A :class:`ValueError` for a single logit."""
    if logits.dim() > 1 and logits.shape[1] == 1:
        found = tuple(logits.shape)
        raise ValueError(f"logits: expected 2 classes or more in dimension 1, found {found}; {_ONE_LOGIT}")


def _check_indices(target: Tensor, classes: int) -> None:
    if target.is_cuda:
        return  # torch says it there too, and to look would wait for the device in every step
    counted = target[target != _LEFT_OUT]
    if counted.numel() and not (counted.amin() >= 0 and counted.amax() < classes):
        raise ValueError(
            f"target: expected classes from 0 to {classes - 1}, or {_LEFT_OUT} to leave a position out, found "
            f"{int(counted.amin())} to {int(counted.amax())}"
        )


def _check_probabilities(target: Tensor) -> None:
    gap = (target.detach().sum(1, dtype=torch.float32) - 1).abs().amax()
    if not bool((gap <= 1e-2) & (target.amin() >= 0)):  # NaN is neither
        raise ValueError(
            f"target: expected probabilities, from 0 and with sums 1 over the classes, found {float(target.min()):.3g} to "
            f"{float(target.max()):.3g} with sums up to {float(gap):.3g} off; for labels of which several hold, use "
            "torch.nn.functional.binary_cross_entropy_with_logits and add topoprior.kl_divergence(model) / num_data"
        )
