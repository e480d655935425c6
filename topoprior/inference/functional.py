"""A network with other parameters than its own, also where it uses a module twice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def call_with(net: nn.Module, params: Mapping[str, Tensor], x: Any) -> Any:
    """``net(x)`` with ``params`` in place of its own, which it has again afterwards.

    That is :func:`torch.func.functional_call`. Of a module under several names, though, it gives back what it put there
    under the name before: the network would lose its parameters. So every module gets them under one name.
    """
    modules, names = list(net.named_modules()), list(net.named_modules(remove_duplicate=False))
    if len(modules) == len(names):
        return torch.func.functional_call(net, dict(params), (x,))
    given = {
        id(tensor): params[name]
        for prefix, module in names
        for name, tensor in _own(prefix, module)
        if name in params
    }
    found = {
        name: given[id(tensor)]
        for prefix, module in modules
        for name, tensor in _own(prefix, module)
        if id(tensor) in given
    }
    return torch.func.functional_call(net, found, (x,), tie_weights=False)


def _own(prefix: str, module: nn.Module) -> list[tuple[str, Tensor]]:
    """A module's own parameters and buffers, by their names in the network."""
    own = {**module._parameters, **module._buffers}
    return [
        (f"{prefix}.{name}" if prefix else name, tensor)
        for name, tensor in own.items()
        if tensor is not None
    ]
