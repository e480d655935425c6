"""One text, two forms: markdown beside picture files, and a single HTML page with the pictures in it."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Iterable, Sequence

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; font-size: .85rem; margin: 1rem 0; display: block; overflow-x: auto }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #ddd; text-align: left; white-space: nowrap }
img { max-width: 100% } code { background: #f4f4f4 }
"""


class Document:
    """Built from top to bottom; text may use **bold** and `code`."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.pictures: dict[str, bytes] = {}
        self._markdown = [f"# {title}"]
        self._html = [f"<h1>{_inline(title)}</h1>"]

    def heading(self, text: str, level: int = 2) -> None:
        self._markdown.append(f"{'#' * level} {text}")
        self._html.append(f"<h{level}>{_inline(text)}</h{level}>")

    def text(self, text: str) -> None:
        self._markdown.append(text)
        self._html.append(f"<p>{_inline(text)}</p>")

    def items(self, items: Sequence[str]) -> None:
        if items:
            self._markdown.append("\n".join(f"- {item}" for item in items))
            self._html.append("<ul>" + "".join(f"<li>{_inline(item)}</li>" for item in items) + "</ul>")

    def table(self, rows: Sequence[Sequence[str]]) -> None:
        """The first row is the header."""
        self._markdown.append("\n".join(markdown_table(rows)))
        cells = [[_inline(cell) for cell in row] for row in rows]
        head = "".join(f"<th>{cell}</th>" for cell in cells[0])
        body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in cells[1:])
        self._html.append(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")

    def picture(self, name: str, png: bytes, caption: str) -> None:
        self.pictures[name] = png
        self._markdown += [f"![{name.removesuffix('.png')}]({name})", caption]
        data = base64.b64encode(png).decode()
        self._html.append(
            f'<figure><img alt="{html.escape(caption)}" src="data:image/png;base64,{data}">'
            f"<figcaption>{_inline(caption)}</figcaption></figure>"
        )

    def markdown(self) -> str:
        return "\n\n".join(self._markdown) + "\n"

    def html(self) -> str:
        return (
            f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(self.title)}</title>'
            f"<style>{_STYLE}</style></head><body>\n" + "\n".join(self._html) + "\n</body></html>\n"
        )


def markdown_table(rows: Iterable[Sequence[object]]) -> list[str]:
    """The lines of a table whose first row is the header.

    Example:
        >>> markdown_table([["prior", "NLL"], ["klein", 0.38]])
        ['| prior | NLL |', '| --- | --- |', '| klein | 0.38 |']
    """
    head, *rest = rows
    return [f"| {' | '.join(map(str, row))} |" for row in (head, ["---"] * len(head), *rest)]


def _inline(text: str) -> str:
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))
    return re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", text)
