"""The picture of the import graph: levels and arrows by hand, and the package's own order."""

from pathlib import Path

import pytest

pytest.importorskip("grimp")

from experiments.benchmarks import imports


def test_levels_and_needed_arrows() -> None:
    graph = {"a": set(), "b": {"a"}, "c": {"a", "b"}, "d": {"b"}}
    assert imports.levels(graph) == {"a": 0, "b": 1, "c": 2, "d": 2}
    assert imports.needed(graph) == [("b", "a"), ("c", "b"), ("d", "b")]


def test_the_package_is_drawn_in_its_order() -> None:
    graph = imports.imports()
    height = imports.levels(graph)
    order = ["utils", "spaces", "kernels", "vae", "priors", "nn"]
    assert [height[room] for room in order] == sorted(height[room] for room in order)
    assert height["utils"] < height["spaces"] < height["kernels"] < height["priors"] < height["nn"]
    page = (Path(__file__).parents[2] / "docs" / "development" / "index.md").read_text(encoding="utf-8")
    assert f"{len(graph)} rooms on {len(set(height.values()))} levels" in page, "draw the picture again"
    assert imports.png(imports.picture(graph))[:4] == b"\x89PNG"
