"""Spectral warm start: read a covering space's latents off the data before any training.

An encoder that starts in the wrong homotopy class seldom leaves it. The class can be seen in the data:
the lowest eigenvectors of the Laplacian of a neighbour graph of data on a space span the lowest harmonics
of the space, up to an orthogonal matrix. Finding that matrix, such that the rotated eigenvectors lie on
the space, embedded by its harmonics, gives a lift for every landmark. A certificate says whether the class is the
right one, four numbers how well the space fits; more starts cure a bad fit.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from topoprior.spaces.covering import Covering
from topoprior.topology.certificate import Complex, check_latents, neighbour_complex
from topoprior.topology.features import SpectralFeatures, spectral_features
from topoprior.topology.fit import COST, Fit
from topoprior.utils.checks import real_data
from topoprior.utils.plain import on_cpu

EXTRA = 3  # eigenvectors to choose from, beyond the number of features
EXPLAINED = 10  # eigenvectors that have to be functions of the latents
_NEIGHBOURS = 4
_PROBES = 200
_GOOD = 0.06  # cost of a fit where no certificate ends the search: without loops, and along open directions
PATIENCE = 6  # rounds, after which a best fit that is hopeless ends it too
_FEW = 100  # data that can hardly have a certificate
_EMPTY = 20.0  # a ball is empty by chance with probability e^-20 where data are uniform
# Successive halving: (starts kept, alternations, rows of data, points of the space).
_PLAN = ((384, 10, 80, 150), (48, 12, 200, 400), (4, 10, 400, 1200))
_BATCH = 1_000_000  # comparisons at a time, to stay in the cache


@on_cpu
def fit_covering(
    psi: Tensor,
    space: Covering,
    *,
    eigenvalues: Tensor | None = None,
    known: Complex | None = None,
    rounds: int = 20,
    open_scale: float = 1.0,
) -> Fit:
    """Rotate columns of ``psi`` (N, E), lowest first, onto the embedded space.

    Minimizes E |psi Q - f(x)|^2 / F over points x of the space, one a row, and Q (E, F) with orthonormal
    columns, f the space's F lowest harmonics that embed it. Alternately every row takes its nearest point
    and Q solves the orthogonal Procrustes problem, from many random matrices in one batch. E may exceed
    F: data are rarely isometric to the space, so the wanted functions need not be the first ones; among
    equal fits low eigenvalues win.

    Repeats until a fit is certified, at most ``rounds`` times; six times where no fit costs less than .25
    beside what data leave empty, or where a certified one costs more than .1. A third of the rounds succeed on Klein kernels and on Moebius bands, nearly all on tori.

    Args:
        eigenvalues: of the columns, (E,); default all equal.
        known: neighbours and triangles of the data, for the certificate; default those of ``psi``.

    Uses torch's global random state.

    Raises:
        TypeError: no tensor of real numbers.
        ValueError: NaN or infinity, too few rows.
    """
    target_space = _Target(space, spectral_features(space, open_scale))
    psi = real_data("psi", psi)
    if len(psi) <= _NEIGHBOURS:
        raise ValueError(f"psi: expected more than {_NEIGHBOURS} rows, found {len(psi)}")
    device, psi = psi.device, psi.detach().double().cpu()
    known = neighbour_complex(psi[:, :EXPLAINED]) if known is None else known
    loops, closed = len(space.deck_group.generators) > 0, math.isfinite(space.volume)
    offered = psi[:, : target_space.codes.shape[1] + EXTRA]
    if eigenvalues is None:
        eigenvalues = torch.ones(psi.shape[1])
    energies = eigenvalues.double().cpu()[: offered.shape[1]].clamp_min(1e-9)
    codes = target_space.codes.float()
    if len(psi) < _FEW:
        rounds = min(rounds, PATIENCE)
    best: Fit | None = None
    for turn in range(rounds):
        candidates = _search(offered, codes, energies.float()).float()
        found = []
        for q in _alternate(candidates, offered.float(), codes, 4).double():
            y = _bend(offered @ q, psi, target_space.codes)
            found.append(target_space.judge(psi, y, _energy(q, energies)))
        for fit in sorted(found, key=lambda fit: fit.cost):
            if fit.cost - fit.uncovered < COST:
                fit = fit.checked(check_latents(known, fit.latents, space), closed)
            if best is None or fit.rank < best.rank:
                best = fit
            if fit.certified:  # those left cost more
                break
        assert best is not None
        late, good = turn + 1 >= PATIENCE, COST if loops and closed else _GOOD
        if (best.certified and (late or best.cost < good)) or (late and best.hopeless):
            break
    assert best is not None
    if best.defects is None:
        best = best.checked(check_latents(known, best.latents, space), closed)
    return best._replace(latents=best.latents.to(device))


def _energy(q: Tensor, energies: Tensor) -> float:
    return ((q.square() @ q.new_ones(q.shape[1])) @ energies / energies[: q.shape[1]].sum() - 1).item()


def _search(psi: Tensor, codes: Tensor, energies: Tensor) -> Tensor:
    """The best matrices found, (S, E, F), best first; ``codes`` are features of points of the space."""

    def ranked(q: Tensor, rows: Tensor, some: Tensor) -> Tensor:
        energy = (q.square().sum(-1) @ energies) / energies[: q.shape[-1]].sum() - 1
        return q[(_nearest(q, rows, some)[1] + 0.02 * energy).argsort()]

    q = torch.randn(_PLAN[0][0], psi.shape[1], codes.shape[1], dtype=codes.dtype)
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
