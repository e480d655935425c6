"""experiments.priors.compare as its users run it: results, resumption, one line for every error."""

import json
import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import topoprior as tp
from experiments.common.store import Store
from experiments.priors import compare as compare_priors
from experiments.priors.grid import Job
from tests.experiments.priors.test_data import write_image

COMMAND = [sys.executable, "-m", "experiments.priors.compare"]
ANYWHERE = {**os.environ, "PYTHONPATH": str(Path(compare_priors.__file__).parents[2])}
TINY = ["--train-size", "40", "--test-size", "30", "--steps", "3", "--samples", "2", "--batch-size", "20"]
FILES = ["config.json", "forest.png", "kernels.png", "reliability.png", "report.md", "runs", "runs.csv"]


def test_end_to_end_and_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From any folder; the second time nothing is trained."""
    monkeypatch.delenv("PYTHONPATH", raising=False)
    command = [
        *COMMAND,
        *TINY,
        "--priors",
        "klein,gaussian",
        "--seeds",
        "1",
        "--output",
        "out",
    ]
    done = subprocess.run(command, cwd=tmp_path, env=ANYWHERE, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    out = tmp_path / "out"
    assert sorted(p.name for p in out.iterdir()) == FILES
    assert len(list((out / "runs").iterdir())) == 2
    assert "klein - gaussian" in done.stdout
    for method in ("klein", "gaussian"):
        assert any(line.startswith(method) for line in done.stdout.splitlines())

    results = pd.read_csv(out / "runs.csv")
    assert results["method"].tolist() == ["klein", "gaussian"]
    assert results["cls/Acc"].between(0, 1).all()
    config = json.loads((out / "config.json").read_text())
    assert config["arguments"]["train_size"] == 40
    assert config["versions"]["torch"] == metadata.version("torch")
    written = (out / "report.md").read_text()
    assert "![kernels](kernels.png)" in written
    assert (out / "kernels.png").read_bytes().startswith(b"\x89PNG")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(compare_priors, "run_job", _must_not_run)
    compare_priors.main(command[len(COMMAND) :])
    assert pd.read_csv(out / "runs.csv").equals(results)


def _must_not_run(*args: object, **rest: object) -> None:
    raise AssertionError("trained again")


def test_stopped_job_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*TINY, "--priors", "klein,gaussian", "--seeds", "2", "--output", str(tmp_path / "out")]
    trained: list[str] = []
    run_job = compare_priors.run_job

    def stop_at_third(job: Job, **rest: Any) -> dict[str, Any]:
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.append(job.method)
        return run_job(job, **rest)

    monkeypatch.setattr(compare_priors, "run_job", stop_at_third)
    assert compare_priors.main(command) == 130
    assert "resumes" in capsys.readouterr().err
    assert not (tmp_path / "out" / "report.md").exists()

    monkeypatch.setattr(
        compare_priors, "run_job", lambda job, **rest: trained.append(job.method) or run_job(job, **rest)
    )
    compare_priors.main(command)
    assert trained == ["klein", "gaussian", "klein", "gaussian"]

    trained.clear()
    compare_priors.main([*command, "--fresh"])
    assert len(trained) == 4
    trained.clear()
    compare_priors.main([*command, "--steps", "4"])
    assert len(trained) == 4


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Things that are wrong: a file for a folder, a damaged prior, an empty image folder."""
    (tmp_path / "file").write_text("x")
    prior = tp.DecoderPrior.from_pretrained("klein-3x3")
    prior.save_pretrained(tmp_path / "damaged")
    model = tmp_path / "damaged" / "model.safetensors"
    model.write_bytes(model.read_bytes()[:-7])
    (tmp_path / "empty").mkdir()
    (tmp_path / "images" / "train").mkdir(parents=True)
    (tmp_path / "images" / "test").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("--priors kleine", "did you mean"),
        ("--priors klein,,gaussian", "separated by commas"),
        ("--priors klein,klein", "different names"),
        ("--priors {}/damaged", "model.safetensors: damaged"),
        ("--priors {}/empty", "no model.safetensors"),
        ("--output {}/file/results", "cannot write"),
        ("--dataset {}/images", "no images"),
        ("--dataset {}/empty", "train/"),
        ("--dataset {}/missing", "no data set or folder"),
        ("--train-size 3000", "choose at most 2000"),
        ("--test-size 0", "at least 1"),
        ("--image-size 4", "--image-size 8 or more"),
        ("--device cuda:99", "--device auto"),
        ("--device abacus", "--device auto"),
        ("--seeds 0", "at least 1"),
        ("--seeds 1,1", "different whole numbers"),
        ("--seeds few", "whole number"),
        ("--seed -1", "whole number"),
        ("--steps 0", "at least 1"),
        ("--steps many", "at least 1"),
        ("--learning-rate nan", "positive"),
        ("--temperature -1", "positive"),
        ("--unknown", "unrecognized"),
    ],
)
def test_errors_are_one_line(
    folders: Path, capsys: pytest.CaptureFixture[str], arguments: str, says: str
) -> None:
    before = sorted(folders.rglob("*"))
    command = ["--output", str(folders / "out"), *arguments.format(folders).split()]
    with pytest.raises(SystemExit) as stopped:
        compare_priors.main(command)
    assert stopped.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.endswith("\n")
    assert says in captured.err
    assert sorted(folders.rglob("*")) == before


def test_error_of_the_script_itself(tmp_path: Path) -> None:
    command = [*COMMAND, "--priors", "nothing"]
    done = subprocess.run(command, cwd=tmp_path, env=ANYWHERE, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_write_error_keeps_finished_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(compare_priors, "write_results", full)
    with pytest.raises(SystemExit) as stopped:
        compare_priors.main([*TINY, "--priors", "gaussian", "--seeds", "1", "--output", str(out)])
    assert stopped.value.code == 2
    assert "No space left on device; free space" in capsys.readouterr().err
    assert len(list((out / "runs").iterdir())) == 1
    shutil.rmtree(out)


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        compare_priors.main(["--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    for option in ("--dataset", "--priors", "--seeds", "--temperature", "--output", "--fresh"):
        assert option in shown


def test_a_changed_prior_or_image_is_run_again(tmp_path: Path) -> None:
    """The folder of a prior and the folder of images keep their names; what is in them decides."""
    for split in ("train", "test"):
        for label, name in enumerate(("cat", "dog")):
            for i in range(5):
                write_image(tmp_path / "images" / split / name / f"{i}.png", 100 * label + i, (8, 8))
    prior = tmp_path / "prior"
    tp.DecoderPrior.from_pretrained("klein-3x3").save_pretrained(prior)
    command = ["--dataset", str(tmp_path / "images"), "--priors", str(prior), "--seeds", "1"]
    command += ["--output", str(tmp_path / "out"), "--steps", "2", "--samples", "2"]
    found, read = [], []
    for change in (
        lambda: None,
        lambda: tp.DecoderPrior.from_pretrained("torus-3x3").save_pretrained(prior),
        lambda: write_image(tmp_path / "images/train/cat/0.png", 200, (8, 8)),
    ):
        change()
        compare_priors.main(command)
        found.append({path.name for path in (tmp_path / "out/runs").iterdir()})
        (run,) = Store(tmp_path / "out/runs")
        read.append(run.result["images"])  # the images that were trained on, not those of the call before
    assert [len(names) for names in found] == [1, 1, 1]
    assert not found[0] & found[1]
    assert not found[1] & found[2]
    assert read[0] == read[1] != read[2]
