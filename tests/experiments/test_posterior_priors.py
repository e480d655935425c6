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
from experiments.posteriors import priors, priors_report  # noqa: E402
from experiments.posteriors.engines import judge  # noqa: E402

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


@pytest.mark.slow  # starts processes
def test_two_workers_give_the_numbers_of_one(tmp_path):
    assert command(tmp_path / "one", "--priors", "twin") == 0
    assert command(tmp_path / "two", "--priors", "twin", "--jobs", "2") == 0
    one, two = (
        [r.result["predictions"] for r in Store(tmp_path / f / "out" / "runs")] for f in ("one", "two")
    )
    assert len(one) == 2
    torch.testing.assert_close(torch.tensor(one), torch.tensor(two), atol=1e-4, rtol=0)


def test_what_some_prior_lacks_is_left_out():
    made = {(0, "a"): 4, (0, "b"): 3, (1, "a"): 4, (1, "b"): 1, (2, "a"): 4}
    common = {"role": "reported", "dataset": "mnist", "n": 100, "size": 14, "test": 9, "last_gain": 4.0}
    runs = [Run({**common, "seed": seed, "prior": prior, "chain": c}, {}, {})
            for (seed, prior), chains in made.items() for c in range(chains)]  # fmt: skip
    found = [(r.config["seed"], r.config["prior"], r.config["chain"]) for r in priors_report.paired(runs)]
    assert found == [(0, p, c) for p in "ab" for c in range(3)]


def test_holm_is_over_the_whole_family():
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


def test_a_chain_that_diverged_is_counted():
    p = torch.full((3, 10), 0.1)
    result = {"measures": {"seconds": 1.0, "temperature": 1.0, "divergences": 0.0, "step_size": 0.1},
              "predictions": p.tolist(), "draws": p.expand(4, 3, 10).tolist(), "labels": [0, 1, 2]}  # fmt: skip
    bad = {"measures": {"seconds": 2.0}, "failure": "all chains diverged"}
    runs = [Run({"chain": c}, r, {}) for c, r in enumerate((result, bad, result))]
    found = priors_report.merged(runs)
    assert (found["chains"], found["diverged"], found["seconds"]) == (2, 1, 4.0)
    assert found["nll"] == pytest.approx(judge(p, torch.tensor([0, 1, 2]))["nll"])
    assert found["halves_apart"] == 0


def test_bad_arguments(tmp_path, capsys):
    for arguments, said in [
        (["--priors", "magic"], "--priors magic: choose from klein-3x3"),
        (["--datasets", "mnist"], "--data: mnist wants the folder"),
        (["--size", "7"], "--size 7: choose from 14, 28"),
        (["-n", "15"], "-n 15: give a multiple of 10"),
        (["--report", str(tmp_path / "r")], "no reported runs with two chains"),
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
