"""Formulas of the pages as MathML (no script, no other host), and the explorer as a page of the site."""

import html
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert

from topoprior.cli.explore import make_page
from topoprior.priors import get_prior

_DISPLAY = re.compile(r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', re.DOTALL)
_INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.DOTALL)


def on_page_content(content: str, **_: Any) -> str:
    content = _DISPLAY.sub(lambda found: convert(html.unescape(found[1]), display="block"), content)
    return _INLINE.sub(lambda found: convert(html.unescape(found[1])), content)


def on_post_build(config: Any, **_: Any) -> None:
    page = make_page("klein-3x3", get_prior("klein-3x3"))
    (Path(config["site_dir"]) / "explorer.html").write_bytes(page)
