"""Have the chains reached the posterior? Asked of predictions, because coordinates have symmetries."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from topoprior.utils.extras import needed


@dataclass(frozen=True)
class Diagnostics:
    """What :func:`diagnose` finds.

    Attributes:
        r_hat: rank-normalized split r-hat of every predicted number, (batch, classes); 1 where it never moves.
        ess: bulk effective sample size of every predicted number, (batch, classes).
        acceptance, temperature: means over all draws.
        divergences: number over all draws.
    """

    r_hat: Tensor
    ess: Tensor
    acceptance: float
    temperature: float
    divergences: int

    @property
    def converged(self) -> bool:
        """r-hat at most 1.1 and 100 effective draws of all but 1 percent of the predicted numbers, kinetic temperature
        within .05 of 1."""
        fine = (self.r_hat <= 1.1) & (self.ess >= 100)
        return fine.double().mean().item() >= 0.99 and abs(self.temperature - 1) <= 0.05

    def __str__(self) -> str:
        return (
            f"r-hat of predictions: median {self.r_hat.median():.3f}, "
            f"99 percent below {self.r_hat.flatten().quantile(0.99):.3f}, "
            f"largest {self.r_hat.max():.3f}; effective draws: median {self.ess.median():.0f}, "
            f"least {self.ess.min():.0f}; acceptance {self.acceptance:.3f}, kinetic temperature "
            f"{self.temperature:.3f}, {self.divergences} divergences"
        )


def diagnose(predictions: Tensor, stats: Mapping[str, Tensor]) -> Diagnostics:
    """R-hat and effective sample size of predictions.

    A kernel has many names: lifts, the sign of its amplitude, its place among the channels. Two chains that agree on
    every prediction may disagree on all coordinates, so r-hat of coordinates says nothing, and that of predictions what
    matters.

    Args:
        predictions: (chains, draws, ...), such as probabilities; at least 4 draws.
        stats: of :class:`Samples`.

    Raises:
        ValueError: fewer than 4 draws.

    Source: Vehtari et al. 2021 (rank-normalized r-hat), by arviz.
    """
    chains, draws = predictions.shape[:2]
    if draws < 4:
        raise ValueError(f"predictions: expected 4 draws a chain or more, found {draws}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of arviz's next version
        arviz = needed("arviz", "r-hat and effective sample size", "'topoprior[inference]'")

    flat = predictions.detach().double().cpu().flatten(2)
    moving = (flat != flat[:1, :1]).flatten(0, 1).any(0)
    r_hat, ess = (
        torch.ones(flat.shape[2]).double(),
        torch.full((flat.shape[2],), float(chains * draws)).double(),
    )
    if moving.any():
        dataset = arviz.convert_to_dataset({"p": flat[..., moving].numpy()})
        r_hat[moving] = torch.from_numpy(arviz.rhat(dataset, method="rank")["p"].to_numpy().copy())
        ess[moving] = torch.from_numpy(arviz.ess(dataset, method="bulk")["p"].to_numpy().copy())
    shape = predictions.shape[2:]
    return Diagnostics(
        r_hat.view(shape),
        ess.view(shape),
        stats["acceptance"].mean().item(),
        stats["temperature"].mean().item(),
        int(stats["divergences"].sum()),
    )
