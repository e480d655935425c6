"""Training of a CoveringVAE: spectral warm start, gentle start, coverage, early stopping, resuming."""

from __future__ import annotations

import contextlib
import io
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm.auto import tqdm

from topoprior.checkpoints import CheckpointError, write_atomically
from topoprior.coverings import FlatManifold
from topoprior.harmonics import Harmonics
from topoprior.low_harmonics import spectral_features
from topoprior.spectral import Fit, WarmStart, extend, warm_start
from topoprior.vae import CoveringVAE

_REGRESSION_BATCH, _REGRESSION_STEPS, _REGRESSION_DATA = 256, 1000, 8000
_REGRESSION_SHARE = 0.2  # of the data that training sees, at most this much is seen before
_WRONG = 0.6  # a warm start that fits worse than this is not used


class History(NamedTuple):
    """Negative ELBO per example (nats) after every epoch, and how well the warm start fitted.

    ``fit`` holds the numbers of :class:`~topoprior.spectral.Fit`; ``residual`` the
    first of them; None without a warm start.
    """

    train: list[float]
    validation: list[float]
    residual: float | None
    fit: dict[str, float] | None = None


def fit(
    vae: CoveringVAE,
    x: Tensor,
    *,
    validation: Tensor | None = None,
    epochs: int = 50,
    batch_size: int = 256,
    learning_rate: float = 1e-3,
    warm: bool = True,
    coverage: float = 30.0,
    patience: int | None = None,
    precision: torch.dtype | None = None,
    seed: int | None = None,
    checkpoint: Path | str | None = None,
    progress: bool = True,
) -> History:
    """Maximize the ELBO of ``vae`` on ``x`` (N, *data_shape) with Adam; the best state is kept.

    Three things keep the encoder in the right homotopy class: the spectral warm start (regression of the
    encoder's features on those of landmarks and their neighbours), a learning rate that starts gently, and
    for the first half of training a coverage term, ``coverage`` times the squared mean of the lowest
    harmonics over the batch. It vanishes when the aggregate posterior is uniform: a maximum mean discrepancy.

    Uses torch's global random state. The state with the best validation ELBO (training ELBO without
    ``validation``) is restored at the end. Data may stay on the CPU while the model is elsewhere.

    Args:
        patience: stop after so many epochs without improvement; default never.
        warm: do the warm start (not on Euclidean space).
        precision: dtype of the networks' arithmetic in training, such as ``torch.bfloat16``: twice as
            fast on processors that have it; validation and the result are in the model's own.
        seed: calls `torch.manual_seed` first.
        checkpoint: a file that is rewritten after every epoch. If it is there, training goes on from it
            to the same numbers as without the interruption.

    Raises:
        ValueError: an argument out of range, or a checkpoint of another training.
        CheckpointError: a damaged checkpoint.
    """
    for name, value in (("epochs", epochs), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{name}: expected at least 1, found {value}")
    if seed is not None:
        torch.manual_seed(seed)
    settings = {
        "space": repr(vae.covering),
        "data": [*x.shape, round(x.double().sum().item(), 6)],
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "warm": warm,
        "coverage": coverage,
        "precision": str(precision),
        "seed": seed,
    }
    run = _Run(vae, settings, epochs * math.ceil(len(x) / batch_size), learning_rate)
    path = None if checkpoint is None else Path(checkpoint)
    resumed = path is not None and path.exists()
    if path is not None and resumed:
        run.load(path)
    elif warm and not _is_euclidean(vae):
        with _precision(vae, precision):
            run.fit = _warm(vae, x, epochs)
    spread = _spread(vae) if coverage else None

    total_epochs = range(len(run.train), epochs)
    bar = tqdm(
        total_epochs,
        desc=f"VAE on {vae.covering!r}",
        initial=len(run.train),
        total=epochs,
        disable=not progress,
        unit="epoch",
    )
    for epoch in bar:
        if run.is_over(patience):
            break
        weight = coverage * max(0.0, 1 - 2 * epoch / epochs)
        with _precision(vae, precision):
            run.train.append(_epoch(vae, x, batch_size, run, spread if weight else None, weight))
        if validation is not None:
            run.validation.append(negative_elbo(vae, validation, num_samples=1))
        run.keep_best()
        bar.set_postfix(negative_elbo=f"{(run.validation or run.train)[-1]:.3f}")
        if path is not None:
            run.save(path)
    if run.best_state is not None:
        vae.load_state_dict(run.best_state)
    return History(run.train, run.validation, None if run.fit is None else run.fit["residual"], run.fit)


def _epoch(
    vae: CoveringVAE,
    x: Tensor,
    batch_size: int,
    run: _Run,
    spread: Callable[[Tensor], Tensor] | None,
    weight: float,
) -> float:
    device = next(vae.parameters()).device
    total = torch.zeros((), device=device)
    for rows in torch.randperm(len(x)).split(batch_size):
        elbo, z = vae.elbo_and_draws(x[rows.to(x.device)].to(device))
        loss = -elbo.value.mean()
        if spread is not None:
            loss = loss + weight * spread(z[0]).mean(0).square().sum()
        run.optimizer.zero_grad()
        loss.backward()
        run.optimizer.step()
        run.schedule.step()
        total -= elbo.value.detach().sum()
    return total.item() / len(x)


class _Run:
    """All that changes during training, to save and to restore."""

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
        return patience is not None and len(self.scores) - 1 - self.best_epoch >= patience > 0

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


@contextlib.contextmanager
def _precision(vae: CoveringVAE, precision: torch.dtype | None) -> Any:
    before = vae.precision
    vae.precision = precision or before
    try:
        yield
    finally:
        vae.precision = before


def _is_euclidean(vae: CoveringVAE) -> bool:
    return isinstance(vae.covering, FlatManifold) and vae.covering.rank == 0


def _spread(vae: CoveringVAE) -> Callable[[Tensor], Tensor] | None:
    """The harmonics whose means over the data should vanish."""
    space = vae.covering
    if _is_euclidean(vae):
        return None
    if isinstance(space, FlatManifold) and space.rank < space.dim:
        return Harmonics(space, 1 + 2 * space.rank).select(slice(1, None))
    return spectral_features(space).features


def _warm(vae: CoveringVAE, x: Tensor, epochs: int) -> dict[str, float]:
    start = warm_start(x, vae.covering, open_scale=vae.prior_scale)
    numbers: Fit = start.fit
    if numbers.mismatch < _WRONG:
        share = _REGRESSION_SHARE * epochs * len(x) / _REGRESSION_BATCH
        steps = max(400, min(_REGRESSION_STEPS, round(share)))
        _regress(vae, x, extend(x, start, vae.covering, min(len(x), _REGRESSION_DATA)), steps)
    return {name: value for name, value in numbers._asdict().items() if name != "latents"}


def _regress(vae: CoveringVAE, x: Tensor, start: WarmStart, steps: int) -> None:
    """Pretrain: the encoder to emit the embedded latents, the decoder to read them."""
    device = next(vae.parameters()).device
    data, latents = x[start.rows].to(device), start.latents.to(device)
    target = vae.covering.embed(latents)
    networks = [*vae.encoder.parameters(), *vae.decoder.parameters()]
    optimizer = torch.optim.Adam(networks, lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        rows = torch.randint(len(data), (min(_REGRESSION_BATCH, len(data)),)).to(device)
        error = (vae.encoder_features(data[rows]) - target[rows]).square().mean()
        # The two terms share no parameters, so their balance does not matter to Adam.
        loss = error - vae.log_likelihood(data[rows], latents[rows]).mean() / x[0].numel()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


@torch.no_grad()
def negative_elbo(vae: CoveringVAE, x: Tensor, *, num_samples: int = 4, batch_size: int = 1024) -> float:
    """Mean negative ELBO of ``x`` per example, in nats."""
    device = next(vae.parameters()).device
    parts = [vae.elbo(part.to(device), num_samples).value.sum() for part in x.split(batch_size)]
    return -torch.stack(parts).sum().item() / len(x)
