"""The engines that are compared, and all that decides how each is run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from experiments.posteriors import converge, families, methods
from experiments.posteriors.methods import Engine


class Row(NamedTuple):
    """An engine and its settings, which decide the run."""

    words: str
    engine: Engine
    settings: dict[str, Any]


_POINT = {"steps": 600, "lr": 0.02}
_FIT = {"steps": 1000, "lr": 0.02, "map_steps": 600}
_CHAIN = {
    "method": "baoab",
    "energy_error": converge.CHAIN["energy_error"],
    "friction": converge.CHAIN["friction"],
}
REFERENCE = "reference"
ENGINES = {
    REFERENCE: Row("reference: BAOAB, 4 chains of 4,500 gradients", methods.chains,
        {"num_chains": 4, "warmup": 1500, "num_samples": 75, "thinning": 40, **_CHAIN}),
    "baoab-half": Row("BAOAB, half the step, 4 chains of 6,000 gradients", methods.chains,
        {"num_chains": 4, **_CHAIN, **converge.HALF_STEP}),
    "map": Row("MAP (delta), 600 steps", methods.point, {"members": 1, **_POINT}),
    "ensemble": Row("deep ensemble of 5 MAPs", methods.point, {"members": 5, **_POINT}),
    "laplace-last": Row("last-layer Laplace at the MAP", methods.laplace_last, _POINT),
    "vi-early": Row("mean-field VI, stopped after 200 steps", methods.variational, {"steps": 200, "lr": 5e-3}),
    "vi": Row("mean-field VI, 3,000 steps", methods.variational, {"steps": 3000, "lr": 0.01}),
    "natural": Row("mean-field VI by natural gradients, 2,000 steps", methods.natural, {"steps": 2000, "lr": 0.3}),
    "hmc": Row("HMC, dual averaging, 2 chains of 80 trajectories", methods.chains,
        {"method": "hmc", "num_chains": 2, "warmup": 40, "num_samples": 40, "max_steps": 32}),
    "baoab-short": Row("BAOAB, 2 chains of 600 gradients", methods.chains,
        {"num_chains": 2, "warmup": 300, "num_samples": 20, "thinning": 15, **_CHAIN}),
    "sghmc": Row("SGHMC from MAPs, batches of 20, 2 chains of 1,000", methods.sghmc,
        {"num_chains": 2, "steps": 1000, "warmup": 400, "every": 30, "batch": 20, "lr": 0.01, "alpha": 5.0, "map_steps": 600}),
    "vi-last": Row("mean-field last layer, points below, 2,000 steps", methods.variational,
        {"steps": 2000, "lr": 0.01, "only_last": True}),
    **{
        f"vi-{family}": Row(f"{words} from the MAP, 1,000 steps", families.structured, {"family": family, **_FIT})
        for family, words in {
            "mean-field": "mean-field, whitened,", "low-rank": "low rank over all layers,",
            "matrix-normal": "matrix-normal,", "layer-scale": "a scale a layer, mean-field,",
        }.items()
    },
    "vi-cold": Row("mean-field VI at temperature 0.1, 3,000 steps", methods.variational,
        {"steps": 3000, "lr": 0.01, "temperature": 0.1}),
}  # fmt: skip
_COUNTS = ("steps", "warmup", "num_samples", "every", "thinning", "map_steps")


def shortened(settings: Mapping[str, Any], budget: float) -> dict[str, Any]:
    """Every count times ``budget``, at least 4."""
    return {k: max(4, round(v * budget)) if k in _COUNTS else v for k, v in settings.items()}
