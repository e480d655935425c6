"""Posteriors whose parameters FSDP2 has cut into shards: whole while a draw or a KL is made of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist
from torch import Tensor

from topoprior.priors.base import WeightPosterior


@contextmanager
def gathered(posteriors: Iterable[WeightPosterior]) -> Iterator[None]:
    """Inside, sharded parameters are whole tensors, whose gradients are means over the ranks, as those of FSDP are.

    FSDP2 (``torch.distributed.fsdp.fully_shard``) gathers a layer's parameters for its forward pass, and draws and KLs are
    made outside of it, too. The KL is the same on every rank, so its mean counts it once.
    """
    modules = (
        [m for p in posteriors for m in p.modules()]
        if dist.is_available() and dist.is_initialized()
        else []
    )
    cut = [(m, name, p) for m in modules for name, p in m._parameters.items() if hasattr(p, "full_tensor")]
    try:
        for module, name, parameter in cut:
            module._parameters[name] = _whole(parameter)  # type: ignore[assignment]
        yield
    finally:
        for module, name, parameter in cut:
            module._parameters[name] = parameter


def _whole(parameter: Any) -> Tensor:
    from torch.distributed.tensor import Partial

    mesh = parameter.device_mesh
    whole: Tensor = parameter.full_tensor(grad_placements=[Partial()] * mesh.ndim)
    if whole.requires_grad:
        whole.register_hook(lambda grad: grad / mesh.size())
    return whole
