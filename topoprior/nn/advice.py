"""Mistakes that nothing would show get a word, with the remedy: by `warnings`, so once a line of the caller's."""

from __future__ import annotations

import warnings
import weakref

import torch
from torch import Tensor, nn

# Networks given to `to_bayesian`, which returned others.
_CONVERTED: weakref.WeakSet[nn.Module] = weakref.WeakSet()


def note_conversion(model: nn.Module) -> None:
    _CONVERTED.add(model)


def warn_no_bayesian_layer(model: nn.Module, consequence: str, stacklevel: int) -> None:
    """``stacklevel``: 1 is who calls this."""
    if torch.compiler.is_compiling():
        return
    remedy = "tp.to_bayesian(net) returns a network that has some"
    if model in _CONVERTED:
        remedy = "it was given to to_bayesian, which left it as it is: use what that returned"
    warnings.warn(
        f"model: found no Bayesian layer in this {type(model).__name__}, so {consequence}; {remedy}",
        stacklevel=stacklevel + 1,
    )


def warn_probabilities(outputs: Tensor, stacklevel: int) -> None:
    """Of outputs (samples, batch, classes, ...) that are probabilities where logits are meant.

    Logarithms of probabilities are logits: their softmax is what they are the logarithms of.
    """
    if outputs.numel() == 0:
        return
    off = (outputs.sum(2, dtype=torch.float64) - 1).abs().max()
    rounding = 8 * torch.finfo(outputs.dtype).eps
    if bool((off <= rounding) & (outputs.amin() >= 0)):
        warnings.warn(
            "model: its outputs are probabilities already (at least 0, with sums 1), and predict takes the softmax "
            "of them, which flattens them; let it return logits, or call sample_outputs",
            stacklevel=stacklevel + 1,
        )
