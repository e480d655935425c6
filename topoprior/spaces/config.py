"""Spaces as JSON, for checkpoints: a name with its arguments, or the matrices of a group."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from topoprior.spaces.covering import Covering
from topoprior.spaces.flat import named as flat
from topoprior.spaces.flat.manifold import FlatManifold
from topoprior.spaces.product import FlatProduct, Product
from topoprior.spaces.spherical import named as spherical
from topoprior.spaces.spherical.manifold import Sphere, SphericalSpaceForm
from topoprior.utils.checks import check_int
from topoprior.utils.files import CONFIG, CheckpointError

# What a few bytes may ask for: groups are checked by all products of two elements, each a matrix.
_MOST_DIM, _MOST_SHEETS, _MOST_PARTS = 16, 200, 8

_NAMED: dict[str, tuple[type[Covering], dict[str, int]]] = {
    "Circle": (flat.Circle, {}),
    "Cylinder": (flat.Cylinder, {}),
    "Euclidean": (flat.Euclidean, {"dim": _MOST_DIM}),
    "HalfTurnManifold": (flat.HalfTurnManifold, {}),
    "HantzscheWendt": (flat.HantzscheWendt, {}),
    "KleinBottle": (flat.KleinBottle, {"dim": _MOST_DIM}),
    "LensSpace": (spherical.LensSpace, {"p": _MOST_SHEETS, "q": _MOST_SHEETS}),
    "MoebiusBand": (flat.MoebiusBand, {}),
    "RealProjectiveSpace": (spherical.RealProjectiveSpace, {"dim": _MOST_DIM}),
    "RotationGroup": (spherical.RotationGroup, {}),
    "Sphere": (Sphere, {"dim": _MOST_DIM}),
    "Torus": (flat.Torus, {"dim": _MOST_DIM}),
}


def covering_to_config(space: Covering) -> dict[str, Any]:
    """A JSON description from which :func:`covering_from_config` rebuilds the space.

    A class of one's own below `FlatManifold` or `SphericalSpaceForm` is described by its group.

    Raises:
        TypeError: a space of another kind.

    Example:
        >>> covering_to_config(flat.KleinBottle(3))
        {'name': 'KleinBottle', 'dim': 3}
    """
    for name, (kind, arguments) in _NAMED.items():
        if type(space) is kind:
            return {"name": name, **{argument: getattr(space, argument) for argument in arguments}}
    if isinstance(space, Product | FlatProduct):
        return {"name": "Product", "parts": [covering_to_config(part) for part in space.parts]}
    if isinstance(space, FlatManifold):
        holonomy = zip(space.linear.tolist(), space.shift.tolist(), strict=True)
        lattice = space.lattice.tolist()
        return {"name": "FlatManifold", "lattice": lattice, "holonomy": [[a, t] for a, t in holonomy]}
    if isinstance(space, SphericalSpaceForm):
        return {"name": "SphericalSpaceForm", "elements": space.elements.tolist()}
    raise TypeError(
        f"covering: only flat, spherical spaces and their products can be saved, found {space!r}"
    )


def covering_from_config(config: Mapping[str, Any]) -> Any:
    """Rebuild a space.

    Raises:
        CheckpointError: the description is none of a space, or of one beyond the format's bounds: 16
            dimensions, 200 sheets, 8 factors.
    """
    try:
        return _built(config)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, CheckpointError):
            raise
        found = repr(config)
        found = found if len(found) < 200 else found[:200] + "..."
        raise CheckpointError(f"{CONFIG}: unusable covering {found} ({error})") from None


def _built(config: Mapping[str, Any]) -> Covering:
    rest = dict(config)
    name = rest.pop("name")
    if name in _NAMED:
        kind, bounds = _NAMED[name]
        dim = rest.pop("dim", None) if "dim" not in bounds else None  # files from before have it everywhere
        _check_keys(rest, bounds)
        arguments = {key: check_int(key, rest[key]) for key in bounds}
        for key, most in bounds.items():
            if arguments[key] > most:
                raise ValueError(f"{key}: expected at most {most}, found {arguments[key]}")
        space = kind(**arguments)
        if dim not in (None, space.dim):
            raise ValueError(f"dim: {name} has {space.dim}, found {dim!r}")
        return space
    if name == "Product":
        _check_keys(rest, ["parts"])
        if not 1 <= _num_parts(config) <= _MOST_PARTS:
            raise ValueError(f"parts: expected 1 to {_MOST_PARTS}")
        parts = [_built(part) for part in rest["parts"]]
        if sum(part.dim for part in parts) > _MOST_DIM:
            raise ValueError(f"parts: expected at most {_MOST_DIM} dimensions")
        if math.prod(part.num_sheets for part in parts) > _MOST_SHEETS:
            raise ValueError(f"parts: expected at most {_MOST_SHEETS} sheets")
        return Product(*parts)
    if name == "FlatManifold":
        _check_keys(rest, ["lattice", "holonomy"])
        _check_matrices([rest["lattice"], *(a for a, _ in rest["holonomy"])])
        _check_matrices([[t] for _, t in rest["holonomy"]])
        return FlatManifold(rest["lattice"], rest["holonomy"])
    if name == "SphericalSpaceForm":
        _check_keys(rest, ["elements"])
        _check_matrices(rest["elements"])
        return SphericalSpaceForm(rest["elements"])
    known = sorted([*_NAMED, "FlatManifold", "Product", "SphericalSpaceForm"])
    raise CheckpointError(f"{CONFIG}: unknown covering {str(name)[:100]!r}, expected one of {known}")


def _num_parts(config: Any) -> int:
    parts = config.get("parts")
    return sum(map(_num_parts, parts)) if isinstance(parts, list) else 1


def _check_keys(found: Mapping[str, Any], expected: Any) -> None:
    if set(found) != set(expected):
        raise ValueError(f"expected the fields {sorted(expected)}, found {sorted(map(str, found))[:10]}")


def _check_matrices(matrices: Any) -> None:
    if not isinstance(matrices, list) or len(matrices) > _MOST_SHEETS + 1:
        raise ValueError(f"expected a list of at most {_MOST_SHEETS} matrices")
    for matrix in matrices:
        if not isinstance(matrix, list) or len(matrix) > _MOST_DIM + 1:
            raise ValueError(f"expected matrices of at most {_MOST_DIM} dimensions, as lists of rows")
        for row in matrix:
            if not isinstance(row, list) or len(row) > _MOST_DIM + 1:
                raise ValueError(f"expected matrices of at most {_MOST_DIM} dimensions, as lists of rows")
            if not all(type(x) in (int, float) for x in row):
                raise ValueError("expected matrices of numbers")
