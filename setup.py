"""The long description of the package: README.md without what only a repository shows (settings: pyproject.toml).

A package index has neither the files of README's relative links nor its pictures, so links become paths, and pictures go.
"""

import re
from pathlib import Path

from setuptools import setup

_PICTURE = re.compile(r"^!\[[^\]]*\]\((?!https://)[^)]*\)\n+", re.MULTILINE)
_LINK = re.compile(r"\[([^\]]*)\]\((?!https://)([^)]*)\)")


def _path(link: re.Match) -> str:
    words, path = link.groups()
    return f"`{path}`" if words in path else f"{words} (`{path}`)"


parts = re.split(r"(^```.*?^```$)", Path(__file__).with_name("README.md").read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)  # fmt: skip
parts[::2] = [_LINK.sub(_path, _PICTURE.sub("", prose)) for prose in parts[::2]]  # between blocks of code
setup(
    long_description="".join(parts) + "\nPaths are those of the source repository.\n",
    long_description_content_type="text/markdown",
)
