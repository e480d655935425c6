"""Batches as people have them: a tensor, several inputs, inputs by name; outputs in dicts and tuples."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

#: What a model takes: a tensor, a tuple or list of inputs, or a dict of inputs by name.
Batch: TypeAlias = "Tensor | tuple[Any, ...] | list[Any] | Mapping[str, Any]"
#: Which part of what a model returns: a key or attribute, an index, or a function of it.
Output: TypeAlias = "str | int | Callable[[Any], Tensor] | None"


def call(model: nn.Module, batch: Batch) -> Any:
    """The model on its inputs, by name where they have names."""
    if isinstance(batch, Mapping):
        return model(**batch)
    return model(*batch) if isinstance(batch, tuple | list) else model(batch)


def rows(batch: Any) -> int:
    """How many examples a batch has.

    Raises:
        TypeError: no tensor, nor several.
        ValueError: a scalar, or tensors that do not agree.
    """
    several = isinstance(batch, tuple | list | Mapping)
    inputs = batch.items() if isinstance(batch, Mapping) else enumerate(batch) if several else [("", batch)]
    tensors = {
        f"x[{key!r}]" if several else "x": value for key, value in inputs if isinstance(value, Tensor)
    }
    if not tensors:
        kind = f"{type(batch).__name__} without tensors" if several else type(batch).__name__
        raise TypeError(
            f"x: expected a tensor (batch, ...), several in a tuple or dict, or a loader, found {kind}"
        )
    for name, tensor in tensors.items():
        if tensor.dim() == 0:
            raise ValueError(f"{name}: expected shape (batch, ...), found a scalar")
    lengths = {name: len(tensor) for name, tensor in tensors.items()}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{length} in {name}" for name, length in lengths.items())
        raise ValueError(f"x: expected inputs of one batch, found rows {found}")
    return next(iter(lengths.values()))


def is_empty(batch: Batch) -> bool:
    """Whether a batch has tensors, and none of them a row."""
    values = (
        batch.values()
        if isinstance(batch, Mapping)
        else batch
        if isinstance(batch, tuple | list)
        else [batch]
    )
    lengths = [len(value) for value in values if isinstance(value, Tensor) and value.dim()]
    return bool(lengths) and not any(lengths)


def map_tensors(function: Callable[[Tensor], Tensor], batch: Any) -> Any:
    """The batch with its tensors changed; what else a model takes, such as flags, goes along."""
    if isinstance(batch, Mapping):
        return {name: map_tensors(function, value) for name, value in batch.items()}
    if isinstance(batch, tuple | list):
        return tuple(function(value) if isinstance(value, Tensor) else value for value in batch)
    return function(batch) if isinstance(batch, Tensor) else batch


def split(batch: Batch, size: int) -> Iterator[Batch]:
    """Parts of at most ``size`` rows, at least one, which may be empty."""
    for first in range(0, max(1, rows(batch)), size):
        yield map_tensors(operator.itemgetter(slice(first, first + size)), batch)


def is_loader(x: Any) -> bool:
    """Whether ``x`` gives batches, as a :class:`torch.utils.data.DataLoader` does, and is none itself."""
    return isinstance(x, Iterable) and not isinstance(x, Tensor | tuple | list | Mapping | str | bytes)


def inputs_of(batch: Any, device: torch.device | None) -> Batch:
    """What a model takes of a loader's batch: of a tuple or list its first element, the others are targets."""
    first = batch[0] if isinstance(batch, tuple | list) else batch
    return first if device is None else map_tensors(lambda tensor: tensor.to(device), first)


def pick(found: Any, output: Output) -> Tensor:
    """The tensor asked for of what a model returned.

    Raises:
        ValueError: it is not there, or several are and nothing was asked for.
    """
    if callable(output):
        found = output(found)
    elif output is not None:
        try:
            named = isinstance(output, str) and not isinstance(found, Mapping)
            found = getattr(found, str(output)) if named else found[output]
        except (AttributeError, KeyError, IndexError, TypeError) as error:
            raise ValueError(f"output: expected {_choices(found)}, found {output!r}") from error
    if not isinstance(found, Tensor):
        hint = "" if output is not None else f"; output= picks one of {_choices(found)}"
        raise ValueError(f"model: expected a tensor, found {type(found).__name__}{hint}")
    return found


def _choices(found: Any) -> str:
    if isinstance(found, Mapping):
        return "the keys " + ", ".join(map(repr, found))
    if isinstance(found, tuple | list):
        return f"0 to {len(found) - 1}"
    return "a part of a tuple or dict, or a function"
