"""The priors that are compared under the posterior, and what each is called."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import topoprior as tp


class Row(NamedTuple):
    """A prior of the convolutions, and what it is in the comparison for."""

    words: str
    make: Callable[[], tp.WeightPrior]


def _named(name: str) -> Callable[[], tp.WeightPrior]:
    return lambda: tp.get_prior(name)


PRIORS = {
    "klein-3x3": Row("Klein bottle", _named("klein-3x3")),
    "gaussian": Row("Gaussian, independent weights", _named("gaussian")),
    "twin": Row("Gaussian with Klein's moments", lambda: tp.moment_matched("klein-3x3")),
    "linear": Row("linear decoder, Klein's basis", lambda: tp.linear_decoder("klein-3x3")),
    "torus-3x3": Row("torus", _named("torus-3x3")),
    "correlated-gaussian": Row("Gaussian, neighbours alike", _named("correlated-gaussian")),
    "euclidean-3x3": Row("plane", _named("euclidean-3x3")),
    "circle-3x3": Row("circle", _named("circle-3x3")),
    "klein-natural-3x3": Row("Klein bottle, natural patches", _named("klein-natural-3x3")),
    "student-t": Row("Student t", _named("student-t")),
    "laplace": Row("Laplace", _named("laplace")),
}
