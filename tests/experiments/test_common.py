"""What experiments share: the store against damage, statistics against scipy, tables against loops, markdown against markup."""

import json
import os
import random
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from experiments.common import statistics
from experiments.common.document import escape, markdown_table, printable
from experiments.common.pictures import LARGEST, png
from experiments.common.store import Store, digest, rounded, slug, tensor_bytes
from experiments.common.tables import differences, frame, means, read_runs, same, without, write_csv

CONFIG = {"method": "klein", "seed": 0, "budget": {"steps": 3}, "data": "0123456789abcdef"}
RESULT = {"measures": {"cls/NLL": 0.123456789, "cls/Acc": 0.5}}


def test_a_store_gives_back_what_was_put(tmp_path: Path) -> None:
    store = Store(tmp_path / "runs")
    assert store.get(CONFIG) is None
    assert list(store) == []
    path = store.put(CONFIG, RESULT)
    assert store.get(CONFIG) == {"measures": {"cls/NLL": 0.123457, "cls/Acc": 0.5}}
    assert path.name.startswith("klein_seed0-")
    for change in ({"seed": 1}, {"data": "f"}, {"budget": {"steps": 4}}, {"more": None}):
        assert store.get({**CONFIG, **change}) is None
    (run,) = store
    assert run.config == CONFIG
    assert run.versions["torch"].split("+")[0] == torch.__version__.split("+")[0]
    store.put({**CONFIG, "data": "other"}, RESULT)
    assert [r.config["data"] for r in store] == ["other"]
    store.drop({**CONFIG, "data": "other"})
    assert list(store) == []


def test_the_data_cannot_be_forgotten(tmp_path: Path) -> None:
    for config in ({"seed": 0}, {"seed": 0, "data": ""}, {"seed": 0, "data": None}):
        with pytest.raises(ValueError, match="data"):
            Store(tmp_path).put(config, RESULT)
    assert list(tmp_path.iterdir()) == []


def test_damaged_runs_are_absent(tmp_path: Path) -> None:
    """Every single byte changed or cut, a pipe, a folder, deep nesting: absent, and said when all are read."""
    store = Store(tmp_path)
    path = store.put(CONFIG, RESULT)
    whole, generator = path.read_bytes(), random.Random(0)
    for position in generator.sample(range(len(whole)), 200):
        other = bytes([whole[position] ^ 1 << generator.randrange(7)])
        path.write_bytes(whole[:position] + other + whole[position + 1 :])
        assert store.get(CONFIG) in (None, rounded(RESULT))  # white space may change without harm
        path.write_bytes(whole[:position])
        assert store.get(CONFIG) is None or whole[position:].isspace()
    path.write_bytes(b"[" * 100_000)
    assert store.get(CONFIG) is None
    with pytest.warns(UserWarning, match="damaged"):
        assert list(store) == []
    path.unlink()
    os.mkfifo(path)
    assert store.get(CONFIG) is None
    path.unlink()
    path.mkdir()
    assert store.get(CONFIG) is None


@pytest.mark.parametrize(
    "name", ["../../x", "<script>|", "a" * 300, ".hidden", "", "CON/\0\n", "\udcff\u202e", "café"]
)
def test_hostile_names_are_files_in_the_folder(tmp_path: Path, name: str) -> None:
    store = Store(tmp_path / "runs")
    config = {**CONFIG, "method": name}
    path = store.put(config, RESULT)
    assert path.parent == tmp_path / "runs"
    assert path.name[0] not in ".-"
    assert len(path.name) < 150
    assert path.name.isascii()
    assert store.get(config) is not None
    assert [run.config["method"] for run in store] == [name]
    assert set("".join(slug(name))) <= set(
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_."
    )


def test_digests_tell_shape_kind_and_borders() -> None:
    assert digest(b"ab", b"c") != digest(b"a", b"bc")
    x = torch.zeros(4)
    different = {digest(tensor_bytes(t)) for t in (x, x.view(2, 2), x.double(), x.int(), x + 1)}
    assert len(different) == 5


def test_interval_and_paired_test_are_scipys() -> None:
    values = [0.81, 0.84, 0.79, 0.83]
    low, high = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    found = statistics.interval(values)
    assert found.half_width is not None
    assert (found.mean - found.half_width, found.mean + found.half_width) == pytest.approx((low, high))
    assert statistics.interval([0.5]) == (0.5, None)
    assert str(statistics.interval([0.5])) == "0.5000"
    generator = np.random.default_rng(0)
    first, second = generator.normal(0.1, 1, 10), generator.normal(0, 1, 10)
    paired = statistics.paired_t_test(first.tolist(), second.tolist())
    confidence = stats.ttest_rel(first, second).confidence_interval()
    assert paired.half_width == pytest.approx((confidence.high - confidence.low) / 2)
    assert paired.p == pytest.approx(stats.ttest_rel(first, second).pvalue)
    assert paired.seeds == 10
    assert statistics.paired_t_test([0.1], [0.0]).p is None
    assert statistics.paired_t_test([0.1, 0.1], [0.1, 0.1]).p == 1
    assert statistics.paired_t_test([0.3, 0.4], [0.2, 0.3]).p == 0


def test_holm_by_its_definition() -> None:
    """Step down, stop at the first that is not rejected."""
    p = np.random.default_rng(0).uniform(0, 0.1, 8).tolist()
    adjusted = statistics.holm(p)
    for level in np.linspace(0.001, 0.5, 97):
        rejected = set()
        for rank, index in enumerate(np.argsort(p)):
            if p[index] > level / (len(p) - rank):
                break
            rejected.add(int(index))
        assert {i for i, value in enumerate(adjusted) if value <= level} == rejected


def test_tables(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for seed in range(4):
        for method, shift in (("klein", 0.1 + 0.01 * seed), ("gaussian", 0.0)):
            if (method, seed) != ("gaussian", 3):
                store.put({**CONFIG, "method": method, "seed": seed}, {"measures": {"acc": seed + shift}})
    table = frame(store)
    assert set(table.columns) == {"method", "seed", "budget.steps", "data", "acc"}
    cells = means(table, "method", "budget.steps", "acc")
    assert cells.loc["gaussian", 3] == str(statistics.interval([0.0, 1.0, 2.0]))
    (row,) = differences(table, "klein", "gaussian", "method", "acc", ["budget.steps"]).to_dict("records")
    assert row["seeds"] == 3  # those that both have
    assert row["mean"] == pytest.approx(0.11)
    assert (
        row["p"]
        == row["adjusted"]
        == pytest.approx(stats.ttest_1samp([0.1, 0.11, 0.12], 0).pvalue, rel=1e-4)
    )
    assert differences(table, "klein", "laplace", "method", "acc", ["budget.steps"]).empty
    assert means(pd.DataFrame({"a": ["x"], "b": [1], "m": [0.5]}), "a", "b", "m").loc["x", 1] == "0.5000"


def test_names_stay_text() -> None:
    assert escape("<img src=x onerror=y>") == "&lt;img src=x onerror=y&gt;"
    (*_, row) = markdown_table([["a", "b"], ["x|y\nz", "[l](http://e)"]])
    assert row == "| x\\|y\\nz | \\[l\\](http://e) |"
    assert len(escape("a" * 300)) == 100
    assert printable("caf\udce9\x1b[31m\u202e") == "caf\\udce9\\x1b[31m\\u202e"
    json.dumps(printable("\udcff")).encode()


def test_pictures_are_small() -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 12))
    generator = np.random.default_rng(0)
    figure.subplots().scatter(*generator.normal(size=(2, 20_000)), c=generator.uniform(size=20_000))
    assert len(png(figure, 150)) <= LARGEST


def test_a_table_is_gone_on_with_by_its_words(tmp_path):
    """A digest may look like a number, even like infinity; it is found again as it was."""
    configs = [
        {"seed": seed, "data": data} for seed, data in enumerate(("1234567890123456", "12345678e1234567"))
    ]
    path = tmp_path / "runs.csv"
    write_csv(path, pd.DataFrame(configs).assign(nll=[1.0, 2.0]))
    table = read_runs(path)
    assert [same(table, config).tolist() for config in configs] == [[True, False], [False, True]]
    assert without(table, configs[:1])["nll"].tolist() == [2.0]
    assert without(table, []).equals(table)
    assert without(read_runs(None), configs).empty
    with pytest.raises(ValueError, match="--earlier .*nowhere.csv: no such file"):
        read_runs(tmp_path / "nowhere.csv")
