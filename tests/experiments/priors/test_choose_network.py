"""The network of the comparison: all candidates are scored, the least mean NLL wins, runs are kept."""

import json

import pytest

from experiments.priors import choose_network, training, tune
from experiments.priors.training import Budget


def test_the_least_mean_wins_and_runs_are_kept(tmp_path, monkeypatch, capsys):
    small = tune.Profile((("embedded", 20),), Budget(2, 10, samples=2), (), 30)
    monkeypatch.setattr(choose_network, "PROFILE", small)
    command = ["--networks", "narrow,two", "--seeds", "1", "--steps", "2", "--jobs", "1"]
    command += ["--output", str(tmp_path)]
    choose_network.main(command)
    results = json.loads((tmp_path / "results.json").read_text())
    means = {
        network: sum(score["NLL"] for score in scores.values())
        for network, scores in results["scores"].items()
    }
    assert results["chosen"] == min(means, key=lambda network: means[network])
    assert all(set(scores) == set(choose_network.METHODS) for scores in results["scores"].values())
    runs = list((tmp_path / "runs").iterdir())
    assert len(runs) == 2 * len(choose_network.METHODS) * 4
    report = (tmp_path / "report.md").read_text()
    assert f"**{results['chosen']}**" in report
    assert "2 steps" in report

    def never(*_, **__):
        raise AssertionError("computed again")

    monkeypatch.setattr(training, "train", never)
    choose_network.main(command)
    assert report in capsys.readouterr().out


def test_unknown_network(capsys):
    with pytest.raises(SystemExit):
        choose_network.main(["--networks", "huge"])
    assert "--networks huge: choose from compare" in capsys.readouterr().err
