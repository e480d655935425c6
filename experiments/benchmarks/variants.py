"""Ways to run a network on a machine: its fastest plain one is what Bayesian layers are compared with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Variant:
    """Layout, precision, and whether torch.compile takes the whole network (on a GPU with CUDA graphs)."""

    name: str
    channels_last: bool = False
    bfloat16: bool = False
    compiled: bool = False

    def prepared(self, net: nn.Module, x: Tensor) -> tuple[Any, Tensor]:
        """The network and its input; gradients and KL are those of the network given, which is changed in place."""
        net = net.to(x.device)
        if self.channels_last:
            net, x = net.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
        mode = "reduce-overhead" if x.is_cuda else None
        return (torch.compile(net, mode=mode) if self.compiled else net), x

    def run(self, function: Callable[..., Any], *arguments: Any, device: torch.device) -> Any:
        with torch.autocast(device.type, torch.bfloat16, enabled=self.bfloat16):
            return function(*arguments)


FLOAT32 = Variant("float32")
VARIANTS = (
    FLOAT32,
    Variant("float32, channels last", channels_last=True),
    Variant("bfloat16, channels last", channels_last=True, bfloat16=True),
    Variant("float32, channels last, torch.compile", channels_last=True, compiled=True),
    Variant("bfloat16, channels last, torch.compile", channels_last=True, bfloat16=True, compiled=True),
)


def available(device: torch.device, compiled: bool) -> list[Variant]:
    """Those that the machine has: bfloat16 where its processor computes with it, ``compiled`` where that is asked for."""
    half = (
        torch.cuda.is_bf16_supported()
        if device.type == "cuda"
        else torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )
    return [v for v in VARIANTS if (half or not v.bfloat16) and (compiled or not v.compiled)]
