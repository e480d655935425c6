"""How well data lie on a space: numbers, and whether a certificate says that the class is right."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from topoprior.topology.certificate import Certificate

COST, UNEXPLAINED = 0.1, 0.02  # of a fit that is one, at most
HOPELESS = 0.25  # a cost, after some rounds of search, beside what may be left empty
_OBJECTED = 0.2  # what an objection costs, or that no certificate was made
_EMPTY = 0.5  # of a closed space may be without data, if all its loops are there


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
        defects: triangles of neighbours over which the latents are no continuous map.
        onto: whether the loops of the data reach all loops of the space.
        folded: share of neighbours on the space that are far apart in the data.
        objections: why the class is not known to be right, in words; "" if it is.

    The last four are those of a :class:`~topoprior.topology.certificate.Certificate`, None where none was made.
    """

    latents: Tensor
    residual: float
    unexplained: float
    torn: float
    uncovered: float
    energy: float
    defects: int | None = None
    onto: bool | None = None
    folded: float | None = None
    objections: str | None = None

    @classmethod
    def of(cls, numbers: Mapping[str, Any]) -> Fit:
        """From :attr:`numbers`, which a training keeps in its history: all but the latents."""
        return cls(
            torch.empty(0), **{name: value for name, value in numbers.items() if name in cls._fields}
        )

    @property
    def numbers(self) -> dict[str, Any]:
        """All but the latents, and whether it is certified."""
        rest = {name: value for name, value in self._asdict().items() if name != "latents"}
        return {**rest, "certified": self.certified}

    @property
    def mismatch(self) -> float:
        """The sum of the three middle numbers and half the residual, which a metric unlike the space's raises too:
        below about .1 for the right space, more for others."""
        return 0.5 * self.residual + self.unexplained + self.torn + self.uncovered

    @property
    def cost(self) -> float:
        """What decides between fits on one space: the mismatch, and a tenth of the energy."""
        return self.mismatch + 0.1 * self.energy

    @property
    def certified(self) -> bool:
        """The class is right: the latents are a continuous map of the data that keeps all loops, and fit.

        Fit: a cost below .1, on closed spaces with loops but for what is uncovered, up to a half. Data that crowd in a part of the
        space have a class too, if all loops pass through it, as natural patches do on the Klein bottle. The cost is
        what speaks where there are no loops, and along open directions.
        """
        return self.objections == "" and self.cost - self.uncovered < COST

    @property
    def hopeless(self) -> bool:
        """Whether it costs more than .25 beside what data may leave empty: further rounds of a search seldom help."""
        return self.cost - min(self.uncovered, _EMPTY) > HOPELESS

    @property
    def fits(self) -> bool:
        """Whether the data can be a copy of the space: certified, a cost below .1, at most .02 unexplained.

        Calibrated on 1,000 points in R^20 with 5% noise. Samples of the right space have costs of .00 to .05,
        one in twenty .09, or more where the search fails, and leave .01 to .02 unexplained. Of balls, the
        3-sphere, T^3, SO(3), a cylinder as long as wide, a Moebius band and a figure eight, the best of the
        candidates costs .10 to .80 and leaves .07 to .50 unexplained, or .1 or more of the space uncovered; of
        a Klein bottle the projective plane and the sphere leave .022 and more unexplained.
        """
        return self.certified and self.cost < COST and self.unexplained <= UNEXPLAINED

    def checked(self, certificate: Certificate, closed: bool) -> Fit:
        """The same with what a certificate says, on a space that is ``closed`` or not."""
        objections = certificate.objections
        allowed = closed and certificate.loops
        if self.uncovered and (self.uncovered >= _EMPTY if allowed else self.cost >= COST):
            is_it = self.uncovered >= _EMPTY or self.cost - self.uncovered < COST
            empty = f"the data leave {self.uncovered:.1%} of the space empty"
            objections.append(empty if is_it else self._costs())
        return self._replace(
            defects=len(certificate.defects),
            onto=certificate.onto,
            folded=certificate.folded,
            objections="; ".join(objections),
        )

    @property
    def rank(self) -> tuple[bool, float]:
        """The least is the best: certified ones, then those without objections that do not cost .2 more."""
        return not self.certified, self.cost + (0 if self.objections == "" else _OBJECTED)

    def __str__(self) -> str:
        if self.certified:
            return f"certified, cost {self.cost:.3f}"
        reasons = [self.objections] if self.objections else []
        if self.objections is None:
            reasons.append("no certificate was made")
        if self.cost - self.uncovered >= COST and self._costs() not in (self.objections or ""):
            reasons.append(self._costs())
        return "not certified: " + "; ".join(reasons)

    def _costs(self) -> str:
        return f"the fit costs {self.cost:.2f}, expected below {COST:g}"


class WarmStart(NamedTuple):
    """Latents of landmarks.

    Attributes:
        rows: which of the data (N,).
        fit: latents and numbers.
        certificate: where the latents are torn, if they are.
    """

    rows: Tensor
    fit: Fit
    certificate: Certificate | None = None

    @property
    def latents(self) -> Tensor:
        return self.fit.latents

    @property
    def residual(self) -> float:
        return self.fit.residual
