"""Kernels to a VAE to a prior."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from topoprior.priors.base import WeightPrior
from topoprior.priors.decoded.euclidean import EuclideanDecoderPrior
from topoprior.priors.decoded.prior import DecoderPrior
from topoprior.spaces.flat.manifold import FlatManifold
from topoprior.utils.checks import check_int, check_positive, check_values
from topoprior.utils.plain import on_cpu
from topoprior.vae.model import CoveringVAE
from topoprior.vae.training import History, fit, negative_elbo

_LEAST = 100  # kernels
_SIMPLIFY = (
    3000  # kernels to simplify the trained decoder on: enough to cover a surface, and seconds of work
)
_MOST_WAVES = 1_000_000  # that a search for the lowest harmonics may look at: seconds, and little memory
_WARM, _DISTILL = (
    750,
    1250,
)  # steps of training that take as long as the warm start, and as the simplification


@on_cpu
def train_prior(
    kernels: Tensor,
    space: FlatManifold,
    *,
    harmonics: int | None = None,
    tolerance: float | None = None,
    epochs: int = 60,
    batch_size: int = 128,
    learning_rate: float = 3e-3,
    restarts: int = 1,
    patience: int | None = None,
    device: torch.device | str | None = None,
    seed: int | None = None,
    checkpoint: Path | str | None = None,
    progress: bool = True,
    log: Callable[[int, dict[str, float]], None] | None = None,
    options: Mapping[str, Any] | None = None,
) -> tuple[WeightPrior, dict[str, Any]]:
    """A prior whose kernels look like ``kernels``: the decoder of a :class:`~topoprior.CoveringVAE` trained on them.

    Kernels are put in random order and scaled to a mean energy of 1. A tenth is held out to say how good the prior
    is; with ``restarts`` or ``patience`` a tenth of the rest to choose by. Uses torch's global random state.

    Args:
        kernels: (N, k, k), at least 100.
        space: of the latents, such as :class:`~topoprior.KleinBottle`: closed and flat, or Euclidean.
        harmonics: that the decoder reads; default 24. Euclidean space has none.
        tolerance: by how much the relative error may grow for a decoder with fewer harmonics; default .001. On closed
            spaces of dimension 1 and 2.
        restarts: train so often, keep the best.
        patience: stop after so many epochs without improvement; default never.
        device: to train on; default a GPU if there is one.
        seed: calls `torch.manual_seed` first.
        checkpoint: a folder; the same call after a kill goes on to the same prior.
        progress: a bar over the whole job.
        log: called after every epoch with its number, over all restarts, and the negative ELBO, for a tracker.
        options: of the prior, such as ``mean_fraction``.

    Returns:
        The prior, :class:`~topoprior.DecoderPrior` or :class:`~topoprior.EuclideanDecoderPrior`; and a record: numbers of
        kernels, negative ELBO in nats and relative errors |w - best| / |w| on held-out kernels.

    Raises:
        TypeError, ValueError: an argument of another kind or out of its range, and it is named.
        CheckpointError: a damaged checkpoint.

    Example:
        >>> import topoprior as tp
        >>> from topoprior.kernels import sample_klein_kernels
        >>> prior, record = train_prior(
        ...     sample_klein_kernels(200)[0], tp.Circle(), harmonics=4, epochs=1, progress=False, seed=0
        ... )
        >>> prior.serves((8, 3, 3, 3)), record["num_train"], record["num_test"]
        (True, 180, 20)
    """
    _check_kernels(kernels)
    _check_space(space)
    for name, number in (("epochs", epochs), ("batch_size", batch_size), ("restarts", restarts)):
        check_int(name, number)
    if patience is not None:
        check_int("patience", patience)
    check_positive("learning_rate", learning_rate)
    harmonics = _harmonics(space, harmonics)
    simplifies = space.rank > 0 and space.dim < 3
    if tolerance is not None and not simplifies:
        raise ValueError("tolerance: is for closed spaces of dimension 1 and 2 only")
    tolerance = check_positive("tolerance", 1e-3 if tolerance is None else tolerance)
    place = _device(device)
    if seed is not None:
        torch.manual_seed(seed)

    kernels = kernels.detach().cpu()[torch.randperm(len(kernels))].float()
    kernels = kernels / kernels.square().sum((1, 2)).mean().sqrt()
    held_out = max(1, len(kernels) // 10)
    data, test = kernels[held_out:], kernels[:held_out]
    validation = len(data) // 10 if restarts > 1 or patience is not None else 0
    steps = math.ceil((len(data) - validation) / batch_size)
    warm = _WARM if space.rank else 0
    bar = tqdm(
        total=restarts * (warm + epochs * steps) + (_DISTILL if simplifies else 0),
        desc=f"prior on {space!r}",
        bar_format="{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}",
        disable=not progress,
    )

    def reached(place: int) -> None:
        bar.update(place - bar.n)

    trials = []
    with bar:
        for restart in range(restarts):
            before = restart * (warm + epochs * steps)
            vae = CoveringVAE(
                space,
                data.shape[1:],
                encoder_hidden=(128, 128),
                decoder_hidden=() if space.rank else (32, 32),
                num_harmonics=harmonics,
                likelihood="gaussian",
            ).to(place, data.dtype)
            history = fit(
                vae,
                data[validation:],
                validation=data[:validation] if validation else None,
                epochs=epochs,
                batch_size=batch_size,
                learning_rate=learning_rate,
                patience=patience,
                checkpoint=None
                if checkpoint is None
                else Path(checkpoint) / f"restart-{restart}.safetensors",
                progress=lambda epoch, before=before: reached(before + warm + epoch * steps),  # type: ignore[misc]
                log=log and (lambda epoch, found, past=restart * epochs: log(past + epoch, found)),  # type: ignore[misc]
            )
            reached(before + warm + epochs * steps)
            trials.append((vae, history))
        vae, history = min(trials, key=lambda trial: min(trial[1].validation or [math.inf]))
        with torch.no_grad():
            prior = _to_prior(vae.cpu(), data, harmonics, tolerance if simplifies else None, options or {})
            record = _record(vae, prior, data, test)
        reached(bar.total)
    return prior, {**record, **_of_trials(trials, history)}


def _check_kernels(kernels: Tensor) -> None:
    if not isinstance(kernels, Tensor):
        raise TypeError(f"kernels: expected a torch.Tensor, found {type(kernels).__name__}")
    if not kernels.is_floating_point():
        raise TypeError(f"kernels: expected floating-point numbers, found {kernels.dtype}")
    if kernels.dim() != 3:
        raise ValueError(f"kernels: expected shape (N, k, k), found {tuple(kernels.shape)}")
    if len(kernels) < _LEAST:
        raise ValueError(f"kernels: expected at least {_LEAST}, found {len(kernels)}")
    check_values("kernels", kernels)
    energy = kernels.float().square().sum((1, 2)).mean().item()
    if not energy or not math.isfinite(energy):
        raise ValueError(
            f"kernels: expected a mean energy |w|^2 that is positive and finite, found {energy}"
        )


def _check_space(space: FlatManifold) -> None:
    if not isinstance(space, FlatManifold):
        raise TypeError(f"space: expected a flat manifold, found {type(space).__name__}")
    if space.rank and (not math.isfinite(space.volume) or space.periods is None):
        raise ValueError(
            f"space: expected a closed one with periods along axes, or Euclidean, found {space!r}"
        )


def _harmonics(space: FlatManifold, count: int | None) -> int:
    """The lowest harmonics are found among all waves of a box, which grows with the power of the dimension."""
    if not space.rank:
        if count is not None:
            raise ValueError("harmonics: is for spaces that have harmonics only")
        return 1
    count = check_int("harmonics", 24 if count is None else count)
    # A ball of this radius holds so many lattice points; harmonics of a quotient are averages of several.
    ball = math.pi ** (space.rank / 2) / math.gamma(space.rank / 2 + 1)
    reach = max(2, math.ceil((space.num_sheets * count / ball) ** (1 / space.rank)))
    waves = (2 * reach + 1) ** space.rank
    if waves > _MOST_WAVES:
        raise ValueError(
            f"harmonics: expected a search among at most {_MOST_WAVES:,} waves, found {waves:,} for {count:,} harmonics "
            f"on {space!r}; choose fewer harmonics or dimensions"
        )
    return count


def _device(device: torch.device | str | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found = torch.device(device)
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("device: expected cpu, as there is no cuda here, found cuda")
    return found


def _to_prior(
    vae: CoveringVAE, data: Tensor, harmonics: int, tolerance: float | None, options: Mapping[str, Any]
) -> Any:
    space = vae.covering
    assert isinstance(space, FlatManifold)
    if not space.rank:
        return EuclideanDecoderPrior.from_vae(vae, **options)
    prior = DecoderPrior.from_decoder(
        vae.decode, space, data.shape[1:], num_harmonics=harmonics + 1, **options
    )
    return prior if tolerance is None else prior.simplified(data[:_SIMPLIFY], tolerance=tolerance)


def _record(vae: CoveringVAE, prior: Any, data: Tensor, test: Tensor) -> dict[str, Any]:
    # What is left of held-out kernels that the prior, with amplitudes of its own, comes nearest to.
    posterior = prior.posterior((len(test), 1, *test.shape[1:]), dtype=torch.float64)
    return {
        "torch": torch.__version__,
        "num_train": len(data),
        "num_test": len(test),
        "test_negative_elbo": negative_elbo(vae, test),
        "test_relative_error": ((vae(test) - test).norm() / test.norm()).item(),
        "test_relative_error_of_prior": posterior.project_(test[:, None].double()).item(),
    }


def _of_trials(trials: list[tuple[CoveringVAE, History]], chosen: History) -> dict[str, Any]:
    return {
        "validation_negative_elbo_of_restarts": [min(h.validation) for _, h in trials if h.validation],
        "warm_start_residual": chosen.residual,
        "objections": chosen.objections,  # to the homotopy class of the encoder; "" if it is certified
    }
