"""Bounded factors on a prior's scales, learned with the posterior."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from topoprior.priors.buffers import KnownBuffers


class BoundedScale(KnownBuffers):
    r"""Factors on a prior's scales that empirical Bayes may learn, each between 1/4 and 4:

    .. math:: f = \exp(\log 4 \cdot \tanh \rho), \quad \rho = 0 \text{ at the start, so } f = 1

    Bounded, because the unbounded optimum collapses: where the likelihood asks little of a layer, posterior
    and prior shrink together to zero at no cost in KL, and the layer is dead before training has got going.

    Args:
        num: how many factors.
        learn: whether rho is a parameter; without it the factors are ones, and there are no parameters.

    Example:
        >>> factors = BoundedScale(2, learn=True)
        >>> with torch.no_grad():
        ...     _ = factors.rho.copy_(torch.tensor([0.0, 100.0]))
        >>> factors().tolist()
        [1.0, 4.0]
        >>> BoundedScale(2, learn=False)().tolist()
        [1.0, 1.0]
    """

    ones: Tensor
    rho: nn.Parameter | None

    def __init__(
        self, num: int, learn: bool, *, device: Any = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        ones = torch.ones(num, device=device, dtype=dtype)
        self.rho = nn.Parameter(torch.zeros_like(ones)) if learn else None
        self.register_buffer("ones", ones, persistent=False)  # gives device and dtype, no checkpoint entry

    def fill_buffers(self) -> None:
        self.ones.fill_(1)

    def reset_parameters(self) -> None:
        self.fill_buffers()
        if self.rho is not None:
            nn.init.zeros_(self.rho)

    def forward(self) -> Tensor:
        """The factors, (num,)."""
        return self.ones if self.rho is None else (math.log(4) * self.rho.tanh()).exp()

    def extra_repr(self) -> str:
        return f"{len(self.ones)}, learn={self.rho is not None}"
