"""Which precision a sum needs."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """Half precision has too few digits for a sum of squares, and float16 ends at 65,504."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
