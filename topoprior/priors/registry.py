"""Priors by name and from folders."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch

from topoprior.priors.base import Shape, WeightPrior
from topoprior.utils.files import CONFIG, CheckpointError, read_config

_PRIORS: dict[str, Callable[[], WeightPrior]] = {}


def register_prior(name: str, factory: Callable[[], WeightPrior]) -> None:
    """Make ``prior=name`` known to every layer.

    Args:
        name: replaces a prior of this name.
        factory: called without arguments, returns a prior: a class, or a function.

    Raises:
        TypeError: ``name`` is no string, ``factory`` cannot be called, such as a prior instead of its class.
        ValueError: an empty ``name``.

    Example:
        >>> from topoprior import BayesLinear, Laplace
        >>> register_prior("sharp", lambda: Laplace(gain=0.5))
        >>> BayesLinear(4, 2, prior="sharp").prior_name
        'sharp'
        >>> del _PRIORS["sharp"]
    """
    if not isinstance(name, str):
        raise TypeError(f"name: expected a string, found {type(name).__name__}")
    if not name:
        raise ValueError("name: expected a string of a character or more, found ''")
    if not callable(factory):
        raise TypeError(
            f"factory: expected a function or class that makes a prior, found {type(factory).__name__}"
        )
    if isinstance(factory, type) and not issubclass(factory, WeightPrior):
        raise TypeError(f"factory: expected a class of priors, found {factory.__name__}")
    _PRIORS[name] = factory


def prior_names() -> list[str]:
    """Names that :func:`get_prior` knows."""
    return sorted(_PRIORS)


def priors_serving(shape: Shape) -> list[str]:
    """Names of the priors that take weights of ``shape``, for error messages."""
    with torch.device("cpu"):
        return [name for name in prior_names() if _example(_PRIORS[name]).serves(shape)]


@cache
def _example(factory: Callable[[], WeightPrior]) -> WeightPrior:
    """A prior that is asked what it serves and never handed out: reading all that are shipped takes .3 s."""
    return factory()


def get_prior(prior: str | Path | WeightPrior) -> WeightPrior:
    """The prior of a name, of a checkpoint folder, or the prior itself.

    Raises:
        ValueError: unknown name; the message lists the names.
        TypeError: neither a name nor a prior.
    """
    if isinstance(prior, WeightPrior):
        return prior
    if isinstance(prior, type) and issubclass(prior, WeightPrior):
        raise TypeError(
            f"prior: expected a name or a WeightPrior, found the class {prior.__name__}; give {prior.__name__}(...)"
        )
    if not isinstance(prior, str | Path):
        given = f"the class {prior.__name__}" if isinstance(prior, type) else type(prior).__name__
        raise TypeError(f"prior: expected a name or a WeightPrior, found {given}")
    with torch.device(
        "cpu"
    ):  # a prior's few numbers are read while a layer is made, on the meta device too
        if str(prior) in _PRIORS:
            made = _PRIORS[str(prior)]()
            if not isinstance(made, WeightPrior):
                raise TypeError(
                    f"prior: what is registered as {str(prior)!r} makes a {type(made).__name__}, expected a WeightPrior"
                )
            return made
        if prior != "" and Path(prior).is_dir():  # Path("") is the current folder
            return load_prior(prior)
    begins = [name for name in prior_names() if prior != "" and name.startswith(f"{prior}-")]
    close = begins or difflib.get_close_matches(str(prior), prior_names(), n=1)
    hint = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
    if str(prior).count("/") == 1:
        hint += f"a prior of a hub is given as an object, tp.DecoderPrior.from_pretrained({str(prior)!r}); "
    raise ValueError(
        f"prior: {str(prior)!r} is neither a known name nor a checkpoint folder; {hint}"
        f"known names: {', '.join(prior_names())}"
    )


_FORMATS: dict[str, Callable[[Path], WeightPrior]] = {}


def register_format(name: str, load: Callable[[Path], WeightPrior]) -> None:
    """Make :func:`load_prior` read folders whose config.json says ``"format": name``."""
    _FORMATS[name] = load


def load_prior(folder: str | Path) -> WeightPrior:
    """The prior saved in a folder, of whatever class: its config.json says which.

    Raises:
        CheckpointError: a file is missing or damaged, or no class has this format.
    """
    kind = read_config(folder).get("format")
    if not isinstance(kind, str) or kind not in _FORMATS:
        raise CheckpointError(
            f"{Path(folder) / CONFIG}: expected a format of {', '.join(_FORMATS)}, found {kind!r}"
        )
    return _FORMATS[kind](Path(folder))
