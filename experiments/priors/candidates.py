"""The settings that `tune.py` tries for a method, stage after stage: as many for every method."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product

from experiments.priors.methods import Settings

_HE_GAIN = math.sqrt(2)
_DECODED = ("klein", "klein-residual", "euclidean-3x3")  # kernels with latents
Stage = Callable[[Settings], list[Settings]]


def stages(profile: str, name: str) -> list[Stage]:
    """Each takes the best settings so far and returns candidates; the numbers are the same for all methods."""
    if profile == "compare":
        first = _rates_and_starts(name, (3e-3, 1e-2, 2e-2), 0.1, (5e-4, 1e-3, 3e-3), (0.01, 0.3, 3.0))
        return [first, _relative_rates(name)]
    if profile.endswith("-full"):
        again: list[Stage] = [_fewer_decays, lambda best: _rates(best, (0.5, 2.0)), _slower_and_faster]
        # The choice it begins with was made for another network.
        return [*again, _slow_convolutions] if "cifar10" in profile else again
    if profile.startswith("bayes"):
        first = _rates_and_starts(
            name, (2e-3, 5e-3, 1e-2), 1.0, (1e-3, 2.5e-3, 5e-3), (2.0, 20.0), (0.03, 0.1)
        )
        return [first, _relative_rates(name), _last_decays(name), _noise_and_scale(name)]
    return [_temperatures(name), _rates]


def _rates_and_starts(
    name: str,
    rates: Sequence[float],
    last_decay: float,
    plain_rates: Sequence[float],
    plain_decays: Sequence[float],
    stds: Sequence[float] = (0.01, 0.03, 0.1),
) -> Stage:
    """Learning rate x std of the posterior at the start (x weight decay where there is no posterior)."""

    def candidates(_: Settings) -> list[Settings]:
        if name == "deterministic":
            return [Settings(r, d) for r, d in product(plain_rates, plain_decays)]
        starts: list[dict[str, float]] = [{"init_scale": s} for s in stds]
        relative = 1.0
        if name in _DECODED:
            latent = {0.01: 0.002, 0.03: 0.005, 0.1: 0.01}
            starts = [{**s, "init_latent_scale": latent[s["init_scale"]]} for s in starts]
            relative = 20.0
        elif name.startswith("blitz"):
            rhos = {0.01: -8.0, 0.03: -6.0, 0.1: -5.0}
            starts = [{"prior_scale": 1.0, "posterior_rho_init": rhos[s]} for s in stds]
        return [
            Settings(rate, last_decay, options, relative_rate=relative)
            for rate, options in product(rates, starts)
        ]

    return candidates


def _relative_rates(name: str) -> Stage:
    """Three: how much faster, or slower, latents (or weights) learn than the last layer does."""
    factors = (5.0, 10.0, 50.0) if name in _DECODED else (0.3, 2.0, 4.0)
    return lambda best: [replace(best, relative_rate=factor) for factor in factors]


def _last_decays(name: str) -> Stage:
    """Three: weight decay of the deterministic weights, which matters more than most choices when data are few."""
    factors = (0.3, 2.0, 4.0) if name == "deterministic" else (3.0, 10.0, 30.0)
    return lambda best: [replace(best, weight_decay=best.weight_decay * factor) for factor in factors]


def _noise_and_scale(name: str) -> Stage:
    """Three: less and more noise at the start, a wider prior (for deterministic weights, the learning rate again)."""

    def candidates(best: Settings) -> list[Settings]:
        if name == "deterministic":
            return _rates(best)
        options = best.options
        if name.startswith("blitz"):  # std = softplus(rho), about exp(rho)
            rho = options["posterior_rho_init"]
            changes = [{"posterior_rho_init": rho + sign * math.log(3)} for sign in (-1, 1)]
            changes.append({"prior_scale": 2 * options["prior_scale"]})
        else:
            stds = [key for key in options if key.startswith("init_")]
            changes = [{key: options[key] * factor for key in stds} for factor in (1 / 3, 3.0)]
            changes.append({"gain": 2 * _HE_GAIN})
        return [replace(best, options={**options, **change}) for change in changes]

    return candidates


def _temperatures(name: str) -> Stage:
    """Four temperatures; where there is none, four weight decays of the last word."""

    def candidates(best: Settings) -> list[Settings]:
        if name == "deterministic":
            return [replace(best, weight_decay=best.weight_decay * f) for f in (0.1, 0.5, 1.0, 2.0)]
        return [replace(best, temperature=t) for t in (0.01, 0.03, 0.1, 0.3)]

    return candidates


def _rates(best: Settings, factors: Sequence[float] = (0.5, 1.5, 2.0)) -> list[Settings]:
    return [replace(best, learning_rate=best.learning_rate * f) for f in factors]


def _fewer_decays(best: Settings) -> list[Settings]:
    """What is best for few images, and weaker weight decay: it acts at every step, and there are more of them."""
    return [replace(best, weight_decay=best.weight_decay * f) for f in (1.0, 0.1, 0.01)]


def _slower_and_faster(best: Settings) -> list[Settings]:
    return [replace(best, relative_rate=best.relative_rate * f) for f in (0.5, 2.0)]


def _slow_convolutions(best: Settings) -> list[Settings]:
    """Three: convolutions that learn slowly beside a last layer that does not, as deep networks want it."""
    rate, relative = best.learning_rate, best.relative_rate
    pairs = ((4 * rate, relative / 8), (2 * rate, relative / 4), (rate, relative / 4))
    return [replace(best, learning_rate=r, relative_rate=share) for r, share in pairs]


def of_network(name: str) -> list[Settings]:
    """Four for every network: two learning rates by two weight decays."""
    options = {
        "klein": {"init_scale": 0.05, "init_latent_scale": 0.005},
        "gaussian": {"init_scale": 0.03},
    }
    rates = (2e-3, 5e-3) if name == "deterministic" else (5e-3, 1e-2)
    return [Settings(rate, decay, options.get(name, {})) for rate, decay in product(rates, (1.0, 5.0))]
