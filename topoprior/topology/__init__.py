"""Which space do data live on, and does a map keep its loops?"""

from topoprior.topology.features import low_harmonics, spectral_features
from topoprior.topology.homology import betti_numbers, betti_reading, farthest_points, persistence
from topoprior.topology.identify import Identification, identify_covering
from topoprior.topology.isometries import isometry_distance
from topoprior.topology.loops import (
    LoopReport,
    deck_element,
    follow_loops,
    generators,
    lift_path,
    path_to,
    shortest_loop,
)
from topoprior.topology.scores import continuity, pairwise_distances, seam_jump, trustworthiness
from topoprior.topology.spectral import Fit, WarmStart, extend, fit_covering, warm_start

__all__ = [
    "Fit",
    "Identification",
    "LoopReport",
    "WarmStart",
    "betti_numbers",
    "betti_reading",
    "continuity",
    "deck_element",
    "extend",
    "farthest_points",
    "fit_covering",
    "follow_loops",
    "generators",
    "identify_covering",
    "isometry_distance",
    "lift_path",
    "low_harmonics",
    "pairwise_distances",
    "path_to",
    "persistence",
    "seam_jump",
    "shortest_loop",
    "spectral_features",
    "trustworthiness",
    "warm_start",
]
