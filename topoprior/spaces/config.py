"""Spaces as JSON, for checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from topoprior.spaces.flat.manifold import FlatManifold
from topoprior.spaces.flat.named import Circle, KleinBottle, Torus
from topoprior.utils.files import CONFIG, CheckpointError


def covering_to_config(space: FlatManifold) -> dict[str, Any]:
    """A JSON description from which :func:`covering_from_config` rebuilds the space."""
    name = type(space).__name__
    if name in _NAMED:
        return {"name": name, "dim": space.dim}
    return {
        "name": "FlatManifold",
        "lattice": space.lattice.tolist(),
        "holonomy": [[a, t] for a, t in zip(space.linear.tolist(), space.shift.tolist(), strict=True)],
    }


def covering_from_config(config: Mapping[str, Any]) -> FlatManifold:
    """Rebuild a space; a :class:`CheckpointError` where the description is not one."""
    try:
        if config["name"] in _NAMED:
            return _NAMED[config["name"]](config["dim"])
        if config["name"] == "FlatManifold":
            return FlatManifold(config["lattice"], config["holonomy"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{CONFIG}: unusable covering {config!r} ({error})") from None
    raise CheckpointError(
        f"{CONFIG}: unknown covering {config['name']!r}, expected one of {sorted(_NAMED)}"
    )


_NAMED: dict[str, Any] = {
    "KleinBottle": lambda dim: KleinBottle(),
    "Circle": lambda dim: Circle(),
    "Torus": Torus,
}
