"""Where a network is trained: the processor as it is, or what Lightning Fabric drives.

    Hardware()                                             the CPU
    Hardware("cuda")                                       one GPU, without Fabric
    Hardware("cuda", devices=4, precision="bf16-mixed")    Fabric, data-parallel, mixed precision

Lightning is needed for several devices or another precision than 32 bits: pip install "topoprior[fabric]".
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

PRECISIONS = ("32-true", "16-mixed", "bf16-mixed")


@dataclass(frozen=True)
class Hardware:
    """Accelerator (cpu, cuda, mps, auto), how many of them, precision: what a run's result may depend on."""

    accelerator: str = "cpu"
    devices: int = 1
    precision: str = "32-true"

    def __post_init__(self) -> None:
        if self.devices < 1:
            raise ValueError(f"--devices {self.devices}: give at least 1")
        if self.precision not in PRECISIONS:
            raise ValueError(f"--precision {self.precision}: choose one of {', '.join(PRECISIONS)}")

    @property
    def needs_fabric(self) -> bool:
        return self.devices > 1 or self.precision != "32-true"

    @property
    def device(self) -> torch.device:
        """The one on which there is only one process."""
        if self.accelerator != "auto":
            return torch.device(self.accelerator)
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def check(self) -> None:
        """Raises ValueError, in one line, where this machine cannot do it."""
        try:
            torch.zeros(1, device=self.device).cpu()
        except (RuntimeError, AssertionError, NotImplementedError):  # torch raises any of these
            raise ValueError(
                f"--accelerator {self.accelerator}: not on this machine; use auto or cpu"
            ) from None
        if self.device.type == "cuda" and self.devices > torch.cuda.device_count():
            raise ValueError(f"--devices {self.devices}: this machine has {torch.cuda.device_count()} GPUs")
        if self.needs_fabric:
            _fabric_class()


class Driver:
    """What the training loop asks of the hardware; this one is for a single device in 32 bits."""

    rank, world = 0, 1

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def setup(
        self, network: nn.Module, optimizer: torch.optim.Optimizer
    ) -> tuple[Callable[[Tensor], Tensor], Any]:
        """What computes logits, and the optimizer to step. The network itself is changed in place."""
        return network, optimizer

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def autocast(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def share(self, batch: Tensor) -> Tensor:
        """The part of a batch that this process computes; the gradients are averaged over processes."""
        return batch


class FabricDriver(Driver):
    """The same through Lightning Fabric."""

    def __init__(self, fabric: Any) -> None:
        super().__init__(fabric.device)
        self.fabric, self.rank, self.world = fabric, fabric.global_rank, fabric.world_size

    def setup(
        self, network: nn.Module, optimizer: torch.optim.Optimizer
    ) -> tuple[Callable[[Tensor], Tensor], Any]:
        return self.fabric.setup(network, optimizer)

    def backward(self, loss: Tensor) -> None:
        self.fabric.backward(loss)

    def autocast(self) -> AbstractContextManager[Any]:
        return self.fabric.autocast()

    def share(self, batch: Tensor) -> Tensor:
        """Equal parts, so that the average of the parts' means is the mean; at most world - 1 images are left out."""
        size = len(batch) // self.world
        return batch if size == 0 else batch[self.rank * size : (self.rank + 1) * size]


def launch(hardware: Hardware, function: Callable[..., Any], *arguments: Any) -> Any:
    """function(driver, *arguments) in every process that the hardware needs; what the first one returns."""
    if not hardware.needs_fabric:
        return function(Driver(hardware.device), *arguments)
    fabric = _fabric_class()(
        accelerator=hardware.device.type,
        devices=hardware.devices,
        precision=hardware.precision,
        strategy="ddp_spawn" if hardware.devices > 1 else "auto",
    )
    if hardware.devices == 1:
        return function(FabricDriver(fabric), *arguments)
    import cloudpickle

    # As bytes: methods hold functions made by functions, which only cloudpickle can send to another process.
    # What comes back goes through a file of ours: the launcher's pipe would block on anything large.
    sent = cloudpickle.dumps((function, arguments))
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder, "result")
        fabric.launch(_in_process, sent, str(result))
        return cloudpickle.loads(result.read_bytes())


def _in_process(fabric: Any, sent: bytes, path: str) -> None:
    import cloudpickle

    function, arguments = cloudpickle.loads(sent)
    result = function(FabricDriver(fabric), *arguments)
    if fabric.global_rank == 0:
        Path(path).write_bytes(cloudpickle.dumps(result))


def _fabric_class() -> Any:
    try:
        import cloudpickle  # noqa: F401
        from lightning.fabric import Fabric
    except ImportError:
        raise ValueError(
            'several devices and mixed precision need Lightning: pip install "topoprior[fabric]"'
        ) from None
    return Fabric
