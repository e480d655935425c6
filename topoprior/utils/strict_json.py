"""JSON that a stranger wrote, and the error for checkpoints that are not what they should be."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NoReturn

MOST_CONFIG = 100_000  # bytes of JSON
_DEEPEST = 50  # brackets within brackets
_INT_LIMIT = 1 << 64  # torch's seeds are below


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged or of another kind; the message says which file and why."""


def reason(error: Exception) -> str:
    """What an error says, in one short line."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())[:300]  # a stranger's names may be in it


def parse_json(data: bytes | str, where: Path | str, most: int = MOST_CONFIG) -> dict[str, Any]:
    """A JSON object of a stranger: finite numbers, no key twice, not nested beyond reason.

    Raises:
        CheckpointError: anything else; the message begins with ``where``.

    Example:
        >>> parse_json('{"gain": Infinity}', "config.json")
        Traceback (most recent call last):
        topoprior.utils.strict_json.CheckpointError: config.json: not valid JSON (Infinity is no finite number)
    """
    if len(data) > most:
        raise CheckpointError(f"{where}: expected at most {most:,} bytes, found {len(data):,}")
    try:
        text = data if isinstance(data, str) else data.decode()
        _check_depth(text)
        found = json.loads(
            text,
            parse_float=_finite,
            parse_int=_int,
            parse_constant=_not_finite,
            object_pairs_hook=_without_repeats,
        )
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{where}: not valid JSON ({reason(error)})") from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{where}: expected an object, found {type(found).__name__}")
    return found


def _check_depth(text: str) -> None:
    deepest = depth = 0
    for character in text:
        depth += (character in "[{") - (character in "]}")
        deepest = max(deepest, depth)
    if deepest > _DEEPEST:
        raise ValueError(f"nested deeper than {_DEEPEST}")


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _not_finite(text)


def _int(text: str) -> int:
    if len(text) > 21 or abs(int(text)) >= _INT_LIMIT:
        raise ValueError(f"an integer of {len(text)} digits")
    return int(text)


def _not_finite(text: str) -> NoReturn:
    raise ValueError(f"{text[:20]} is no finite number")


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is there twice")
    return found
