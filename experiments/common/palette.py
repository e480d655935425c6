"""One colour a method, space, engine and package, in every picture of every report."""

from __future__ import annotations

import zlib

# Told apart by people who see fewer colours, on white and on black: Okabe & Ito's, and shades of them for relatives.
_FAMILIES = {
    "#d55e00": ("klein", "klein bottle", "klein-3x3"),
    "#882255": ("klein-natural", "klein-natural-3x3", "klein-residual"),
    "#f4a582": ("klein-fixed", "vi-last"),
    "#7f2704": ("klein-ensemble",),
    "#cc79a7": ("torus", "torus-3x3"),
    "#8856a7": ("projective", "projective plane", "rotations", "hmc"),
    "#999933": ("sphere", "moebius", "circle", "circle-3x3", "vi-cold"),
    "#009e73": ("plane", "euclidean", "euclidean-3x3"),
    "#44aa99": ("linear", "natural"),
    "#0072b2": ("gaussian", "baoab-short", "baoab-half"),
    "#56b4e9": ("twin", "correlated-gaussian", "sghmc"),
    "#332288": ("laplace", "bayesian-torch", "bayesian-torch reparameterization", "laplace-last"),
    "#6699cc": ("student-t", "scale-mixture"),
    "#e69f00": ("blitz", "blitz-mixture", "blitz bayesianconv2d", "vi", "vi-early", "vi-from-map"),
    "#777777": ("deterministic", "nn.conv2d", "map"),
    "#222222": ("ensemble", "reference"),
    "#117733": ("klein-start", "torch-uncertainty", "torch-uncertainty bayesconv2d"),
}
_COLOURS = {name: colour for colour, names in _FAMILIES.items() for name in names}


def colour(name: object) -> str:
    """Of a method by its name; what stands behind a comma or a blank of topoprior's own names does not change it.

    Example:
        >>> colour("Klein bottle") == colour("klein, own start") == colour("topoprior klein-3x3")
        True
    """
    key = str(name).lower().split(",")[0].removeprefix("topoprior ").strip()
    if key in _COLOURS:
        return _COLOURS[key]
    return list(_FAMILIES)[zlib.crc32(key.encode()) % len(_FAMILIES)]  # the same in every process
