"""The state of a training: optimizer, schedule, best model, and the file it is saved to after every epoch."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from topoprior.utils.files import CheckpointError, check_writable, pack, read_file, unpack, write_atomically
from topoprior.vae.model import CoveringVAE

FORMAT = "topoprior.Training/1"
_SLACK = 1 << 24  # bytes of a checkpoint that are not the model's: losses, configuration


class Run:
    """All that changes during training, to save and to restore.

    Args:
        settings: what decides the numbers, by name; a checkpoint of other settings is refused.
        steps: of the whole training.
    """

    def __init__(
        self, vae: CoveringVAE, settings: dict[str, Any], steps: int, learning_rate: float
    ) -> None:
        self.vae, self.steps = vae, steps
        self.settings = {name: _plain(value) for name, value in settings.items()}
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
        self.fit: dict[str, Any] | None = None
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

    # --- the file --------------------------------------------------------------------------------

    def save(self, path: Path) -> None:
        """Write all to ``path``, in one step."""
        config = {
            "format": FORMAT,
            "settings": self.settings,
            "steps": self.schedule.last_epoch,
            "best_epoch": self.best_epoch,
            "fit": self.fit and {name: _to_json(value) for name, value in self.fit.items()},
        }
        tensors = {f"vae.{name}": value for name, value in self.vae.state_dict().items()}
        tensors |= {f"best.{name}": value for name, value in (self.best_state or {}).items()}
        for name, parameter in self.vae.named_parameters():
            state = self.optimizer.state[parameter]
            tensors |= {f"{moment}.{name}": state[moment] for moment in _MOMENTS}
        tensors |= {name: torch.tensor(getattr(self, name), dtype=torch.float64) for name in _LOSSES}
        tensors["random"] = torch.get_rng_state()
        if torch.cuda.is_available():
            for i, state in enumerate(torch.cuda.get_rng_state_all()):
                tensors[f"random_cuda.{i}"] = state
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, pack(config, tensors))

    def resume(self, path: Path) -> bool:
        """Go on from ``path`` if it is there; whether it was.

        Raises:
            ValueError: it cannot be written to, or is of another training or model.
            CheckpointError: damaged, or not a checkpoint; the model is as it was.
        """
        check_writable(path.parent, "checkpoint")
        if not os.path.lexists(path):
            return False
        self.load(path)
        return True

    def load(self, path: Path) -> None:
        """Restore what :meth:`save` wrote; all of it is checked against the model before any of it is used."""
        size = sum(value.numel() * value.element_size() for value in self.vae.state_dict().values())
        data = read_file(path, 8 * size + _SLACK)
        if data[:2] in (b"PK", b"\x80\x02"):
            raise CheckpointError(f"{path}: is of torch.save, not of this version of fit; remove it")
        config, tensors, _ = unpack(data, path)
        if config is None or config.get("format") != FORMAT:
            raise CheckpointError(f"{path}: damaged or not a training checkpoint")
        self._check_settings(config.get("settings"), path)
        try:
            state = self._checked(config, tensors, path)
        except _Wrong as error:
            raise CheckpointError(f"{path}: damaged or not a training checkpoint ({error})") from None
        self._use(config, state)

    def _check_settings(self, settings: Any, path: Path) -> None:
        if not isinstance(settings, dict):
            raise CheckpointError(f"{path}: damaged or not a training checkpoint (settings)")
        for name, value in self.settings.items():
            if settings.get(name) != value:
                raise ValueError(
                    f"checkpoint: {path} is of a training with {name} = {repr(settings.get(name))[:200]}, "
                    f"this one has {value!r}; remove it or choose another"
                )

    def _checked(self, config: dict[str, Any], tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
        """``tensors``, each of the name, shape and dtype that this training gives it."""
        model = self.vae.state_dict()
        _check_architecture(model, tensors, path)
        epochs = _whole(config, "steps") * self.settings["epochs"] // self.steps
        if not 1 <= epochs <= self.settings["epochs"]:
            raise _Wrong(f"steps = {config['steps']}")
        if config["steps"] * self.settings["epochs"] != epochs * self.steps:
            raise _Wrong(f"steps = {config['steps']}, not those of whole epochs")
        expected = {f"{part}.{name}": value for part in ("vae", "best") for name, value in model.items()}
        for name, parameter in self.vae.named_parameters():
            expected |= {f"{moment}.{name}": parameter for moment in _MOMENTS}
        held_out = self.settings["validation"] != "none"
        expected["train"] = torch.empty(epochs, dtype=torch.float64)
        expected["validation"] = torch.empty(epochs if held_out else 0, dtype=torch.float64)
        expected["random"] = torch.get_rng_state()
        devices = {name: value for name, value in tensors.items() if name.startswith("random_cuda.")}
        if names := (expected.keys() ^ tensors.keys()) - devices.keys():
            raise _Wrong(f"{min(names)[:80]!r} is {'missing' if min(names) in expected else 'unknown'}")
        for name, like in expected.items():
            found = tensors[name]
            if found.shape != like.shape or found.dtype != like.dtype:
                raise _Wrong(
                    f"{name}: expected {tuple(like.shape)} of {like.dtype}, found {tuple(found.shape)} of {found.dtype}"
                )
            if found.is_floating_point() and not torch.isfinite(found).all():
                raise _Wrong(f"{name}: NaN or infinity")
            if name.startswith("exp_avg_sq.") and (found < 0).any():
                raise _Wrong(f"{name}: a mean of squares below 0")
        scores = tensors["validation" if held_out else "train"].tolist()
        if _whole(config, "best_epoch") != scores.index(min(scores)):
            raise _Wrong(f"best_epoch = {config['best_epoch']}")
        _check_fit(config.get("fit"))
        _check_random(tensors["random"], torch.Generator())
        if len(devices) == torch.cuda.device_count():
            for i in range(len(devices)):
                _check_random(devices.get(f"random_cuda.{i}"), torch.Generator(f"cuda:{i}"))
        return tensors

    def _use(self, config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        device = next(self.vae.parameters()).device
        names = list(self.vae.state_dict())
        self.vae.load_state_dict({name: tensors[f"vae.{name}"] for name in names})
        self.best_state = {name: tensors[f"best.{name}"].to(device) for name in names}
        self.schedule.last_epoch = config["steps"]
        (rate,), (shape,) = self.schedule.base_lrs, self.schedule.lr_lambdas
        moments = {
            i: {moment: tensors[f"{moment}.{name}"] for moment in _MOMENTS}
            | {"step": torch.tensor(float(config["steps"]), dtype=torch.float32)}
            for i, (name, _) in enumerate(self.vae.named_parameters())
        }
        groups = self.optimizer.state_dict()["param_groups"]
        groups[0]["lr"] = rate * shape(config["steps"])
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self.train, self.validation = tensors["train"].tolist(), tensors["validation"].tolist()
        self.best_epoch, fit = config["best_epoch"], config["fit"]
        self.fit = fit and {name: _from_json(value) for name, value in fit.items()}
        torch.set_rng_state(tensors["random"])
        devices = [tensors[name] for name in sorted(tensors) if name.startswith("random_cuda.")]
        if devices and len(devices) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all([tensors[f"random_cuda.{i}"] for i in range(len(devices))])


_MOMENTS = ("exp_avg", "exp_avg_sq")  # of Adam
_LOSSES = ("train", "validation")


class _Wrong(ValueError):
    """What is wrong in a checkpoint, without the file's name."""


def _check_architecture(model: dict[str, Tensor], tensors: dict[str, Tensor], path: Path) -> None:
    shapes = {name[4:]: tuple(value.shape) for name, value in tensors.items() if name.startswith("vae.")}
    for name, value in model.items():
        if shapes.get(name) != tuple(value.shape):
            raise ValueError(
                f"checkpoint: {path} is of another architecture, {name} has shape {shapes.get(name)} there "
                f"and {tuple(value.shape)} here; remove it or choose another"
            )
    if extra := shapes.keys() - model.keys():
        raise ValueError(
            f"checkpoint: {path} is of another architecture, with {min(extra)[:80]}; remove it or choose another"
        )


def _check_fit(fit: Any) -> None:
    """None, or plain values by name, one of them the residual, a number."""
    if fit is None:
        return
    residual = fit.get("residual") if isinstance(fit, dict) else None
    if not (isinstance(residual, int | float) or (isinstance(residual, str) and residual in _SPECIAL)):
        raise _Wrong("fit: expected values by name, among them a number, residual")
    for name, value in fit.items():
        if not (value is None or isinstance(value, int | float | str)):
            raise _Wrong(f"fit: {name[:80]} is no plain value")


def _check_random(state: Tensor | None, generator: torch.Generator) -> None:
    try:
        if state is None:
            raise TypeError("one is missing")
        generator.set_state(state)
    except (RuntimeError, TypeError) as error:
        raise _Wrong(f"random state: {str(error).splitlines()[0]}") from None


def _whole(config: dict[str, Any], name: str) -> int:
    value = config.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        raise _Wrong(f"{name}: expected an int, found {repr(value)[:80]}")
    return value


_SPECIAL = ("nan", "inf", "-inf")  # floats that JSON does not have


def _to_json(value: Any) -> Any:
    value = _plain(value)
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _from_json(value: Any) -> Any:
    return float(value) if isinstance(value, str) and value in _SPECIAL else value


def _plain(value: Any) -> Any:
    """Python's number for numpy's, or for a tensor of one element."""
    return value.item() if hasattr(value, "item") else value
