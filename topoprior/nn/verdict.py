"""Is this a posterior? What the KL an example says, for the summary of a network and on the way through its training."""

from __future__ import annotations

import math
import warnings
import weakref
from collections.abc import Sequence

from torch import nn

_NOTHING = 0.01  # nats a weight: a normal 10% of a std away from its prior has .005
_STEPS, _PASSES = 1000, 10  # of a training: not judged before


def at_prior(kl: float, weights: int) -> bool:
    """Whether a posterior is its prior nearly."""
    return kl < _NOTHING * weights


def objections(
    cost: float, fallen: Sequence[str], num_classes: int | None, loss: float | None = None
) -> list[str]:
    """Why this is no posterior to trust, a sentence each.

    Args:
        cost: KL / N in nats.
        fallen: layers at their prior.
        num_classes: C, to compare ``cost`` and ``loss`` with ln C.
        loss: the negative bound of an example, where it is known; a lower limit of it, as batches are noise.
    """
    found = []
    constant = math.inf if num_classes is None else math.log(num_classes)
    above = f"above ln {num_classes} = {constant:.3g}, the loss of a constant prediction"
    if cost > constant:
        found.append(
            f"model: KL / N is {cost:,.3g} nats, {above}: this is no posterior, its stds are a level of noise; "
            "draw from the posterior with sample_posterior, or train on"
        )
    if fallen:
        found.append(
            f"model: the posterior of {', '.join(fallen)} has fallen back to the prior, so these layers have "
            'learned nothing; points (posterior="delta") or sample_posterior learn more from so few data'
        )
    if not found and loss is not None and loss > constant:
        found.append(
            f"model: cross entropy + KL / N is {loss:,.3g} nats or more, {above}: the KL is low because little was learned; "
            'points (posterior="delta") or sample_posterior learn more from so few data'
        )
    return found


class _Training:
    """Losses of one network so far, and at which of them it is looked at next."""

    steps = examples = 0
    next = _STEPS


_TRAININGS: weakref.WeakKeyDictionary[nn.Module, _Training] = weakref.WeakKeyDictionary()


def is_due(model: nn.Module, batch: int, num_data: int) -> int:
    """Counts one loss; how many there were, where it is time for a look: after 1,000 that saw the data ten times, then whenever that has
    doubled. 0 otherwise."""
    training = _TRAININGS.setdefault(model, _Training())
    training.steps += 1
    training.examples += batch
    if training.steps < training.next or training.examples < _PASSES * num_data:
        return 0
    training.next = 2 * training.steps
    return training.steps


def warn(said: Sequence[str], stacklevel: int, when: str = "") -> None:
    """``stacklevel``: 1 is who calls this."""
    for objection in said:
        warnings.warn(when + objection, stacklevel=stacklevel + 1)
