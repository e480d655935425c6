"""Docstrings as Markdown: formulas, roles, and examples under the name that the reader of docstrings knows."""

import re
from typing import Any

import griffe

_MATH = re.compile(r"^( *)\.\. math:: *(.*?)(?=\n\s*\n|\n?\Z)", re.DOTALL | re.MULTILINE)
_INLINE_MATH = re.compile(r":math:`([^`]*)`")
_ROLE = re.compile(r":(?:class|func|meth|attr|mod|data):`~?(?:[\w.]*\.)?(\w+)`")


def markdown(text: str) -> str:
    text = re.sub(r"^( *)Example:$", r"\1Examples:", text, flags=re.MULTILINE)
    text = _MATH.sub(lambda found: _display(found[1], found[2]), text)
    text = _INLINE_MATH.sub(r"$\1$", text)
    return _ROLE.sub(r"`\1`", text)


def _display(indent: str, formula: str) -> str:
    return f"{indent}$$\n{indent}{' '.join(formula.split())}\n{indent}$$"


class Markdown(griffe.Extension):
    """Called for every object that is read."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = markdown(obj.docstring.value)
