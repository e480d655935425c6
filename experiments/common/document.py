"""A report as markdown beside its pictures. Names that people gave are shown as they are, never as markup."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from topoprior.utils.files import write_atomically


class Document:
    """Built from top to bottom; text may use **bold** and `code`, what a user named goes through :func:`escape`."""

    def __init__(self, title: str) -> None:
        self._parts = [f"# {title}"]
        self.pictures: dict[str, bytes] = {}

    def heading(self, text: str, level: int = 2) -> None:
        self._parts.append(f"{'#' * level} {text}")

    def text(self, text: str) -> None:
        self._parts.append(text)

    def table(self, rows: Iterable[Sequence[object]]) -> None:
        """The first row is the header."""
        self._parts.append("\n".join(markdown_table(rows)))

    def picture(self, name: str, png: bytes, caption: str) -> None:
        self.pictures[name] = png
        self._parts += [f"![{name.removesuffix('.png')}]({name})", caption]

    def pictures_there(self, folder: Path, captions: dict[str, str]) -> None:
        """Pictures that were drawn before, from runs that are no longer there."""
        for name, caption in captions.items():
            if name not in self.pictures and (folder / name).is_file():
                self._parts += [f"![{name.removesuffix('.png')}]({name})", caption]

    @contextmanager
    def folded(self, summary: str) -> Iterator[None]:
        """What is added within shows on a click."""
        self._parts.append(f"<details>\n<summary>{escape(summary)}</summary>")
        yield
        self._parts.append("</details>")

    def markdown(self) -> str:
        return "\n\n".join(self._parts) + "\n"

    def write(self, folder: Path) -> Path:
        """Pictures, then report.md."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.pictures.items():
            write_atomically(folder / name, content)
        write_atomically(folder / "report.md", self.markdown().encode())
        return folder / "report.md"


def markdown_table(rows: Iterable[Sequence[object]]) -> list[str]:
    """The lines of a table whose first row is the header. Cells are escaped, but for **bold** and `code`.

    Example:
        >>> markdown_table([["prior", "NLL"], ["klein|x", 0.38]])
        ['| prior | NLL |', '| --- | --- |', '| klein\\\\|x | 0.38 |']
    """
    head, *rest = rows
    lines: list[Sequence[object]] = [head, ["---"] * len(head), *rest]
    return [f"| {' | '.join(escape(str(cell), 300) for cell in row)} |" for row in lines]


def escape(text: str, longest: int = 100) -> str:
    """A name as markdown shows it unchanged: no HTML, no link, no new cell, no new line; a long one is cut.

    Example:
        >>> escape("<script>a|b")
        '&lt;script&gt;a\\\\|b'
    """
    text = cut(printable(text), longest)
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"(?<!\\)([|\[\]])", r"\\\1", text)


def cut(text: str, longest: int = 100) -> str:
    """At most so many characters, the last one an ellipsis where there were more."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def printable(text: str) -> str:
    """One line in Unicode: what a terminal or a file cannot hold becomes a backslash and its code."""
    text = text.encode("utf-8", "backslashreplace").decode()
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def plain_table(rows: Sequence[Sequence[str]]) -> str:
    """Aligned text for a terminal; the first row is the header.

    Example:
        >>> print(plain_table([["prior", "NLL"], ["klein", "0.38"]]))
        prior  NLL
        -----  ----
        klein  0.38
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rule = ["-" * width for width in widths]
    return "\n".join(
        "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in (rows[0], rule, *rows[1:])
    )
