"""Spectral warm start: read a covering space's latents off the data before any training.

An encoder that starts in the wrong homotopy class seldom leaves it. The class can be seen in the data:
the lowest eigenvectors of the Laplacian of a neighbour graph of data on a space span the lowest harmonics
of the space, up to an orthogonal matrix. Finding that matrix, such that the rotated eigenvectors lie on
the space, embedded by its harmonics, gives a lift for every landmark. Four numbers say how well the space
fits, and so whether it was the right one; more starts cure a bad fit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from topoprior.spaces.covering import Covering
from topoprior.topology.features import SpectralFeatures, spectral_features

EXTRA = 3  # eigenvectors to choose from, beyond the number of features
EXPLAINED = 10  # eigenvectors that have to be functions of the latents
_NEIGHBOURS = 4
_PROBES = 200
_COST, _UNEXPLAINED = 0.1, 0.02  # of a fit that is one, at most
_EMPTY = 20.0  # a ball is empty by chance with probability e^-20 where data are uniform
# Successive halving: (starts kept, alternations, rows of data, points of the space).
_PLAN = ((384, 10, 80, 150), (48, 12, 200, 400), (4, 10, 400, 1200))
_BATCH = 1_000_000  # comparisons at a time, to stay in the cache


class Fit(NamedTuple):
    """How data lie on a space; all numbers are 0 at best.

    Attributes:
        latents: lifts (N, cover_dim).
        residual: mean squared distance of the rotated eigenvectors to the space, in units of their variance.
        unexplained: share of the variance of the lowest eigenvectors that the latents do not predict,
            by nearest neighbours: large where different data were put together.
        torn: the same the other way round, share of the variance of the space's features that neighbours
            in the eigenvectors do not predict: large where the map jumps.
        uncovered: share of the space that is empty.
        energy: eigenvalues of the functions used, against the lowest that could have been, minus 1.
    """

    latents: Tensor
    residual: float
    unexplained: float
    torn: float
    uncovered: float
    energy: float

    @classmethod
    def of(cls, numbers: Mapping[str, float]) -> Fit:
        """From what a training keeps of a fit in its history: all but the latents."""
        return cls(torch.empty(0), **numbers)

    @property
    def mismatch(self) -> float:
        """The sum of the last three and half the residual, which a metric unlike the space's raises too:
        below about .1 for the right space and class, more for others."""
        return 0.5 * self.residual + self.unexplained + self.torn + self.uncovered

    @property
    def cost(self) -> float:
        """What decides between fits on one space: the mismatch, and a tenth of the energy."""
        return self.mismatch + 0.1 * self.energy

    @property
    def fits(self) -> bool:
        """Whether the data can be a copy of the space: a cost below .1, at most .02 unexplained.

        Calibrated on 1,000 points in R^20 with 5% noise. Samples of the right space have costs of .00 to .05,
        one in twenty .09, or more where the search fails, and leave .01 to .02 unexplained. Of balls, the
        3-sphere, T^3, SO(3), a cylinder as long as wide, a Moebius band and a figure eight, the best of the
        candidates costs .10 to .80 and leaves .07 to .50 unexplained, or .1 or more of the space uncovered; of
        a Klein bottle the projective plane and the sphere leave .022 and more unexplained.
        What is cut but nearly whole passes: a long cylinder as a torus or a Klein bottle, whose ends meet.
        """
        return self.cost < _COST and self.unexplained <= _UNEXPLAINED


class WarmStart(NamedTuple):
    """Latents of landmarks: ``rows`` (N,) of the data, and their :class:`Fit`."""

    rows: Tensor
    fit: Fit

    @property
    def latents(self) -> Tensor:
        return self.fit.latents

    @property
    def residual(self) -> float:
        return self.fit.residual


def graph_spectrum(x: Tensor, num: int, neighbours: int = 8) -> tuple[Tensor, Tensor]:
    """The first ``num`` non-trivial eigenvectors of the k-NN graph of ``x``, (N, num), and eigenvalues.

    Of the random-walk Laplacian of the symmetrized graph, D^-1/2 v with v those of I - D^-1/2 W D^-1/2;
    centered and scaled to unit variance.

    Raises:
        ValueError: fewer points than neighbours or eigenvectors asked for.
    """
    x = x.flatten(1).double()
    if len(x) <= max(num + 1, neighbours):
        raise ValueError(f"x: expected more than {max(num + 1, neighbours)} points, found {len(x)}")
    distances = torch.cdist(x, x).fill_diagonal_(math.inf)
    nearest = distances.topk(neighbours, largest=False).indices
    weights = torch.zeros(len(x), len(x), dtype=x.dtype, device=x.device).scatter_(1, nearest, 1.0)
    weights = torch.maximum(weights, weights.T)
    root = weights.sum(1).rsqrt()
    values, vectors = torch.linalg.eigh(root[:, None] * weights * root)
    psi = vectors.flip(1)[:, 1 : num + 1] * root[:, None]
    psi = psi - psi.mean(0)
    return psi / psi.std(0, unbiased=False), 1 - values.flip(0)[1 : num + 1]


def graph_eigenvectors(x: Tensor, num: int, neighbours: int = 8) -> Tensor:
    """The eigenvectors of :func:`graph_spectrum`."""
    return graph_spectrum(x, num, neighbours)[0]


def fit_covering(
    psi: Tensor,
    space: Covering,
    *,
    eigenvalues: Tensor | None = None,
    target: float = 0.06,
    rounds: int = 4,
    open_scale: float = 1.0,
) -> Fit:
    """Rotate columns of ``psi`` (N, E), lowest first, onto the embedded space.

    Minimizes E |psi Q - f(x)|^2 / F over points x of the space, one a row, and Q (E, F) with orthonormal
    columns, f the space's F lowest harmonics that embed it. Alternately every row takes its nearest point
    and Q solves the orthogonal Procrustes problem, from many random matrices in one batch. E may exceed
    F: data are rarely isometric to the space, so the wanted functions need not be the first ones; among
    equal fits low eigenvalues win. Repeats until the cost is below ``target``, at most ``rounds`` times.

    Uses torch's global random state.
    """
    target_space = _Target(space, spectral_features(space, open_scale))
    device, psi = psi.device, psi.detach().double().cpu()
    offered = psi[:, : target_space.codes.shape[1] + EXTRA]
    if eigenvalues is None:
        eigenvalues = torch.ones(psi.shape[1])
    energies = eigenvalues.double().cpu()[: offered.shape[1]].clamp_min(1e-9)
    codes = target_space.codes.float()
    best: Fit | None = None
    for _ in range(rounds):
        candidates = _search(offered, codes, energies.float()).float()
        for q in _alternate(candidates, offered.float(), codes, 4).double():
            y = _bend(offered @ q, psi, target_space.codes)
            fit = target_space.judge(psi, y, _energy(q, energies))
            best = fit if best is None or fit.cost < best.cost else best
        assert best is not None
        if best.cost < target:
            break
    assert best is not None
    return best._replace(latents=best.latents.to(device))


def _energy(q: Tensor, energies: Tensor) -> float:
    return ((q.square() @ q.new_ones(q.shape[1])) @ energies / energies[: q.shape[1]].sum() - 1).item()


def _search(psi: Tensor, codes: Tensor, energies: Tensor) -> Tensor:
    """The best matrices found, (S, E, F), best first; ``codes`` are features of points of the space."""

    def ranked(q: Tensor, rows: Tensor, some: Tensor) -> Tensor:
        energy = (q.square().sum(-1) @ energies) / energies[: q.shape[-1]].sum() - 1
        return q[(_nearest(q, rows, some)[1] + 0.02 * energy).argsort()]

    q = torch.randn(_PLAN[0][0], psi.shape[1], codes.shape[1])
    q[: len(q) // 2, codes.shape[1] :] *= 0.1  # half of the starts by the lowest eigenvectors
    q = torch.linalg.qr(q).Q
    for keep, steps, num_rows, num_points in _PLAN:
        rows = psi[torch.randperm(len(psi))[:num_rows]].float()
        some = codes[:num_points]
        q = _alternate(ranked(q, rows, some)[:keep], rows, some, steps)
    return ranked(q, rows, some).double()


def _alternate(q: Tensor, rows: Tensor, codes: Tensor, steps: int) -> Tensor:
    """Nearest points for the matrices, then matrices for the points, ``steps`` times."""
    for _ in range(steps):
        u, _, vh = torch.linalg.svd(rows.T @ _nearest(q, rows, codes)[0], full_matrices=False)
        q = u @ vh
    return q


def _bend(y: Tensor, psi: Tensor, codes: Tensor, steps: int = 6) -> Tensor:
    """Let y (N, F) be any linear combination of all eigenvectors, by least squares: where the metric of the
    data is not the space's, its harmonics are not eigenvectors, but smooth functions still."""
    for _ in range(steps):
        target = codes[torch.cdist(y, codes).argmin(1)]
        y = psi @ torch.linalg.lstsq(psi, target).solution
    return y


def _nearest(q: Tensor, rows: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    """For every matrix and row, the nearest of ``codes`` (S, N, F), and the residual (S,)."""
    targets, residuals = [], []
    # y . c - |c|^2 / 2 is greatest where |y - c| is least.
    against = torch.cat([codes, -0.5 * codes.square().sum(1, keepdim=True)], 1).T.contiguous()
    for part in q.split(max(1, _BATCH // (len(rows) * len(codes)))):
        y = rows @ part
        one = torch.ones_like(y[..., :1])
        target = codes[(torch.cat([y, one], -1) @ against).argmax(-1)]
        targets.append(target)
        residuals.append((y - target).square().mean((-1, -2)))
    return torch.cat(targets), torch.cat(residuals)


class _Target:
    """Points that cover a space, and how well rotated eigenvectors fit it."""

    def __init__(self, space: Covering, known: SpectralFeatures) -> None:
        self.space, self.points = space, known.sample(_PLAN[-1][3])
        self.embed = known.features
        self.codes, self.embedded = self.embed(self.points), space.embed(self.points)
        self.probes = self.codes[:_PROBES]
        self.among = torch.cdist(self.probes, self.codes).sort(1).values[:, 1:]

    def judge(self, psi: Tensor, y: Tensor, energy: float) -> Fit:
        """Latents of y (N, F), weighted means of the nearest points, and how they fit psi (N, E)."""
        near = torch.cdist(y, self.codes).square().topk(6, largest=False)
        weights = (-near.values / near.values[:, 2:3].clamp_min(1e-12)).softmax(-1).unsqueeze(-1)
        latents = self.space.retract((self.embedded[near.indices] * weights).sum(1))
        residual = (near.values[:, 0] / y.shape[1]).mean().item()

        # Distances between features, not points: at the end of an open direction, where the feature is
        # flat, points are known badly.
        first, features = psi[:, :EXPLAINED], self.embed(latents)
        unexplained = _unpredicted(first, torch.cdist(features, features))
        torn = _unpredicted(features, torch.cdist(first, first))

        # The radius of the ball that holds _EMPTY of the data if they are uniform, read off the points.
        count = min(max(1, round(_EMPTY * len(self.points) / len(latents))), self.among.shape[1])
        nearest = torch.cdist(self.probes, features).amin(1)
        uncovered = (nearest > self.among[:, count - 1]).double().mean().item()
        return Fit(latents, residual, unexplained, torn, uncovered, energy)


def _unpredicted(values: Tensor, distances: Tensor) -> float:
    """Share of the variance of ``values`` (N, F) that the mean over nearest neighbours does not predict."""
    nearest = distances.fill_diagonal_(math.inf).topk(_NEIGHBOURS, largest=False).indices
    gap = (values - values[nearest].mean(1)).square().sum() / (values - values.mean(0)).square().sum()
    # The mean of k neighbours has 1 / k of the variance of what is left.
    return gap.item() * _NEIGHBOURS / (_NEIGHBOURS + 1)


def warm_start(
    x: Tensor,
    space: Covering,
    *,
    landmarks: int = 1500,
    neighbours: int = 8,
    open_scale: float = 1.0,
) -> WarmStart:
    """Latents on ``space`` for a random subset of the data ``x`` (N, ...).

    Uses torch's global random state.

    Example:
        >>> import topoprior as tp
        >>> _ = torch.manual_seed(0)
        >>> points = tp.Circle().embed(torch.rand(300, 1))
        >>> warm_start(points, tp.Circle()).residual < 0.02
        True
    """
    index = torch.randperm(len(x))[:landmarks].to(x.device)
    num = max(spectral_features(space, open_scale).num + EXTRA, EXPLAINED)
    psi, eigenvalues = graph_spectrum(x[index], num, neighbours)
    fit = fit_covering(psi, space, eigenvalues=eigenvalues, open_scale=open_scale)
    return WarmStart(index, fit._replace(latents=fit.latents.to(x.dtype)))


def extend(x: Tensor, start: WarmStart, space: Covering, num: int, neighbours: int = 4) -> WarmStart:
    """More latents: those of ``num`` other data, from their nearest landmarks (weights 1 / distance^2)."""
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
