"""The report says what the runs say: made-up runs with known differences."""

import random
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from experiments.common.store import Run, Store
from experiments.common.tables import differences
from experiments.priors import overview, report, table

SIZES = (50, 500)
# Accuracy and NLL of each method relative to the data set's; the Klein prior wins at 50 and loses at 500.
GAINS = {
    "klein": {50: 0.05, 500: -0.05},
    "gaussian": {50: 0.0, 500: 0.0},
    "deterministic": {50: -0.1, 500: 0.0},
}


def made_up(seeds: int = 5, noise: float = 0.004) -> list[Run]:
    generator = random.Random(0)
    runs = []
    for seed in range(seeds):
        for size in SIZES:
            shared = generator.gauss(0, 0.1)  # seeds differ more than methods: only pairs tell them apart
            for method, gains in GAINS.items():
                for start in ("own", "klein") if method == "gaussian" else ("own",):
                    for temperature in ("1",) if method == "deterministic" else ("1", "tuned"):
                        gain = gains[size] + shared + generator.gauss(0, noise)
                        gain -= 0.02 * (start == "klein")
                        runs.append(_run(method, size, start, temperature, seed, gain))
    return runs


def _run(method: str, size: int, start: str, temperature: str, seed: int, gain: float) -> Run:
    config = {
        "dataset": "mnist", "train_size": size, "method": method, "start": start, "temperature": temperature,
        "seed": seed, "test_size": 100, "settings": {"learning_rate": 0.01}, "data": "d",
        "budget": {"steps": 3, "batch_size": 5, "samples": 2, "network": "small"},
    }  # fmt: skip
    results = {
        "cls/Acc": 0.8 + gain, "cls/NLL": 0.6 - gain, "cls/Brier": 0.3, "cal/ECE": 0.05, "sc/AURC": 0.04,
        "ood/AUROC": 0.9, "ood/FPR95": 0.4, "parameters": 1000, "train seconds": 3.0, "KL / image": 7.0,
    }  # fmt: skip
    kernels = {"prior": [[[0.1] * 3] * 3] * 16, "posterior": [[[0.2] * 3] * 3] * 16}
    reliability = {
        "counts": [0] * 14 + [100],
        "confidence": [0.0] * 14 + [0.97],
        "accuracy": [0.0] * 14 + [0.9],
    }
    curve = [{"step": step, "cls/Acc": 0.1, "cls/NLL": 2.0} for step in (1, 3)]
    result = {"measures": results, "reliability": reliability, "kernels": kernels, "curve": curve}
    return Run(config, result, {})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    store = Store(tmp_path / "runs")
    for run in made_up():
        store.put(run.config, run.result)
    return tmp_path


def compared(results: pd.DataFrame, first: str, second: str, measure: str) -> dict[int, Any]:
    """Of temperature 1, by training size."""
    results = table.at_every_temperature(table.arrange(results))
    found = differences(
        results[results["temperature"] == "1"], first, second, "variant", measure, ["train_size"]
    )
    return {row["train_size"]: row for row in found.to_dict("records")}


def test_pairs_cancel_what_seeds_share() -> None:
    """And the better one is found where it is: at 50 Klein, at 500 the Gaussian."""
    results = table.of_runs(made_up())
    for measure, sign in (("cls/Acc", 1), ("cls/NLL", -1)):
        found = compared(results, "klein", "gaussian", measure)
        for size, difference in ((50, 0.05), (500, -0.05)):
            assert found[size]["mean"] == pytest.approx(sign * difference, abs=0.01)
            assert found[size]["half_width"] < 0.02 < results["cls/Acc"].std()
            assert found[size]["p"] <= found[size]["adjusted"] <= 2 * found[size]["p"]


def test_methods_without_temperature_stand_at_every_one() -> None:
    results = table.at_every_temperature(table.arrange(table.of_runs(made_up())))
    plain = results[results["method"] == "deterministic"]
    at_one, tuned = (plain[plain["temperature"] == t]["cls/Acc"].tolist() for t in ("1", "tuned"))
    assert at_one == tuned != []


@pytest.mark.parametrize("change", [{"settings": {"learning_rate": 0.02}}, {"test_size": 5}])
def test_runs_that_differ_in_more_than_their_names_are_not_mixed(change: dict[str, Any]) -> None:
    run = made_up()[0]
    name = next(iter(change))
    with pytest.raises(ValueError, match=rf"two runs.*klein.*differ in {name}.*folders of their own"):
        table.of_runs([run, run._replace(config={**run.config, **change})])


def test_report_of_a_folder_and_of_its_csv(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main([str(folder)]) == 0
    assert capsys.readouterr().out == f"{folder / 'report.md'}\n"
    text = (folder / "report.md").read_text()
    assert len(text.splitlines()) < 300
    for name in ("forest.png", "curves.png", "learning.png", "reliability.png", "kernels.png"):
        assert f"]({name})" in text
        assert (folder / name).stat().st_size <= 150_000
    assert "gaussian, klein start" in text
    before, *folds = text.split("<details>\n<summary>")
    assert before.index("(forest.png)") < before.index(
        "| method |"
    )  # the picture, one table, the rest on a click
    assert len([line for line in before.splitlines() if line.startswith("| --- |")]) == 1
    assert len(folds) == text.count("</details>") >= 4
    results = pd.read_csv(folder / "runs.csv")
    assert len(results) == len(made_up())
    some = results[
        (results["method"] == "klein") & (results["train_size"] == 50) & (results["temperature"] == "1")
    ]
    assert f"{some['cls/Acc'].mean():.4f} ±" in text
    assert "KL / image, in nats" in text
    assert "is 7.00 to 7.00" in text

    assert report.main([str(folder / "runs.csv"), "--output", str(folder / "again")]) == 0
    again = (folder / "again" / "report.md").read_text()
    assert [line for line in again.splitlines() if "±" in line] == [
        line for line in text.splitlines() if "±" in line
    ]
    assert pd.read_csv(folder / "again" / "runs.csv").equals(results)


def test_the_picture_averages_over_sizes_seed_by_seed() -> None:
    results = table.arrange(table.of_runs(made_up()))
    some = results[results["temperature"] == "1"]
    found = overview.difference(some, "klein", "gaussian", "cls/Acc")
    wide = some.pivot_table(index="seed", columns=["variant", "train_size"], values="cls/Acc")
    by_hand = [
        sum(wide["klein"][n][seed] - wide["gaussian"][n][seed] for n in SIZES) / 2 for seed in wide.index
    ]
    assert found is not None
    assert found.mean == pytest.approx(sum(by_hand) / len(by_hand))
    assert found.half_width == pytest.approx(
        2.776 * pd.Series(by_hand).sem(), rel=1e-3
    )  # t of four degrees
    lacking = some[~((some["variant"] == "gaussian") & (some["train_size"] == 500))]
    assert overview.difference(lacking, "klein", "gaussian", "cls/Acc") is None


def test_errors_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "runs.csv").write_text("a,b\n1,2\n")
    (tmp_path / "binary.csv").write_bytes(bytes(range(256)))
    for path in (tmp_path, tmp_path / "nothing", tmp_path / "runs.csv", tmp_path / "binary.csv"):
        with pytest.raises(SystemExit) as stopped:
            report.main([str(path)])
        assert stopped.value.code == 2
        assert capsys.readouterr().err.count("\n") == 1
