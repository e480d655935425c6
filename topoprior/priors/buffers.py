"""Buffers that a module knows from its prior: filled anew, saved, and a state of another prior is refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class KnownBuffers(nn.Module):
    """A module some of whose buffers are functions of its ``prior``."""

    #: Buffers that are known from the prior. They are saved, so that the state of another prior is refused.
    prior_buffers: tuple[str, ...] = ()

    def fill_buffers(self) -> None:
        """Write into the buffers what is known from the prior: after ``to_empty`` they hold anything."""

    def _give_memory(self, devices: Sequence[torch.device]) -> None:
        """To buffers on the meta device, where the state has its tensors: what a state does not hold is known."""
        for module in self.modules() if devices else ():
            for name, buffer in module.named_buffers(recurse=False):
                if buffer.is_meta:
                    module._buffers[name] = torch.empty_like(buffer, device=devices[0])

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, metadata: Any, strict: bool, *lists: list[str]
    ) -> None:
        if metadata.get(
            "assign_to_params_buffers"
        ):  # what was made on the meta device gets memory only now
            self._give_memory([v.device for key, v in state_dict.items() if key.startswith(prefix)])
        self.fill_buffers()
        *_, errors = lists
        for name in self.prior_buffers:
            own, found = getattr(self, name), state_dict.get(prefix + name)
            if found is None or own.is_meta:
                continue
            if not _alike(own, found):
                errors.append(
                    f"{prefix + name}: expected that of the layer's own prior, {getattr(self, 'prior', None)!r}, "
                    "found that of another prior, or of the same with another gain or other fractions"
                )
            state_dict[prefix + name] = own.detach()  # the other may have been through half precision
        super()._load_from_state_dict(state_dict, prefix, metadata, strict, *lists)


def _alike(a: Tensor, b: Tensor) -> bool:
    """Equal up to two roundings to bfloat16, which keeps 8 bits."""
    if a.shape != b.shape:
        return False
    a, b = (t.detach().cpu().double() for t in (a, b))  # some devices have no float64
    return bool(((a - b).abs() <= 0.01 * a.abs() + 1e-5 * a.abs().max()).all())
