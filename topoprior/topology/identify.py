"""Which space do data live on? The spectral fit of every candidate, side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from topoprior.spaces.covering import Covering
from topoprior.spaces.flat.manifold import FlatManifold
from topoprior.spaces.flat.named import Circle, Euclidean, KleinBottle, Torus
from topoprior.spaces.spherical.manifold import Sphere, SphericalSpaceForm
from topoprior.spaces.spherical.named import RealProjectiveSpace
from topoprior.topology.features import spectral_features
from topoprior.topology.spectral import EXPLAINED, EXTRA, Fit, WarmStart, fit_covering, graph_spectrum
from topoprior.utils.checks import check_data, check_int

_CANDIDATES: dict[str, Callable[[], Covering]] = {
    "circle": Circle,
    "torus": Torus,
    "sphere": lambda: Sphere(2),
    "Klein bottle": KleinBottle,
    "projective plane": lambda: RealProjectiveSpace(2),
    "plane": lambda: Euclidean(2),
}
_CLEAR, _RETRIED = 0.7, 3  # best cost beside the second that ends the search; candidates tried again


def default_candidates() -> dict[str, Covering]:
    """Circle, torus, sphere, Klein bottle, projective plane, and a square patch of the plane."""
    return {name: make() for name, make in _CANDIDATES.items()}


class Identification(NamedTuple):
    """What :func:`identify_covering` found.

    Attributes:
        name: the best candidate, whether or not it fits.
        covering: that space.
        start: landmarks of the data with latents on it.
        fits: the :class:`~topoprior.topology.spectral.Fit` of every candidate, best first.
        conclusive: whether the best one fits, by :attr:`~topoprior.topology.spectral.Fit.fits`; else the data are on none
            of the candidates, or too few or too noisy to tell.
    """

    name: str
    covering: Covering
    start: WarmStart
    fits: dict[str, Fit]

    @property
    def conclusive(self) -> bool:
        return self.fits[self.name].fits

    def __str__(self) -> str:
        """A table of the candidates, and the verdict."""
        lines = [f"{'space':<18} mismatch = residual / 2 + unexplained + torn + uncovered"]
        for name, fit in self.fits.items():
            parts = (
                f"{fit.residual:8.3f}   {fit.unexplained:11.3f}   {fit.torn:4.3f}   {fit.uncovered:9.3f}"
            )
            lines.append(f"{name:<18} {fit.mismatch:8.3f} = {parts}")
        if self.conclusive:
            lines.append(f"The data fit the {self.name}.")
        else:
            lines.append(f"None of these fits the data; the nearest is the {self.name}.")
        return "\n".join(lines)


def identify_covering(
    x: Tensor,
    candidates: Mapping[str, Covering] | None = None,
    *,
    landmarks: int = 1000,
    neighbours: int = 8,
    rounds: int = 4,
) -> Identification:
    """Rank spaces by how well data are a copy of them.

    For each candidate the lowest eigenvectors of a neighbour graph are rotated onto the space; its mismatch
    adds up how far they stay off it, how much of them the points found do not determine, how far the points
    jump between neighbours, and how much of the space is left empty. A torus maps to the circle, a sphere to
    the projective plane, and a circle into the plane: each of these fits one way only, and one number shows it.
    The best one need not fit: see ``conclusive``.

    Args:
        x: data, (N, ...), one connected piece, about evenly spread.
        candidates: names and spaces; default circle, torus, sphere, Klein bottle, projective plane, and a
            square patch of the plane.
        landmarks: how many of the data are used, at random; on a surface 1,000 do.
        rounds: how often the best candidates are tried, unless one is good before.

    Uses torch's global random state.

    Raises:
        TypeError: data that are no floating-point tensor, candidates that are no spaces by name.
        ValueError: no candidates, fewer data than 50 or than neighbours and eigenvectors need, values that are
            not finite, a number below 1.

    Example:
        >>> import topoprior as tp
        >>> _ = torch.manual_seed(0)
        >>> points = tp.Circle().embed(torch.rand(300, 1))
        >>> few = {"circle": tp.Circle(), "plane": tp.Euclidean(2)}
        >>> found = identify_covering(points, few)
        >>> found.name, found.conclusive
        ('circle', True)
    """
    known = default_candidates() if candidates is None else _checked(candidates)
    check_data("x", x)
    for name, number in (("landmarks", landmarks), ("neighbours", neighbours), ("rounds", rounds)):
        check_int(name, number)
    if len(x) < 50:
        raise ValueError(f"x: expected at least 50 data, found {len(x)}")
    index = torch.randperm(len(x))[:landmarks].to(x.device)
    num = max(EXPLAINED, *(spectral_features(space).num + EXTRA for space in known.values()))
    psi, eigenvalues = graph_spectrum(x[index], num, neighbours)
    fits: dict[str, Fit] = {}
    tried = list(known)
    for _ in range(rounds):
        for name in tried:
            fit = fit_covering(psi, known[name], eigenvalues=eigenvalues, rounds=1)
            if name not in fits or fit.cost < fits[name].cost:
                fits[name] = fit
        ranked = sorted(fits, key=lambda name: fits[name].cost)
        good = fits[ranked[0]].fits
        if good and (len(ranked) == 1 or fits[ranked[0]].cost < _CLEAR * fits[ranked[1]].cost):
            break
        # While none fits, the right one may be far behind: its search has failed.
        tried = ranked[:_RETRIED] if good else ranked
    fits = dict(sorted(fits.items(), key=lambda item: item[1].mismatch))
    name, best = next(iter(fits.items()))
    start = WarmStart(index, best._replace(latents=best.latents.to(x.dtype)))
    return Identification(name, known[name], start, fits)


def _checked(candidates: Mapping[str, Covering]) -> dict[str, Covering]:
    if not isinstance(candidates, Mapping):
        raise TypeError(f"candidates: expected names and spaces, found {type(candidates).__name__}")
    if not candidates:
        raise ValueError("candidates: expected at least one space, found none")
    for name, space in candidates.items():
        if not isinstance(space, FlatManifold | SphericalSpaceForm):
            raise TypeError(
                f"candidates: expected flat manifolds or spherical space forms, found {space!r} as {name!r}"
            )
    return dict(candidates)
