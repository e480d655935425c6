"""The report says what the runs say: made-up runs with known differences, and every claim checked."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from experiments.priors import findings
from experiments.priors import report as make_report
from experiments.priors import table as summary
from experiments.priors.table import Cell, Table, Variant

SIZES = (50, 500)
# Accuracy and NLL of each method relative to the data set's; the Klein prior wins at 50 and loses at 500.
GAINS = {
    "klein": {50: 0.05, 500: -0.05},
    "gaussian": {50: 0.0, 500: 0.0},
    "deterministic": {50: -0.1, 500: 0.0},
}


def made_up(seeds: int = 5, noise: float = 0.004) -> list[dict[str, Any]]:
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


def _run(method: str, size: int, start: str, temperature: str, seed: int, gain: float) -> dict[str, Any]:
    config = {
        "dataset": "mnist", "train_size": size, "method": method, "start": start, "temperature": temperature,
        "seed": seed, "test_size": 100, "settings": {"learning_rate": 0.01},
        "budget": {"steps": 3, "batch_size": 5, "samples": 2, "network": "small"},
    }  # fmt: skip
    results = {
        "cls/Acc": 0.8 + gain, "cls/NLL": 0.6 - gain, "cls/Brier": 0.3, "cal/ECE": 0.05, "sc/AURC": 0.04,
        "ood/AUROC": 0.9, "ood/FPR95": 0.4, "parameters": 1000, "train seconds": 3.0,
    }  # fmt: skip
    kernels: dict[str, Any] = {"prior": [[[0.1] * 3] * 3] * 16, "posterior": [[[0.2] * 3] * 3] * 16}
    if method == "klein":
        kernels |= {
            "points": [[0.2, 0.7]] * 16,
            "point scales": [[0.1, 0.2]] * 16,
            "amplitudes": [1.0] * 16,
        }
    reliability = {
        "counts": [0] * 14 + [100],
        "confidence": [0.0] * 14 + [0.97],
        "accuracy": [0.0] * 14 + [0.9],
    }
    versions = {"torch": "2"}
    curve = [{"step": step, "cls/Acc": 0.5 + gain, "cls/NLL": 1.0 - gain} for step in (1, 3)]
    return {
        "config": config,
        "results": results,
        "reliability": reliability,
        "kernels": kernels,
        "versions": versions,
        **({"curve": curve} if method == "klein" else {}),
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "runs").mkdir()
    (tmp_path / "failures").mkdir()
    (tmp_path / "failures" / "one.json").write_text("{}")
    for index, run in enumerate(made_up()):
        (tmp_path / "runs" / f"{index:03}.json").write_text(json.dumps(run))
    return tmp_path


def test_pairs_cancel_what_seeds_share() -> None:
    table = Table(made_up())
    found = table.compare(Cell("mnist", 50, "1"), Variant("klein"), Variant("gaussian"), "cls/Acc")
    assert found is not None
    assert found.result.mean == pytest.approx(0.05, abs=0.01)
    assert found.verdict == "better"
    spread = table.interval(Cell("mnist", 50, "1"), Variant("klein"), "cls/Acc")
    assert spread is not None
    assert spread.half_width is not None
    assert found.result.half_width is not None
    assert spread.half_width > 5 * found.result.half_width


@pytest.mark.parametrize("change", [{"settings": {"learning_rate": 0.02}}, {"test_size": 5}])
def test_runs_that_differ_in_more_than_their_names_are_not_mixed(change: dict[str, Any]) -> None:
    run = made_up()[0]
    with pytest.raises(
        ValueError, match=rf"two runs.*klein.*differ in {next(iter(change))}:.*folders of their own"
    ):
        Table([run, {**run, "config": {**run["config"], **change}}])


def test_one_budget_for_a_data_set() -> None:
    run = made_up()[0]
    config = {**run["config"], "seed": 99, "budget": {**run["config"]["budget"], "steps": 4}}
    with pytest.raises(ValueError, match="mnist: runs with several budgets"):
        make_report.make([run, {**run, "config": config}])
    elsewhere = {**run, "config": {**config, "dataset": "cifar10"}}
    text = make_report.make([run, elsewhere]).markdown()
    assert "| mnist | 50 | small | 3 | 5 | 2 | 100 |" in text
    assert "| cifar10 | 50 | small | 4 | 5 | 2 | 100 |" in text


def test_better_is_less_where_less_is_better() -> None:
    table = Table(made_up())
    for size, verdict in ((50, "better"), (500, "worse")):
        for measure in ("cls/Acc", "cls/NLL"):
            found = table.compare(Cell("mnist", size, "1"), Variant("klein"), Variant("gaussian"), measure)
            assert found is not None
            assert found.verdict == verdict
    equal = table.compare(Cell("mnist", 50, "1"), Variant("klein"), Variant("gaussian"), "cal/ECE")
    assert equal is not None
    assert equal.verdict == "open"


def test_only_common_seeds_are_compared() -> None:
    runs = [run for run in made_up() if run["config"]["method"] != "gaussian" or run["config"]["seed"] < 3]
    found = Table(runs).compare(Cell("mnist", 50, "1"), Variant("klein"), Variant("gaussian"), "cls/Acc")
    assert found is not None
    assert found.result.seeds == 3
    assert (
        Table(runs).compare(Cell("mnist", 50, "1"), Variant("klein"), Variant("laplace"), "cls/Acc") is None
    )


def test_opponents_get_their_better_start() -> None:
    table = Table(made_up())
    assert table.best_start(Cell("mnist", 50, "1"), "gaussian", "cls/Acc") == Variant("gaussian")
    assert table.best_start(Cell("mnist", 50, "1"), "gaussian", "cls/NLL") == Variant("gaussian")


def test_methods_without_temperature_are_found_at_every_one() -> None:
    table = Table(made_up())
    at_one, tuned = (table.runs(Cell("mnist", 50, t), Variant("deterministic")) for t in ("1", "tuned"))
    assert at_one == tuned != {}


def test_holm_over_all_that_is_compared() -> None:
    found = summary.against(Table(made_up()), "gaussian", "1", ("cls/Acc", "cls/NLL"))
    assert len(found) == 4
    for comparison in found:
        assert comparison.adjusted_p is not None
        assert comparison.result.p is not None
        assert comparison.result.p <= comparison.adjusted_p <= 4 * comparison.result.p


def test_findings_say_where_it_helps_and_where_not() -> None:
    said = findings.findings(Table(made_up()))
    (accuracy,) = (s for s in said if s.startswith("**mnist, T = 1, accuracy**") and "gaussian" in s)
    assert "better at n = 50 (+0.0" in accuracy
    assert "worse at n = 500 (-0.0" in accuracy
    assert "also after Holm" in accuracy
    (ece,) = (s for s in said if s.startswith("**mnist, T = 1, ECE**") and "gaussian" in s)
    assert ece.endswith("open at n = 50 (+0.000 ± 0.000), 500 (+0.000 ± 0.000).")
    (published,) = (s for s in said if "as published" in s and "T = 1" in s)
    assert "above 0.800 at n = 50" in published
    assert "not above 0.945 at n = 500" in published
    assert any("The start alone" in s and "worse in 2" in s for s in said)


def test_every_other_prior_gets_a_sentence() -> None:
    """The same runs under another name: what holds against the Gaussian prior holds against it."""
    runs = made_up()
    for run in [run for run in runs if run["config"]["method"] == "gaussian"]:
        runs.append({**run, "config": {**run["config"], "method": "laplace"}})
    said = findings.others(Table(runs))
    assert len(said) == 2  # temperatures
    assert said[0].startswith(
        "Against laplace, T = 1: klein is better in 1, worse in 1, open in 0 of 2 places"
    )
    assert not findings.others(Table(made_up()))


def test_the_page(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_report.main([str(folder)])
    assert "report.md" in capsys.readouterr().out
    text, page = (folder / "report.md").read_text(), (folder / "report.html").read_text()
    assert "(1 failed)" in text
    for name in (
        "curves-mnist",
        "differences-1",
        "differences-tuned",
        "reliability",
        "kernels",
        "learning",
    ):
        assert f"]({name}.png)" in text
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert page.count("data:image/png;base64,") == 6
    assert "<b>mnist, T = 1, accuracy</b>" in page
    assert "deep weight prior, as published" in page
    assert "NaN" not in text + page


def test_the_summary_is_a_source_of_the_same_report(folder: Path, tmp_path: Path) -> None:
    make_report.main([str(folder)])
    again = tmp_path / "again"
    make_report.main([str(folder / "summary.json"), "--output", str(again)])
    first, second = (path.read_text().replace("(1 failed)", "(0 failed)")
                     for path in (folder / "report.md", again / "report.md"))  # fmt: skip
    assert first == second
    assert len((folder / "summary.json").read_bytes()) < sum(
        p.stat().st_size for p in (folder / "runs").iterdir()
    )


def test_a_summary_in_the_folder_stands_for_runs_that_are_gone(folder: Path) -> None:
    make_report.main([str(folder)])
    first = (folder / "report.md").read_text()
    runs = sorted((folder / "runs").iterdir())
    for path in runs[::2]:
        path.unlink()
    assert len(summary.read_runs(folder)) == len(runs)
    make_report.main([str(folder)])
    assert sorted((folder / "report.md").read_text().splitlines()) == sorted(first.splitlines())


def test_learning_curves_are_means_over_seeds() -> None:
    runs = [run for run in made_up() if run["config"]["method"] == "klein"]
    (found,) = summary.learning_curves(Table(runs), [Variant("klein")])[
        "mnist, n = 50, temperature 1"
    ].values()
    there = [r for r in runs if r["config"]["train_size"] == 50 and r["config"]["temperature"] == "1"]
    assert found.of("cls/Acc")[3].mean == pytest.approx(sum(r["curve"][1]["cls/Acc"] for r in there) / 5)
    assert "Learning curves" not in make_report.make([r for r in made_up() if r not in runs]).markdown()


def test_one_seed_and_one_method_make_a_page() -> None:
    runs = [run for run in made_up(seeds=1) if run["config"]["method"] == "klein"]
    text = make_report.make(runs).markdown()
    assert "klein" in text
    assert "±" not in text.partition("## mnist")[2].partition("##")[0]


@pytest.mark.parametrize("content", [None, "{}", '{"runs": [1]}', '{"runs": []}', "no json"])
def test_errors_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None
) -> None:
    path = tmp_path / "summary.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SystemExit) as stopped:
        make_report.main([str(path)])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "summary.json" in error
