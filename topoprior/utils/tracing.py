"""Whether values can be looked at."""

from __future__ import annotations

import torch
from torch import Tensor


def values_known(*tensors: Tensor) -> bool:
    """Whether the values can be read: not while torch.compile traces, not under torch.func, not on the meta device."""
    if torch.compiler.is_compiling():
        return False
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor
    batched = torch._C._functorch.is_legacy_batchedtensor  # several gradients at once, of torch.autograd
    return not any(wrapped(t) or t.is_meta or batched(t) for t in tensors)


def functions_work(*tensors: Tensor) -> bool:
    """Whether an `autograd.Function` without rules for torch.func can be used: its values are known and no transform is
    under way, of whatever tensors."""
    return values_known(*tensors) and torch._C._functorch.maybe_current_level() is None


def is_known_false(mask: Tensor) -> bool:
    """Whether no entry is true; False where values cannot be looked at."""
    return values_known(mask) and not bool(mask.any())
