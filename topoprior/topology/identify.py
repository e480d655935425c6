"""Which space do data live on? The spectral fit of every candidate, side by side; a certificate decides."""

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
from topoprior.topology.certificate import check_latents, neighbour_complex
from topoprior.topology.features import spectral_features
from topoprior.topology.fit import HOPELESS, Fit, WarmStart
from topoprior.topology.graph import graph_spectrum
from topoprior.topology.spectral import EXPLAINED, EXTRA, PATIENCE, fit_covering
from topoprior.utils.checks import check_data, check_int
from topoprior.utils.plain import on_cpu

_CANDIDATES: dict[str, Callable[[], Covering]] = {
    "circle": Circle,
    "torus": Torus,
    "sphere": lambda: Sphere(2),
    "Klein bottle": KleinBottle,
    "projective plane": lambda: RealProjectiveSpace(2),
    "plane": lambda: Euclidean(2),
}
# A space without loops ends the search only by a best cost of so much of the second.
_CLEAR = 0.7
# What is not tried again: after so many rounds what costs more than that; after so many any space without loops.
_FAR, _LOOPLESS = {2: 0.35, PATIENCE: HOPELESS}, 4


def default_candidates() -> dict[str, Covering]:
    """Circle, torus, sphere, Klein bottle, projective plane, and a square patch of the plane."""
    return {name: make() for name, make in _CANDIDATES.items()}


class Identification(NamedTuple):
    """What :func:`identify_covering` found.

    Attributes:
        name: the best candidate, whether or not it fits.
        covering: that space.
        start: landmarks of the data with latents on it.
        fits: the :class:`~topoprior.topology.fit.Fit` of every candidate, best first.
        conclusive: whether the best one is certified and fits, by :attr:`~topoprior.topology.fit.Fit.fits`; else the data are on none
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
        lines = [f"{'space':<18} mismatch = residual / 2 + unexplained + torn + uncovered   certificate"]
        for name, fit in self.fits.items():
            parts = (
                f"{fit.residual:8.3f}   {fit.unexplained:11.3f}   {fit.torn:4.3f}   {fit.uncovered:9.3f}"
            )
            said = "yes" if fit.certified else fit.objections or "fits badly"
            lines.append(f"{name:<18} {fit.mismatch:8.3f} = {parts}   {said}")
        if self.conclusive:
            lines.append(f"The data fit the {self.name}.")
        else:
            lines.append(f"None of these fits the data; the nearest is the {self.name}.")
        return "\n".join(lines)


@on_cpu
def identify_covering(
    x: Tensor,
    candidates: Mapping[str, Covering] | None = None,
    *,
    landmarks: int = 1000,
    neighbours: int = 8,
    rounds: int = 20,
) -> Identification:
    """Rank spaces by how well data are a copy of them.

    For each candidate the lowest eigenvectors of a neighbour graph are rotated onto the space. Certified ones come
    first: those to which the data have a continuous map that reaches all loops, at a cost below .1. A certificate rules
    spaces out by their groups: no map of a torus to a Klein bottle has all loops, and none of a cylinder to a torus,
    however long it is; and by points far apart that come together, as where a Klein bottle is pinched to a projective
    plane. Among them, and where there are no loops, those come first that leave at most .02 unexplained;
    then the mismatch decides. It adds up how far the
    eigenvectors stay off the space, how much of them the points found do not determine, how far the points jump
    between neighbours, and how much of the space is left empty. A torus maps to the circle, a sphere to the
    projective plane, and a circle into the plane: each of these fits one way only, and one number shows it.
    The best one need not fit: see ``conclusive``.

    Args:
        x: data, (N, ...), one connected piece, about evenly spread.
        candidates: names and spaces; default circle, torus, sphere, Klein bottle, projective plane, and a
            square patch of the plane.
        landmarks: how many of the data are used, at random; on a surface 1,000 do.
        rounds: how often candidates are tried, unless one is certified before.

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
    neighbourhood = neighbour_complex(x[index])
    fits: dict[str, Fit] = {}
    tried = list(known)
    for turn in range(1, rounds + 1):
        for name in tried:
            fit = fit_covering(psi, known[name], eigenvalues=eigenvalues, known=neighbourhood, rounds=1)
            if name not in fits or _rank(fit) < _rank(fits[name]):
                fits[name] = fit
        ranked = sorted(fits, key=lambda name: _rank(fits[name]))
        best = ranked[0]
        clear = len(ranked) == 1 or fits[best].cost < _CLEAR * fits[ranked[1]].cost
        if fits[best].fits and (clear or _has_loops(known[best])):
            break
        tried = [
            name
            for name in ranked
            if not fits[name].fits
            and all(turn < after or fits[name].cost < cost for after, cost in _FAR.items())
            and (turn < _LOOPLESS or _has_loops(known[name]))
        ]
        if not tried:
            break
    fits = dict(sorted(fits.items(), key=lambda item: (*_rank(item[1])[:2], item[1].mismatch)))
    name, first = next(iter(fits.items()))
    certificate = check_latents(neighbourhood, first.latents, known[name])
    certificate = certificate._replace(defects=index.cpu()[certificate.defects])
    start = WarmStart(index, first._replace(latents=first.latents.to(x.dtype)), certificate)
    return Identification(name, known[name], start, fits)


def _rank(fit: Fit) -> tuple[bool, bool, float]:
    return not fit.fits, *fit.rank


def _has_loops(space: Covering) -> bool:
    return len(space.deck_group.generators) > 0


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
