"""Training of a CoveringVAE: spectral warm start, gentle start, coverage, early stopping."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm.auto import tqdm

from topoprior.harmonics import Harmonics
from topoprior.spectral import WarmStart, warm_start
from topoprior.vae import CoveringVAE


class History(NamedTuple):
    """Negative ELBO per example (nats) after every epoch, and the warm start's residual (or None)."""

    train: list[float]
    validation: list[float]
    residual: float | None


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
    progress: bool = True,
) -> History:
    """Maximize the ELBO of ``vae`` on ``x`` (N, *data_shape) with Adam; the best state is kept.

    Three things keep the encoder in the right homotopy class: the spectral warm start (regression of the
    encoder's features on those of the landmarks), a learning rate that starts gently, and for the first
    half of training a coverage term, ``coverage`` times the squared mean of the lowest harmonics over
    the batch. It vanishes when the aggregate posterior is uniform: a maximum mean discrepancy.

    Uses torch's global random state. The state with the best validation ELBO (training ELBO without
    ``validation``) is restored at the end.

    Args:
        patience: stop after so many epochs without improvement; default never.
        warm: do the warm start (compact spaces only).
    """
    for name, value in (("epochs", epochs), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{name}: expected at least 1, found {value}")
    compact = math.isfinite(vae.covering.volume)
    start = None
    if warm and compact:
        start = warm_start(x, vae.covering)
        _regress(vae, x, start)
    spread = Harmonics(vae.covering, 1 + 2 * vae.covering.dim).select(slice(1, None)) if compact else None

    optimizer = torch.optim.Adam(vae.parameters(), lr=learning_rate)
    steps = epochs * math.ceil(len(x) / batch_size)
    gentle = max(1, steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(1.0, (step + 1) / gentle) * 0.5 * (1 + math.cos(math.pi * step / steps)) + 1e-3,
    )
    train: list[float] = []
    held_out: list[float] = []
    best, best_state, best_epoch = math.inf, None, 0
    bar = tqdm(range(epochs), desc=f"VAE on {vae.covering!r}", disable=not progress, unit="epoch")
    for epoch in bar:
        weight = coverage * max(0.0, 1 - 2 * epoch / epochs)
        total = 0.0
        for batch in torch.randperm(len(x), device=x.device).split(batch_size):
            elbo = vae.elbo(x[batch])
            loss = -elbo.value.mean()
            if spread is not None and weight:
                q = vae.encode(x[batch])
                loss = loss + weight * spread(q.rsample()).mean(0).square().sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total -= elbo.value.detach().sum().item()
        train.append(total / len(x))
        if validation is not None:
            held_out.append(negative_elbo(vae, validation))
        score = (held_out or train)[-1]
        bar.set_postfix(negative_elbo=f"{score:.3f}")
        if score < best:
            best, best_epoch = score, epoch
            best_state = {name: value.detach().clone() for name, value in vae.state_dict().items()}
        elif patience is not None and epoch - best_epoch >= patience:
            break
    if best_state is not None:
        vae.load_state_dict(best_state)
    return History(train, held_out, None if start is None else start.residual)


def _regress(vae: CoveringVAE, x: Tensor, start: WarmStart, steps: int = 1000) -> None:
    """Pretrain on the landmarks: the encoder to emit their embedded latents, the decoder to read them."""
    data, latents = x[start.rows], start.latents
    target = vae.covering.embed(latents)
    networks = [*vae.encoder.parameters(), *vae.decoder.parameters()]
    optimizer = torch.optim.Adam(networks, lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        rows = torch.randint(len(data), (min(256, len(data)),), device=x.device)
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
    parts = [vae.elbo(part, num_samples).value.sum() for part in x.split(batch_size)]
    return -torch.stack(parts).sum().item() / len(x)
