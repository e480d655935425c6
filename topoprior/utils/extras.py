"""Libraries that not everyone needs: asked for when they are used, with the command that brings them."""

from __future__ import annotations

import importlib
from typing import Any


def needed(module: str, what: str, install: str) -> Any:
    """The module of that name.

    Args:
        what: what needs it, for the message.
        install: what pip is to install.

    Raises:
        ImportError: it is missing; the message has the command.

    Example:
        >>> needed("json", "reading", "json").loads("[1]")
        [1]
        >>> needed("no_such_module", "knitting", "'topoprior[wool]'")
        Traceback (most recent call last):
        ImportError: knitting needs no_such_module: pip install 'topoprior[wool]'
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{what} needs {module.partition('.')[0]}: pip install {install}") from error
