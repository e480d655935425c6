"""--quiet and --log: nothing on stderr, every number in files, and neither outlives the command that asked for it."""

import os

import pandas as pd
import pytest

from experiments.common import progress
from experiments.common.options import Parser
from experiments.priors import compare

TINY = "--priors klein,deterministic --train-size 40 --test-size 20 --steps 20 --batch-size 10 --samples 2 --seeds 1"


def test_a_quiet_run_says_its_result_alone_and_logs_all(tmp_path, capsys):
    log = tmp_path / "log"
    command = [*TINY.split(), "--output", str(tmp_path / "out"), "--quiet", "--log", str(log)]
    assert compare.main(command) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert "deterministic" in said.out
    results = pd.read_csv(tmp_path / "out" / "runs.csv").set_index("method")
    folders = sorted(log.iterdir())
    assert len(folders) == len(results) == 2
    for method, folder in zip(("deterministic", "klein"), folders, strict=True):
        assert method in folder.name
        rows = pd.read_csv(folder / "scalars.csv")
        assert rows[rows["name"] == "loss"]["step"].tolist() == [10, 20]
        (end,) = rows[rows["name"] == "cls/NLL"]["value"]
        assert end == pytest.approx(results.loc[method, "cls/NLL"], rel=1e-5)


def test_tensorboard_reads_the_same(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    progress.choose(False, tmp_path)
    try:
        progress.record("run", {"accuracy": 0.5, "words": "left out"}, step=3)
    finally:
        progress.choose(False, None)
    events = accumulator.EventAccumulator(str(tmp_path / "run"))
    events.Reload()
    assert events.Tags()["scalars"] == ["accuracy"]
    assert [(event.step, event.value) for event in events.Scalars("accuracy")] == [(3, 0.5)]


def test_what_one_command_chose_does_not_hold_for_the_next(tmp_path, capsys):
    parser = Parser("What it is.")
    parser.add_usual("results/x")
    progress.choose(False, None)  # an earlier test's command may have chosen
    before = dict(os.environ)
    parser.parse_args(["--quiet", "--log", str(tmp_path)])
    assert progress.is_quiet()
    progress.say("unheard")
    parser.parse_args([])
    progress.say("heard")
    assert capsys.readouterr().err == "heard\n"
    assert dict(os.environ) == before
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_refused_at_once(tmp_path, capsys):
    (tmp_path / "file").touch()
    parser = Parser("What it is.", prog="script")
    parser.add_usual("results/x")
    with pytest.raises(SystemExit):
        parser.parse_args(["--log", str(tmp_path / "file" / "log")])
    said = capsys.readouterr().err
    assert said.startswith("script: error: --log: ")
    assert said.count("\n") == 1
