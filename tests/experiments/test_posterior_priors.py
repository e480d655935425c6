"""Priors under the posterior: every chain is a run, cells are paired by split, the report says what did not converge."""

import os
import signal
import threading
import time
from pathlib import Path

import pandas as pd
import pytest
import torch

pytest.importorskip("pandas")
from experiments.common.store import Run, Store  # noqa: E402
from experiments.posteriors import cells, converge, priors, priors_report, setting  # noqa: E402
from experiments.posteriors.setting import judge  # noqa: E402

SMALL = ["--datasets", "embedded", "--priors", "klein-3x3,twin", "--seeds", "1", "-n", "10",
         "--chains", "2", "--test", "30", "--budget", "0.001", "--jobs", "1"]  # fmt: skip


def command(folder, *more: str) -> int:
    return priors.main([*SMALL, "--output", str(folder / "out"), *more])


def test_chains_are_made_once_and_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(priors, "GAINS", (2.0,))
    assert command(tmp_path) == 0
    assert command(tmp_path, "--select", "--priors", "twin") == 0
    monkeypatch.setattr(priors, "run_chain", None)  # would fail if a chain were made again
    assert command(tmp_path) == 0
    assert command(tmp_path, "--report", str(tmp_path / "report")) == 0
    table = pd.read_csv(tmp_path / "report" / "runs.csv")
    assert table[["prior", "chains"]].to_numpy().tolist() == [["klein-3x3", 2], ["twin", 2]]
    # Accuracy of the mean over chains by hand.
    runs = [r for r in Store(tmp_path / "out" / "runs") if r.config["role"] == "reported"]
    klein = [r.result for r in runs if r.config["prior"] == "klein-3x3"]
    mean = torch.tensor([r["predictions"] for r in klein]).mean(0)
    hits = (mean.argmax(1) == torch.tensor(klein[0]["labels"])).double().mean().item()
    assert table["accuracy"][0] == pytest.approx(hits)
    text = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    assert "Klein bottle - Gaussian with Klein's moments" in text
    assert "What has not converged" in text
    assert "gain 2 |" in text
    assert (tmp_path / "report" / "forest.png").stat().st_size < 150_000


def test_the_smaller_step_stands_beside_the_usual_one(tmp_path, monkeypatch):
    """Rows of their own, which no difference of the usual chains sees; its table is small minus usual, by split."""
    half = {**converge.HALF_STEP, "warmup": 6, "num_samples": 4, "thinning": 2}
    monkeypatch.setattr(converge, "HALF_STEP", half)
    assert command(tmp_path) == 0
    assert command(tmp_path, "--half-step") == 0
    report = tmp_path / "report"
    assert command(tmp_path, "--report", str(report)) == 0
    usual, small = (pd.read_csv(report / f"{name}.csv") for name in ("runs", "half-step"))
    assert usual["prior"].tolist() == small["prior"].tolist() == ["klein-3x3", "twin"]
    assert (small["step_size"] < usual["step_size"]).all()
    text = (report / "report.md").read_text(encoding="utf-8")
    for k, words in enumerate(("Klein bottle", "Gaussian with Klein's moments")):
        difference = small["nll"][k] - usual["nll"][k]
        assert f"| {words} | Fashion-MNIST subset, n = {usual['n'][0]} | 1 | {difference:+.4f} |" in text
    between = small["nll"][0] - small["nll"][1]
    assert f"n = {usual['n'][0]} | 1 | {between:+.4f} |" in text.split("with the small step:")[1]


@pytest.mark.slow  # starts processes
def test_two_workers_give_the_numbers_of_one(tmp_path):
    assert command(tmp_path / "one", "--priors", "twin") == 0
    assert command(tmp_path / "two", "--priors", "twin", "--jobs", "2") == 0
    one, two = (
        [r.result["predictions"] for r in Store(tmp_path / f / "out" / "runs")] for f in ("one", "two")
    )
    assert len(one) == 2
    torch.testing.assert_close(torch.tensor(one), torch.tensor(two), atol=1e-4, rtol=0)


def test_chains_go_on_until_they_agree(tmp_path, monkeypatch, capsys):
    """Round by round: what does not agree goes on where it was, to the numbers of a chain that was that long from the start."""
    monkeypatch.setattr(
        converge,
        "CHAIN",
        {**converge.CHAIN, "warmup": 6, "thinning": 2, "first": 4, "more": 5, "r_hat": 0.0},
    )
    longer = ["--budget", "1", "--priors", "twin", "--most", "26"]
    assert command(tmp_path, *longer) == 0  # 14 and 24 gradients, but not 34
    runs = list(Store(tmp_path / "out" / "runs"))
    assert sorted(r.config["settings"]["num_samples"] for r in runs) == [4, 4, 9, 9]
    assert "1 cells have not converged after 26 gradients" in capsys.readouterr().err
    table = cells.cells(runs)
    assert table["gradients"].tolist() == [24]
    assert table["seconds"].tolist() == pytest.approx([sum(r.result["measures"]["seconds"] for r in runs)])
    monkeypatch.setitem(converge.CHAIN, "first", 9)
    assert command(tmp_path / "whole", *longer) == 0
    whole = [r.result["predictions"] for r in Store(tmp_path / "whole" / "out" / "runs")]
    parts = [r.result["predictions"] for r in runs if r.config["settings"]["num_samples"] == 9]
    torch.testing.assert_close(torch.tensor(parts), torch.tensor(whole), atol=1e-5, rtol=0)
    monkeypatch.setitem(converge.CHAIN, "r_hat", 1e9)
    assert command(tmp_path / "agreed", *longer) == 0  # one round, and nothing left of its chains
    assert not any((tmp_path / "agreed" / "out" / "chains").glob("*/*"))


def test_a_report_is_gone_on_with(tmp_path, monkeypatch):
    """Cells of an earlier report are not run and stay in the report; a cell without all its chains is no row."""
    assert command(tmp_path, "--priors", "twin") == 0
    assert command(tmp_path, "--report", str(tmp_path / "report")) == 0
    before = pd.read_csv(tmp_path / "report" / "runs.csv")
    other = tmp_path / "other"
    assert (
        command(other, "--priors", "twin,gaussian", "--earlier", str(tmp_path / "report" / "runs.csv")) == 0
    )
    runs = list(Store(other / "out" / "runs"))
    assert {r.config["prior"] for r in runs} == {"gaussian"}
    assert len(cells.cells(runs[:1])) == 0
    assert priors.main(["--output", str(other / "out"), "--report", str(tmp_path / "report")]) == 0
    after = pd.read_csv(tmp_path / "report" / "runs.csv")
    assert after["prior"].tolist() == ["gaussian", "twin"]
    pd.testing.assert_frame_equal(after.iloc[1:].reset_index(drop=True)[before.columns], before)


def test_choices_are_judged_by_other_training_images(tmp_path):
    x, y, unseen, labels = setting.held_out("embedded", tmp_path, size=14, n=50, test=100, seed=1)
    assert (len(x), len(y), len(unseen), len(labels)) == (50, 50, 100, 100)
    assert torch.equal(y.bincount(), torch.full((10,), 5))
    assert torch.equal(labels.bincount(), torch.full((10,), 10))
    assert torch.cdist(unseen.flatten(1), x.flatten(1)).min() > 0
    assert x.mean().abs() < 1e-5


def test_holm_is_over_a_place_and_over_all():
    rows = []
    for prior, shift in (
        ("klein-3x3", 0.0),
        ("gaussian", 0.3),
        ("twin", 0.02),
        ("linear", 0.3),
        ("torus-3x3", 0.3),
    ):
        for seed, noise in enumerate((0.01, -0.02, 0.015, 0.0)):
            spread = noise * (1 if prior == "klein-3x3" else -1)
            rows.append(
                {"dataset": "mnist", "n": 100, "seed": seed, "prior": prior, "nll": 1 + shift + spread}
            )
    found = priors_report.compared(pd.DataFrame(rows), "nll", priors_report.FAMILY)
    assert found["mean"].tolist() == pytest.approx([-0.2975, -0.0175, -0.2975, -0.2975])
    assert (found["adjusted"] >= found["p"]).all()
    assert found["adjusted"].min() == pytest.approx(4 * found["p"].min())
    both = pd.concat([pd.DataFrame(rows), pd.DataFrame(rows).assign(n=50)])
    twice = priors_report.compared(both, "nll", priors_report.FAMILY)
    assert twice["n"].tolist() == [50] * 4 + [100] * 4
    assert twice["adjusted"].tolist() == pytest.approx(2 * found["adjusted"].tolist())
    assert twice["overall"].min() == pytest.approx(8 * found["p"].min())
    of_forty = priors_report.compared(both, "nll", priors_report.FAMILY, family=40)
    assert of_forty["overall"].min() == pytest.approx(40 * found["p"].min())
    assert of_forty["adjusted"].tolist() == twice["adjusted"].tolist()


def test_a_chain_that_diverged_is_counted():
    p = torch.full((3, 10), 0.1)
    result = {"measures": {"seconds": 1.0, "temperature": 1.0, "divergences": 0.0, "step_size": 0.1},
              "predictions": p.tolist(), "draws": p.expand(4, 3, 10).tolist(), "labels": [0, 1, 2]}  # fmt: skip
    bad = {"measures": {"seconds": 2.0}, "failure": "all chains diverged"}
    runs = [Run({"chain": c}, r, {}) for c, r in enumerate((result, bad, result))]
    found = cells.merged(runs)
    assert found["diverged"] == 1
    assert not cells.agree([result, bad])
    assert found["nll"] == pytest.approx(judge(p, torch.tensor([0, 1, 2]))["nll"])
    assert found["halves_apart"] == 0


def test_bad_arguments(tmp_path, capsys):
    for arguments, said in [
        (["--priors", "magic"], "--priors magic: choose from klein-3x3"),
        (["--datasets", "nowhere"], "no data set or folder 'nowhere'"),
        (["--size", "7"], "--size 7: give at least 8"),
        (["--chains", "1"], "--chains 1: give at least 2"),
        (["--earlier", str(tmp_path / "k.csv")], "no such file"),
        (["--report", str(tmp_path / "r")], "no cell with all its chains"),
    ]:
        with pytest.raises(SystemExit):
            priors.main([*SMALL, "--output", str(tmp_path / "none"), *arguments])
        assert said in capsys.readouterr().err


@pytest.mark.slow  # starts a cluster
def test_a_cluster_that_loses_a_worker_gives_the_numbers_of_one_process(tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed")
    monkeypatch.setenv("PYTHONPATH", str(Path(priors.__file__).parents[2]))
    longer = ["--priors", "twin", "--chains", "12", "--budget", "0.05"]
    assert command(tmp_path / "one", *longer) == 0
    killed = []
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:

        def kill() -> None:
            """As soon as the cluster has finished a chain."""
            with distributed.Client(cluster) as client:
                while not any("memory" in states for states in client.run_on_scheduler(_states)):
                    time.sleep(0.05)
                killed.append(client.run_on_scheduler(_states).count("memory"))
            os.kill(next(iter(cluster.workers.values())).pid, signal.SIGKILL)

        assassin = threading.Thread(target=kill)
        assassin.start()
        where = ["--backend", "dask", "--scheduler", cluster.scheduler_address, "--jobs", "2"]
        assert command(tmp_path / "many", *longer, *where) == 0
        assassin.join()
    assert 0 < killed[0] < 12  # in the middle
    one, many = (list(Store(tmp_path / f / "out" / "runs")) for f in ("one", "many"))
    assert [r.config for r in one] == [r.config for r in many]
    assert len(one) == 12
    for mine, other in zip(one, many, strict=True):
        mine, other = (torch.tensor(r.result["predictions"]) for r in (mine, other))
        torch.testing.assert_close(mine, other, atol=1e-3, rtol=0)


def _states(dask_scheduler) -> list[str]:
    return [
        task.state
        for task in dask_scheduler.tasks.values()
        if "run_chain" in str(task) or "attempt" in str(task)
    ]
