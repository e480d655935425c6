"""Whether values can be looked at: not under vmap, not while torch.compile traces."""

from __future__ import annotations

import torch
from torch import Tensor


def usable(*tensors: Tensor) -> bool:
    """Whether a compiled formula takes these: not inside another compilation, not under vmap."""
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor
    return not (torch.compiler.is_compiling() or any(wrapped(t) for t in tensors))


def is_known_false(mask: Tensor) -> bool:
    """Whether no entry is true; False where values cannot be looked at, under `vmap` or compilation."""
    if torch.compiler.is_compiling():
        return False
    try:
        return not bool(mask.any())
    except RuntimeError:  # vmap
        return False
