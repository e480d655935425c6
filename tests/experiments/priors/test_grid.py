"""The grid of a sweep: which runs, their names, their settings."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from experiments.common.store import Store
from experiments.priors import grid, methods, sweep
from experiments.priors.grid import Axes, Job
from experiments.priors.methods import METHODS, STARTS, Settings
from experiments.priors.training import Budget

COMMAND = [
    "--datasets",
    "embedded",
    "--sizes",
    "20",
    "--steps",
    "3",
    "--samples",
    "2",
    "--batch-size",
    "10",
    "--test-size",
    "30",
    "--foreign-size",
    "20",
    "--foreign",
    "embedded",
    "--starts",
    "own",
    "--temperatures",
    "1",
]


def jobs_of(*arguments: str) -> list[Job]:
    return sweep.plan(sweep.make_parser().parse_args([*COMMAND, *arguments]), {"embedded": "d"})


# --- the grid ----------------------------------------------------------------------------------


def test_grid_counts() -> None:
    """Leading methods get all seeds; a Klein start only where it is another; no temperature without a KL."""
    axes = Axes([("mnist", 50)], ["klein", "gaussian", "deterministic"], STARTS, ["1", "tuned"], 3, 2)
    combinations = [list(grid._combinations(axes, i)) for i in range(3)]
    assert combinations[0] == combinations[2]
    assert len(combinations[0]) == 2 + 4 + 2
    axes = replace(axes, methods=["laplace", "ensemble"])
    assert [len(list(grid._combinations(axes, i))) for i in range(3)] == [6, 6, 0]


def test_names_are_unique_and_say_what_they_are(tmp_path: Path) -> None:
    jobs = jobs_of("--priors", ",".join(METHODS), "--starts", "own,klein", "--temperatures", "1,0.1,tuned",
                   "--seeds", "2", "--sizes", "20,30")  # fmt: skip
    names = [Store(tmp_path).path(job.config()).name for job in jobs]
    assert len(set(names)) == len(names)
    assert names[0].startswith("embedded_train_size20_klein_own_1_seed0_")


@pytest.mark.parametrize(
    "change",
    [
        {"dataset": "mnist"},
        {"seed": 9},
        {"test_size": 31},
        {"shifts": ()},
        {"precision": "bfloat16"},
        {"data": "other"},
        {"budget": Budget(4)},
        {"settings": Settings(1.0, 0.0)},
    ],
)
def test_every_field_decides(change: dict[str, Any], tmp_path: Path) -> None:
    store, first = Store(tmp_path), jobs_of()[0]
    store.put(first.config(), {"measures": {}})
    assert store.get(replace(first, **change).config()) is None


def test_config_survives_json() -> None:
    first = jobs_of()[0]
    assert json.loads(json.dumps(first.config())) == first.config()


def test_a_number_for_the_temperature_overrides_what_was_tuned() -> None:
    for method in ("klein", "gaussian"):
        assert grid.tuned_settings(method, "own", "1", "mnist", 100).temperature == 1
        assert grid.tuned_settings(method, "own", "0.25", "mnist", 1000).temperature == 0.25


def test_few_images_and_many_have_settings_of_their_own() -> None:
    for dataset in ("mnist", "fashion-mnist", "cifar10"):
        few, many = (methods.read_settings(f"bayes-{dataset}{band}") for band in ("", "-large"))
        for name in few:
            for size, expected in ((50, few), (200, few), (500, many), (1000, many)):
                assert grid.tuned_settings(name, "own", "1", dataset, size) == expected[name]
        whole = methods.read_settings(f"bayes-{dataset}-full")["klein"]
        assert grid.tuned_settings("klein", "own", "1", dataset, 60_000) == whole
    many = methods.read_settings("tempered-mnist-large")["klein"]
    assert grid.tuned_settings("klein", "own", "tuned", "mnist", 60_000) == many
    cold = methods.read_settings("tempered-fashion-mnist")["klein"]
    assert grid.tuned_settings("klein", "own", "tuned", "my-images", 100) == cold
