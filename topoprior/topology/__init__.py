"""Which space do data live on, and does a map keep its loops?"""

from topoprior.topology.certificate import Certificate, Complex, certify, neighbour_complex
from topoprior.topology.features import low_harmonics, spectral_features
from topoprior.topology.fit import Fit, WarmStart
from topoprior.topology.graph import graph_spectrum
from topoprior.topology.homology import betti_numbers, betti_reading, farthest_points, persistence
from topoprior.topology.identify import Identification, identify_covering
from topoprior.topology.isometries import isometry_distance
from topoprior.topology.loops import LoopReport, follow_loops
from topoprior.topology.scores import continuity, pairwise_distances, seam_jump, trustworthiness
from topoprior.topology.spectral import fit_covering
from topoprior.topology.warm import extend, warm_start

__all__ = [
    "Certificate",
    "Complex",
    "Fit",
    "Identification",
    "LoopReport",
    "WarmStart",
    "betti_numbers",
    "betti_reading",
    "certify",
    "continuity",
    "extend",
    "farthest_points",
    "fit_covering",
    "follow_loops",
    "graph_spectrum",
    "identify_covering",
    "isometry_distance",
    "low_harmonics",
    "neighbour_complex",
    "pairwise_distances",
    "persistence",
    "seam_jump",
    "spectral_features",
    "trustworthiness",
    "warm_start",
]
