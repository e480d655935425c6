"""Buffers that a module knows from its prior: filled anew, saved, and a state of another prior is refused."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from topoprior.utils.real_module import RealModule


class KnownBuffers(RealModule):
    """A module some of whose buffers are functions of its ``prior``."""

    #: Buffers that are known from the prior. They are saved, so that the state of another prior is refused.
    prior_buffers: tuple[str, ...] = ()
    #: Those of them that states of earlier versions lack.
    newer_buffers: tuple[str, ...] = ()

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
        assigned = metadata.get("assign_to_params_buffers")
        if assigned:  # what was made on the meta device gets memory only now
            here = [v for key, v in state_dict.items() if key.startswith(prefix) and isinstance(v, Tensor)]
            self._give_memory([v.device for v in here])
        self.fill_buffers()
        *_, errors = lists
        for key in (prefix + name for name in (*self._parameters, *self._buffers)):
            found = state_dict.get(key)
            if isinstance(found, Tensor) and not (
                _plain_numbers(found) and (found.is_floating_point() or not assigned)
            ):
                errors.append(f"{key}: expected real numbers, found {found.dtype} ({found.layout})")
        for name in self.prior_buffers:
            own, found = getattr(self, name), state_dict.get(prefix + name)
            if prefix + name not in state_dict and name in self.newer_buffers:
                state_dict[prefix + name] = own.detach()
            if not isinstance(found, Tensor) or own.is_meta or not _plain_numbers(found):
                continue
            if not _alike(own, found):
                errors.append(
                    f"{prefix + name}: expected that of the layer's own prior, {getattr(self, 'prior', None)!r}, "
                    "found that of another prior, or of the same with another gain or other fractions"
                )
            state_dict[prefix + name] = own.detach()  # the other may have been through half precision
        super()._load_from_state_dict(state_dict, prefix, metadata, strict, *lists)


def digits(text: str) -> list[int]:
    """Eight whole numbers below 256 that say which text: every floating-point format keeps them."""
    return list(hashlib.sha256(text.encode()).digest()[:8])


def _plain_numbers(x: Tensor) -> bool:
    """Whether a parameter can be these numbers: torch would drop imaginary parts, and stop at sparse ones."""
    return not (x.is_complex() or x.is_quantized or x.layout != torch.strided)


def _alike(a: Tensor, b: Tensor) -> bool:
    """Equal up to two roundings to bfloat16, which keeps 8 bits."""
    if a.shape != b.shape or b.is_meta:
        return False
    a, b = (t.detach().cpu().double() for t in (a, b))  # some devices have no float64
    return bool(((a - b).abs() <= 0.01 * a.abs() + 1e-5 * a.abs().max()).all())
