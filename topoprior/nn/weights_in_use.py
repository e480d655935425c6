"""Which weights a layer computes with, as its caller's context says: two threads can differ on one layer.

A context is that of :mod:`contextvars`. A thread, or a task of asyncio, sees what was set in it, and a thread begins
with nothing set. Layers themselves hold no state of a call, so copies and pickles need no care.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

Draws: TypeAlias = tuple[Tensor, "Tensor | None"]


class InUse(NamedTuple):
    """The mean or fresh draws; ``drawn``, S weights and biases, comes before either."""

    use_mean: bool
    drawn: Draws | None = None


class Unfoldable(ValueError):
    """A network that cannot take several draws in one pass: a layer draws unseen, or its input is no batch of rows."""


#: The rows of the pass with several draws that this context is in; 0 outside of one.
ROWS: ContextVar[int] = ContextVar("topoprior.rows", default=0)


def rows_of_pass() -> int:
    """:data:`ROWS`; 0 in what torch.compile makes, which would be made anew for every number of rows."""
    return 0 if torch.compiler.is_compiling() else ROWS.get()


# Never changed in place: whoever reads a mapping keeps it. None in place of an empty one.
_IN_USE: ContextVar[Mapping[nn.Module, InUse] | None] = ContextVar("topoprior.weights_in_use", default=None)


def told(layer: nn.Module) -> InUse | None:
    """What this context says of a layer; None where it says nothing."""
    in_use = _IN_USE.get()
    return in_use[layer] if in_use is not None and layer in in_use else None


def tell(news: Mapping[nn.Module, InUse | None]) -> None:
    """Say what layers compute with in this context; None takes back what was said."""
    merged = {**(_IN_USE.get() or {}), **news}
    _IN_USE.set({layer: said for layer, said in merged.items() if said is not None} or None)


@contextmanager
def restored(layers: Sequence[nn.Module]) -> Iterator[None]:
    """What this context says of the layers is put back afterwards."""
    before = {layer: told(layer) for layer in layers}
    try:
        yield
    finally:
        tell(before)
