"""Formulas of the pages as MathML (no script, no other host); the reports and the explorer as pages of the site."""

import html
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from topoprior.cli.explore import make_page
from topoprior.priors import get_prior

_DISPLAY = re.compile(r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', re.DOTALL)
_INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.DOTALL)
_RESULTS = Path(__file__).parents[2] / "experiments" / "results"
_CODE = re.compile(r"(^ *```.*?^ *```$)", re.DOTALL | re.MULTILINE)
_NAMED = re.compile(r"(?<!\[)`experiments/results/([\w-]+)(/[\w.-]+)?`")


def on_files(files: Files, config: Any) -> None:
    """The folders of results are beside the pages, and pages of the site under reports/."""
    for path in sorted(_RESULTS.rglob("*")):
        if path.is_file():
            place = f"reports/{path.relative_to(_RESULTS).as_posix()}"
            files.append(File.generated(config, place, abs_src_path=str(path)))


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Links to results, and names of them in prose, lead to the site's pages; folded parts are markdown too."""
    up = "../" * page.file.src_uri.count("/")
    parts = _CODE.split(markdown)
    for i in range(0, len(parts), 2):
        text = re.sub(r"\]\((\.\./)+experiments/results/", f"]({up}reports/", parts[i])
        text = re.sub(r"\]\((\.\./)+docs/", f"]({up}", text)
        text = _NAMED.sub(
            lambda found: f"[{found[0]}]({up}reports/{found[1]}{found[2] or '/README.md'})", text
        )
        parts[i] = text.replace("<details>", '<details markdown="1">')
    return "".join(parts)


def on_page_content(content: str, **_: Any) -> str:
    content = _DISPLAY.sub(lambda found: convert(html.unescape(found[1]), display="block"), content)
    return _INLINE.sub(lambda found: convert(html.unescape(found[1])), content)


def on_post_build(config: Any, **_: Any) -> None:
    page = make_page("klein-3x3", get_prior("klein-3x3"))
    (Path(config["site_dir"]) / "explorer.html").write_bytes(page)
