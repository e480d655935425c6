"""Where a network is trained, and in which precision."""

from __future__ import annotations

from dataclasses import dataclass

import torch

PRECISIONS = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Hardware:
    """Device (cpu, cuda, mps, ..., auto: cuda if there is one) and precision of the layers; numbers stay float32."""

    name: str = "cpu"
    precision: str = "float32"

    @property
    def device(self) -> torch.device:
        if self.name != "auto":
            return torch.device(self.name)
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def autocast(self) -> torch.autocast:
        dtype = getattr(torch, self.precision)
        return torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32)

    def scaler(self) -> torch.amp.GradScaler:
        """Keeps small gradients apart from 0 in float16."""
        return torch.amp.GradScaler(self.device.type, enabled=self.precision == "float16")

    def check(self) -> None:
        """Raises ValueError, in one line, where this machine cannot do it."""
        if self.precision not in PRECISIONS:
            raise ValueError(f"--precision {self.precision}: choose one of {', '.join(PRECISIONS)}")
        try:
            torch.zeros(1, device=self.device).cpu()
        except (RuntimeError, AssertionError, NotImplementedError):  # torch raises any of these
            raise ValueError(
                f"--device {self.name}: not on this machine; use --device auto or cpu"
            ) from None
