"""The uniform law of a compact space."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from topoprior.distributions.arguments import real_vector
from topoprior.spaces.covering import Covering
from topoprior.utils.checks import real_tensor
from topoprior.utils.real_module import REAL_DTYPES


class UniformOn(Distribution):
    """The uniform law of a compact space: density 1 / volume.

    Args:
        covering: any compact :class:`~topoprior.spaces.covering.Covering`.
        dtype, device: of samples; default torch's defaults (of the device: at the time of sampling).

    Raises:
        ValueError: the space is not compact.

    Example:
        >>> import topoprior as tp
        >>> p = UniformOn(tp.KleinBottle())
        >>> p.log_prob(p.sample((3,)))
        tensor([-0., -0., -0.])
    """

    has_rsample = True
    arg_constraints: dict[str, Any] = {}
    support = real_vector

    def __init__(
        self,
        covering: Covering,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        validate_args: bool | None = None,
    ) -> None:
        if not isinstance(covering, Covering):
            raise TypeError(f"covering: expected a Covering, found {type(covering).__name__}")
        if not math.isfinite(covering.volume):
            raise ValueError(f"covering: {covering!r} is not compact: it carries no uniform distribution")
        self.covering = covering
        self.dtype = dtype or torch.get_default_dtype()
        if self.dtype not in REAL_DTYPES:
            raise TypeError(f"dtype: expected a dtype of real numbers, found {self.dtype}")
        # Not asked for here: torch.get_default_device() cannot be compiled.
        self.device = None if device is None else torch.device(device)
        event = torch.Size([covering.cover_dim])
        super().__init__(torch.Size(), event, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> UniformOn:
        new = self._get_checked_instance(UniformOn, _instance)
        new.covering, new.dtype, new.device = self.covering, self.dtype, self.device
        super(UniformOn, new).__init__(torch.Size(batch_shape), self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        shape = torch.Size(sample_shape) + self.batch_shape
        return self.covering.sample_uniform(shape, self.dtype, self.device)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        value = real_tensor("value", value)
        shape = torch.broadcast_shapes(value.shape[:-1], self.batch_shape)
        known = value.isfinite().all(-1).expand(shape)  # the density of no point is not known
        return torch.where(known, value.new_tensor(-math.log(self.covering.volume)), math.nan)

    def __repr__(self) -> str:
        batch = f", batch_shape={tuple(self.batch_shape)}" if self.batch_shape else ""
        return f"UniformOn({self.covering!r}{batch})"

    def entropy(self) -> Tensor:
        return torch.full(
            self.batch_shape, math.log(self.covering.volume), dtype=self.dtype, device=self.device
        )
