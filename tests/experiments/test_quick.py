"""experiments/compare_priors.py as its users run it: converged or said not to be, resumed, on images of their own."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from scipy import stats

pytest.importorskip("blitz")
import experiments  # noqa: E402
from experiments.common.store import Store  # noqa: E402
from experiments.posteriors import converge, quick, quick_report  # noqa: E402
from tests.experiments.priors.test_data import write_image  # noqa: E402

SMALL = ["--test-size", "30", "--width", "2", "--chains", "2", "--jobs", "1", "--priors", "gaussian"]


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    monkeypatch.setattr(
        converge, "CHAIN", {**converge.CHAIN, "warmup": 10, "thinning": 2, "first": 4, "more": 4}
    )
    monkeypatch.setattr(converge, "DESCENT", {**converge.DESCENT, "window": 5, "draws": 2})


def command(folder: Path, *more: str) -> int:
    return quick.main([*SMALL, "--train-size", "20", "--most", "30", "--output", str(folder), *more])


def test_all_methods_once(tmp_path, monkeypatch, capsys):
    assert command(tmp_path, "--seeds", "2") == 0
    table = pd.read_csv(tmp_path / "runs.csv")
    assert sorted(set(table["method"])) == [
        "BLiTZ, mean field",
        "gaussian, MAP",
        "gaussian, sampled",
        "nn.Conv2d",
    ]
    assert table.groupby("method")["seed"].apply(list).map(sorted).tolist() == [[0, 1]] * 4
    assert table["cls/Acc"].between(0, 1).all()
    sampled = table[table["method"] == "gaussian, sampled"]
    # 10 of warm-up, 2 * 4 for the first draws, and then as many rounds as 30 gradients allow or r-hat asks for.
    assert sampled["gradients"].isin([18, 26]).all()
    assert (sampled["converged"] == (sampled["r-hat"] <= 1.1)).all()
    assert not (tmp_path / "chains").exists() or not any((tmp_path / "chains").iterdir())
    assert json.loads((tmp_path / "config.json").read_text())["sampler"]["warmup"] == 10
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "| nn.Conv2d |" in text
    assert (tmp_path / "forest.png").stat().st_size < 150_000
    assert "Gaussian, sampled" in capsys.readouterr().out
    monkeypatch.setattr(quick, "run", None)  # would fail if a run were made again
    assert command(tmp_path, "--seeds", "2") == 0


def test_images_of_ones_own(tmp_path):
    """Three classes in colour, fewer images than the default asks for."""
    for part in ("train", "test"):
        for k, name in enumerate(("a", "b", "c")):
            for i in range(4):
                write_image(tmp_path / "mine" / part / name / f"{i}.png", (60 * k, 10 * i, 90), (9, 9))
    arguments = ["--dataset", str(tmp_path / "mine"), "--width", "2", "--chains", "2", "--jobs", "1"]
    assert (
        quick.main(
            [
                *arguments,
                "--priors",
                "klein-3x3",
                "--seeds",
                "1",
                "--most",
                "20",
                "--output",
                str(tmp_path / "out"),
            ]
        )
        == 0
    )
    runs = list(Store(tmp_path / "out" / "runs"))
    assert {(r.config["classes"], r.config["channels"], r.config["n"], r.config["test"]) for r in runs} == {
        (3, 3, 12, 12)
    }


def test_a_descent_stops_where_it_gains_little(monkeypatch):
    monkeypatch.setattr(converge, "DESCENT", {**converge.DESCENT, "window": 50, "gain": 1e-4})
    p = torch.nn.Parameter(torch.full((3,), 2.0))
    found = converge.descend(lambda: p.square().sum(), [p], most=10_000)
    assert found["converged"] == 1
    assert p.abs().max() < 0.05
    q = torch.nn.Parameter(torch.full((3,), 2.0))
    assert converge.descend(lambda: q.square().sum(), [q], most=100) == {"gradients": 100, "converged": 0.0}


def test_the_most_probable_point_of_a_network(monkeypatch):
    """At the end of a long descent the gradient of the log joint is small, beside that of a start."""
    torch.manual_seed(0)
    images = (
        torch.randn(20, 1, 8, 8),
        torch.arange(20) % 3,
        torch.randn(5, 1, 8, 8),
        torch.zeros(5).long(),
    )
    problem = converge.Problem(images, "gaussian", 1.0, 0)
    net = converge.network("gaussian", 1.0, "delta", size=8, classes=3, widths=(2, 2, 2))

    def slope() -> float:
        net.zero_grad()
        converge.tp.elbo_loss(net(images[0]), images[1], net, 20).backward()
        return max(float(p.grad.abs().max()) for p in net.parameters())

    start = slope()
    monkeypatch.setattr(converge, "DESCENT", {**converge.DESCENT, "window": 100, "gain": 1e-5})
    assert converge.point(problem, net, 3000)["predictions"].shape == (5, 3)
    assert slope() < 0.05 * start + 1e-3


def test_differences_by_hand():
    rows = [
        ("a, sampled", 0, 0.5),
        ("a, sampled", 1, 0.7),
        ("nn.Conv2d", 0, 0.9),
        ("nn.Conv2d", 1, 0.9),
        ("late", 1, 0.1),
    ]
    table = pd.DataFrame(rows, columns=["method", "seed", "cls/NLL"])
    found = quick_report.differences(table[table["method"] != "late"], "a, sampled", "cls/NLL")
    assert found["nn.Conv2d"].mean == pytest.approx(-0.3)
    assert found["nn.Conv2d"].half_width == pytest.approx(
        12.7062 * 0.1, rel=1e-4
    )  # t(1) / sqrt(2) * std .1414


def test_holm_over_the_sampled_priors():
    """Two of three priors beside the first: the smaller p is doubled."""
    nll = {
        "klein-3x3, sampled": (0.5, 0.6, 0.4),
        "gaussian, sampled": (0.7, 0.9, 0.65),
        "twin, sampled": (0.52, 0.6, 0.47),
        "nn.Conv2d": (3, 4, 5),
    }
    rows = [(m, s, v, v / 10) for m, values in nll.items() for s, v in enumerate(values)]
    table = pd.DataFrame(rows, columns=["method", "seed", "cls/NLL", "cls/Acc"])
    head, *body = quick_report.tests(table, "klein-3x3, sampled")
    assert [row[:2] for row in body] == [
        ["Gaussian, sampled", "3"],
        ["Gaussian with Klein's moments, sampled", "3"],
    ]
    ps = [
        stats.ttest_rel(nll["klein-3x3, sampled"], nll[m]).pvalue
        for m in ("gaussian, sampled", "twin, sampled")
    ]
    assert ps[0] < ps[1]
    assert [f"(p {2 * ps[0]:.2g})" in body[0][2], f"(p {max(ps[1], 2 * ps[0]):.2g})" in body[1][2]] == [
        True,
        True,
    ]


@pytest.mark.parametrize(
    ("wrong", "names"),
    [
        (["--chains", "1"], "--chains"),
        (["--image-size", "4"], "--image-size"),
        (["--priors", "nothing"], "--priors"),
        (["--train-size", "100000"], "--train-size"),
        (["--dataset", "nowhere"], "nowhere"),
    ],
)
def test_what_cannot_be_done_is_one_line(tmp_path, capsys, wrong, names):
    with pytest.raises(SystemExit) as ended:
        quick.main(["--output", str(tmp_path / "out"), *wrong])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert names in error
    assert not (tmp_path / "out" / "runs").exists()


def test_the_script_runs_from_any_folder(tmp_path):
    script = Path(experiments.__file__).parent / "compare_priors.py"
    done = subprocess.run(
        [sys.executable, str(script), "--priors", "nothing"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "choose from klein-3x3" in done.stderr
    assert done.stderr.count("\n") == 1
