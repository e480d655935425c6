"""The state of a training: optimizer, schedule, best model, and the file it is saved to after every epoch."""

from __future__ import annotations

import io
import math
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from topoprior.utils.files import CheckpointError, write_atomically
from topoprior.vae.model import CoveringVAE


class Run:
    """All that changes during training, to save and to restore.

    Args:
        settings: what decides the numbers, by name; a checkpoint of other settings is refused.
    """

    def __init__(
        self, vae: CoveringVAE, settings: dict[str, Any], steps: int, learning_rate: float
    ) -> None:
        self.vae, self.settings = vae, settings
        try:
            self.optimizer = torch.optim.Adam(vae.parameters(), lr=learning_rate, fused=True)
        except RuntimeError:  # an older torch, or a device without it
            self.optimizer = torch.optim.Adam(vae.parameters(), lr=learning_rate)
        gentle = max(1, steps // 10)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer,
            lambda step: (
                min(1.0, (step + 1) / gentle) * 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))
                + 1e-3
            ),
        )
        self.train: list[float] = []
        self.validation: list[float] = []
        self.fit: dict[str, float] | None = None
        self.best_epoch = -1
        self.best_state: dict[str, Tensor] | None = None

    @property
    def scores(self) -> list[float]:
        return self.validation or self.train

    def keep_best(self) -> None:
        if self.best_epoch < 0 or self.scores[-1] < self.scores[self.best_epoch]:
            self.best_epoch = len(self.scores) - 1
            self.best_state = {k: v.detach().clone() for k, v in self.vae.state_dict().items()}

    def is_over(self, patience: int | None) -> bool:
        return patience is not None and len(self.scores) - 1 - self.best_epoch >= patience

    def save(self, path: Path) -> None:
        state = {
            "settings": self.settings,
            "vae": self.vae.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.last_epoch,
            "train": self.train,
            "validation": self.validation,
            "fit": self.fit,
            "best_epoch": self.best_epoch,
            "best_state": self.best_state,
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, buffer.getvalue())

    def load(self, path: Path) -> None:
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            settings = state["settings"]
        except (RuntimeError, EOFError, pickle.UnpicklingError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path}: damaged or not a training checkpoint ({error})") from None
        for name, value in self.settings.items():
            if settings.get(name) != value:
                raise ValueError(
                    f"checkpoint: {path} is of a training with {name} = {settings.get(name)!r}, "
                    f"this one has {value!r}; remove it or choose another"
                )
        shapes = {name: tuple(value.shape) for name, value in state["vae"].items()}
        for name, value in self.vae.state_dict().items():
            if shapes.get(name) != tuple(value.shape):
                raise ValueError(
                    f"checkpoint: {path} is of another architecture, {name} has shape {shapes.get(name)} there "
                    f"and {tuple(value.shape)} here; remove it or choose another"
                )
        if extra := shapes.keys() - self.vae.state_dict().keys():
            raise ValueError(
                f"checkpoint: {path} is of another architecture, with {min(extra)}; remove it or choose another"
            )
        self.vae.load_state_dict(state["vae"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.last_epoch = state["schedule"]
        device = next(self.vae.parameters()).device
        self.train, self.validation, self.fit = state["train"], state["validation"], state["fit"]
        self.best_epoch = state["best_epoch"]
        self.best_state = {k: v.to(device) for k, v in state["best_state"].items()}
        torch.set_rng_state(state["random"])
        if state["random_cuda"] and len(state["random_cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["random_cuda"])
