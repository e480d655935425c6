"""Latents of landmarks and of their neighbours: where an encoder starts."""

from __future__ import annotations

import torch
from torch import Tensor

from topoprior.spaces.covering import Covering
from topoprior.topology.certificate import check_latents, dense_rows, neighbour_complex
from topoprior.topology.features import spectral_features
from topoprior.topology.fit import WarmStart
from topoprior.topology.graph import graph_spectrum
from topoprior.topology.spectral import EXPLAINED, EXTRA, fit_covering
from topoprior.utils.checks import check_values, real_tensor
from topoprior.utils.plain import on_cpu


@on_cpu
def warm_start(
    x: Tensor,
    space: Covering,
    *,
    landmarks: int = 1500,
    neighbours: int = 8,
    open_scale: float = 1.0,
    outliers: float = 0.0,
    rounds: int = 20,
) -> WarmStart:
    """Latents on ``space`` for a random subset of the data ``x`` (N, ...), searched for until they are certified.

    Args:
        landmarks: how many of the data.
        neighbours: of the graph whose eigenvectors are used; the certificate has a denser one.
        open_scale: standard deviation of the latents along open directions.
        outliers: leave out this share of them, those that are farthest from their neighbours.
        rounds: searches at most, of about a second each; see :func:`~topoprior.topology.spectral.fit_covering`.

    Uses torch's global random state.

    Raises:
        TypeError: no tensor of real numbers.
        ValueError: NaN or infinity, fewer data than neighbours or eigenvectors need, no share.

    Example:
        >>> import topoprior as tp
        >>> _ = torch.manual_seed(0)
        >>> points = tp.Circle().embed(torch.rand(300, 1))
        >>> start = warm_start(points, tp.Circle())
        >>> start.fit.certified, start.residual < 0.02
        (True, True)
    """
    x = real_tensor("x", x)
    check_values("x", x)
    index = torch.randperm(len(x))[:landmarks].to(x.device)
    index = index[dense_rows(x[index], outliers)]
    marks = x[index]
    num = max(spectral_features(space, open_scale).num + EXTRA, EXPLAINED)
    psi, eigenvalues = graph_spectrum(marks, num, neighbours)
    known = neighbour_complex(marks)
    fit = fit_covering(
        psi, space, eigenvalues=eigenvalues, known=known, rounds=rounds, open_scale=open_scale
    )
    certificate = check_latents(known, fit.latents, space)
    certificate = certificate._replace(defects=index.cpu()[certificate.defects])
    return WarmStart(index, fit._replace(latents=fit.latents.to(x.dtype)), certificate)


@on_cpu
def extend(x: Tensor, start: WarmStart, space: Covering, num: int, neighbours: int = 4) -> WarmStart:
    """More latents: those of ``num`` other data, from their nearest landmarks (weights 1 / distance^2)."""
    x = real_tensor("x", x)
    marks = x[start.rows].flatten(1)
    others = torch.randperm(len(x), device="cpu")[:num].to(x.device)
    codes = space.embed(start.latents)
    found = []
    for part in others.split(2048):
        near = torch.cdist(x[part].flatten(1), marks).topk(neighbours, largest=False)
        weights = 1 / near.values.square().clamp_min(1e-12)
        weights = (weights / weights.sum(1, keepdim=True)).to(codes)
        found.append(space.retract((codes[near.indices] * weights.unsqueeze(-1)).sum(1)))
    rows = torch.cat([start.rows, others])
    return WarmStart(rows, start.fit._replace(latents=torch.cat([start.latents, *found])))
