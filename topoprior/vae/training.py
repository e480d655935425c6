"""Training of a CoveringVAE: spectral warm start, gentle start, coverage, early stopping, resuming."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm.auto import tqdm

from topoprior.spaces.flat.harmonics import Harmonics
from topoprior.spaces.flat.manifold import FlatManifold
from topoprior.topology.certificate import Complex, check_latents, neighbour_complex
from topoprior.topology.features import spectral_features
from topoprior.topology.fit import WarmStart
from topoprior.topology.warm import extend, warm_start
from topoprior.utils.checks import check_data, check_int, check_positive, fingerprint
from topoprior.utils.plain import on_cpu
from topoprior.vae.model import CoveringVAE
from topoprior.vae.run import Run

_REGRESSION_BATCH, _REGRESSION_STEPS, _REGRESSION_DATA = 256, 1000, 8000
_REGRESSION_SHARE = 0.2  # of the data that training sees, at most this much is seen before
_MOST_REGRESSIONS = 3  # of so many steps, until the encoder is certified like its targets
_LEAST_DATA = 100  # for a certificate of the trained encoder
_WRONG = 0.6  # a warm start that fits worse than this is not used


class History(NamedTuple):
    """Negative ELBO per example (nats) after every epoch, and whether the class is known to be right.

    Attributes:
        train, validation: after every epoch.
        residual: of the warm start, the first number of ``fit``; None without a warm start.
        fit: the numbers of the warm start's :class:`~topoprior.topology.fit.Fit`, among them ``certified``, and why not.
        objections: why the trained encoder is not certified, "" if it is: see :meth:`CoveringVAE.certify`. None on
            Euclidean space, and for fewer than 100 data.
    """

    train: list[float]
    validation: list[float]
    residual: float | None
    fit: dict[str, Any] | None = None
    objections: str | None = None

    @property
    def certified(self) -> bool:
        """Whether the trained encoder is."""
        return self.objections == ""


@on_cpu
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
    progress: bool | Callable[[int], None] = True,
    log: Callable[[int, dict[str, float]], None] | None = None,
) -> History:
    """Maximize the ELBO of ``vae`` on ``x`` (N, *data_shape) with Adam; the best state is kept.

    Three things keep the encoder in the right homotopy class: the spectral warm start (regression of the
    encoder's features on those of landmarks and their neighbours, until the encoder is certified as they are), a
    learning rate that starts gently, and for the first half of training a coverage term, ``coverage`` times the squared mean of the lowest
    harmonics over the batch. It vanishes when the aggregate posterior is uniform: a maximum mean discrepancy.

    Warns where the warm start or, at the end, the encoder is not certified: then its homotopy class may be wrong, and
    the history says why.

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
        progress: a bar; or a function that is called with the number of epochs done, at first after the warm start.
        log: called after every epoch with how many are done and what was measured, for a tracker.

    Raises:
        TypeError: data that are no tensor of the model's dtype, a number of another kind.
        ValueError: an argument out of range, data that are empty, of another shape, not finite or (Bernoulli) not
            in [0, 1], or a checkpoint of another training, model or data; the message says which.
        CheckpointError: a damaged checkpoint.
    """
    check_int("epochs", epochs)
    check_int("batch_size", batch_size)
    if patience is not None:
        check_int("patience", patience)
    check_positive("learning_rate", learning_rate)
    check_positive("coverage", coverage, zero=True)
    if precision is not None and not (isinstance(precision, torch.dtype) and precision.is_floating_point):
        raise TypeError(f"precision: expected a floating-point torch.dtype or None, found {precision!r}")
    for name, data in (("x", x), ("validation", validation)):
        if name == "x" or data is not None:
            _check(vae, name, data)
    if seed is not None:
        torch.manual_seed(seed)
    settings: dict[str, Any] = {}
    if checkpoint is not None:  # all that decides the numbers; data are hashed, so not otherwise
        settings = {
            "space": repr(vae.covering),
            "likelihood": vae.likelihood,
            "scale": vae.scale,
            "prior_scale": vae.prior_scale,
            "x": fingerprint(x),
            "validation": fingerprint(validation),
            "epochs": epochs,
            "batch_size": batch_size,
            "learning_rate": learning_rate,
            "warm": warm,
            "coverage": coverage,
            "precision": str(precision),
            "seed": seed,
        }
    run = Run(vae, settings, epochs * math.ceil(len(x) / batch_size), learning_rate)
    path = None if checkpoint is None else Path(checkpoint)
    resumed = path is not None and run.resume(path)
    if warm and not resumed and not _is_euclidean(vae):
        with _precision(vae, precision):
            run.fit = _warm(vae, x, epochs)
    spread = _spread(vae) if coverage else None

    total_epochs = range(len(run.train), epochs)
    bar = tqdm(
        total_epochs,
        desc=f"VAE on {vae.covering!r}",
        initial=len(run.train),
        total=epochs,
        disable=progress is not True,
        unit="epoch",
    )
    for epoch in bar:
        if callable(progress):
            progress(epoch)
        if run.is_over(patience):
            break
        weight = coverage * max(0.0, 1 - 2 * epoch / epochs)
        with _precision(vae, precision):
            run.train.append(_epoch(vae, x, batch_size, run, spread if weight else None, weight))
        if validation is not None:
            run.validation.append(_negative_elbo(vae, validation))
        if log is not None:
            found = {"train": run.train, "validation": run.validation}
            log(
                epoch + 1, {f"negative ELBO/{part}": values[-1] for part, values in found.items() if values}
            )
        run.keep_best()
        bar.set_postfix(negative_elbo=f"{(run.validation or run.train)[-1]:.3f}")
        if path is not None:
            run.save(path)
    if run.best_state is not None:
        vae.load_state_dict(run.best_state)
    residual = None if run.fit is None else run.fit["residual"]
    return History(run.train, run.validation, residual, run.fit, _objections(vae, x))


def _objections(vae: CoveringVAE, x: Tensor) -> str | None:
    """Why the trained encoder is not certified, with a warning."""
    if _is_euclidean(vae) or len(x) < _LEAST_DATA:
        return None
    found = "; ".join(vae.certify(x).objections)
    if found:
        warnings.warn(f"the encoder's map to {vae.covering!r} is not certified: {found}", stacklevel=3)
    return found


def _epoch(
    vae: CoveringVAE,
    x: Tensor,
    batch_size: int,
    run: Run,
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


@contextlib.contextmanager
def _precision(vae: CoveringVAE, precision: torch.dtype | None) -> Any:
    before = vae.precision
    vae.precision = precision or before
    try:
        yield
    finally:
        vae.precision = before


def _is_euclidean(vae: CoveringVAE) -> bool:
    return vae.covering.open_dim == vae.covering.dim


def _spread(vae: CoveringVAE) -> Callable[[Tensor], Tensor] | None:
    """The harmonics whose means over the data should vanish."""
    space = vae.covering
    if _is_euclidean(vae):
        return None
    if isinstance(space, FlatManifold) and space.rank < space.dim:
        return Harmonics(space, 1 + 2 * space.rank).select(slice(1, None))
    return spectral_features(space).features


def _warm(vae: CoveringVAE, x: Tensor, epochs: int) -> dict[str, Any]:
    start = warm_start(x, vae.covering, open_scale=vae.prior_scale)
    if not start.fit.certified:
        warnings.warn(f"the warm start on {vae.covering!r} is {start.fit}", stacklevel=3)
    if start.fit.mismatch < _WRONG:
        share = _REGRESSION_SHARE * epochs * len(x) / _REGRESSION_BATCH
        steps = max(400, min(_REGRESSION_STEPS, round(share)))
        targets = extend(x, start, vae.covering, min(len(x), _REGRESSION_DATA))
        marks = x[start.rows]
        known = neighbour_complex(marks)
        for _ in range(_MOST_REGRESSIONS):
            _regress(vae, x, targets, steps)
            if not start.fit.certified or _certified(vae, marks, known):
                break
    return start.fit.numbers


def _certified(vae: CoveringVAE, x: Tensor, known: Complex) -> bool:
    with torch.no_grad():
        latents = vae.latents(x.to(next(vae.parameters()).device))
    return check_latents(known, latents, vae.covering).certified


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
        loss = error - vae._log_likelihood(data[rows], latents[rows]).mean() / x[0].numel()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


@torch.no_grad()
@on_cpu
def negative_elbo(vae: CoveringVAE, x: Tensor, *, num_samples: int = 4, batch_size: int = 1024) -> float:
    """Mean negative ELBO of ``x`` (N, *data_shape) per example, in nats.

    Raises:
        TypeError, ValueError: as of :func:`fit`.
    """
    check_int("num_samples", num_samples)
    check_int("batch_size", batch_size)
    _check(vae, "x", x)
    return _negative_elbo(vae, x, num_samples, batch_size)


@torch.no_grad()
def _negative_elbo(vae: CoveringVAE, x: Tensor, num_samples: int = 1, batch_size: int = 1024) -> float:
    device = next(vae.parameters()).device
    parts = [
        vae.elbo_and_draws(part.to(device), num_samples)[0].value.sum() for part in x.split(batch_size)
    ]
    return -torch.stack(parts).sum().item() / len(x)


def _check(vae: CoveringVAE, name: str, x: Tensor | None) -> None:
    dtype = next(vae.parameters()).dtype
    check_data(name, x, shape=vae.data_shape, dtype=dtype, unit=vae.likelihood == "bernoulli")
