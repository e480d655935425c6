"""The sweep: resumption, data that changed, failures, hostile names, workers that end with it, backends, hardware."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch import nn

from experiments.common.store import Store
from experiments.priors import hardware, networks, report, sweep, training
from experiments.priors.grid import Job
from experiments.priors.hardware import Hardware
from experiments.priors.methods import get_method
from experiments.priors.training import Budget
from tests.experiments.priors.test_data import write_image

ROOT = Path(sweep.__file__).parents[2]
TINY = "--sizes 20 --steps 3 --samples 2 --batch-size 10 --test-size 20 --foreign-size 20 --starts own --temperatures 1 --jobs 1"
COMMAND = ["--datasets", "embedded", "--foreign", "embedded", *TINY.split()]


def test_sweep_resumes_and_never_computes_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = [*COMMAND, "--priors", "klein,deterministic", "--seeds", "2", "--output", str(tmp_path)]
    done: list[str] = []
    run_job = sweep.run_job

    def stop_at_third(job: Job, **rest: Any) -> Any:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(job.method)
        return run_job(job, **rest)

    monkeypatch.setattr(sweep, "run_job", stop_at_third)
    assert sweep.main(command) == 130
    first = {path: path.read_bytes() for path in (tmp_path / "runs").iterdir()}
    assert len(first) == 2

    damaged = min(first)
    damaged.write_bytes(first[damaged][:-20])
    monkeypatch.setattr(
        sweep, "run_job", lambda job, **rest: done.append(job.method) or run_job(job, **rest)
    )
    assert sweep.main(command) == 0
    assert len(done) == 2 + 3
    runs = list(Store(tmp_path / "runs"))
    assert len(runs) == 4
    again = [json.loads(text)["result"] for text in (first[damaged], damaged.read_bytes())]
    for run in again:
        del run["measures"]["train seconds"]
    assert again[0] == again[1]

    monkeypatch.setattr(sweep, "run_job", _must_not_run)
    assert sweep.main(command) == 0
    assert {"cls/Acc", "sc/AURC", "ood/AUROC", "ood/FPR95", "rotation-30 cls/NLL"} <= set(
        runs[0].result["measures"]
    )
    assert runs[0].config["train_size"] == 20
    assert "torch" in runs[0].versions
    assert all(str(tmp_path) not in json.dumps(run.config) for run in runs)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["arguments"]["seeds"] == 2


def _must_not_run(*args: object, **rest: object) -> None:
    raise AssertionError("computed again")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """12 images a class, of noise that tells cats from dogs."""
    folder = tmp_path / "images"
    for split in ("train", "test"):
        for label, name in enumerate(("cat", "dog")):
            for i in range(12):
                write_image(folder / split / name / f"{i}.png", 100 * label + i, (8, 8))
    return folder


@pytest.mark.parametrize("change", ["label", "pixels"])
def test_corrected_data_are_run_again(images: Path, tmp_path: Path, change: str) -> None:
    """The same command, another label or image in NAME=FOLDER: no old result is taken for the new one."""
    output = tmp_path / "out"
    command = ["--datasets", f"mine={images}", "--foreign", "none", *TINY.split(), "--priors", "gaussian"]
    command += ["--seeds", "1", "--output", str(output)]
    assert sweep.main(command) == 0
    (before,) = (output / "runs").iterdir()
    assert sweep.main(command) == 0
    assert [before] == list((output / "runs").iterdir())
    if change == "label":
        (images / "train/cat/3.png").rename(images / "train/dog/corrected.png")
    else:
        write_image(images / "train/cat/3.png", 200, (8, 8))
    assert sweep.main(command) == 0
    (after,) = (output / "runs").iterdir()  # the old one has made room
    assert after.name != before.name


def test_hostile_labels(images: Path, tmp_path: Path) -> None:
    for index, label in enumerate(("../../<script>alert(1)</script>|x", "a" * 300, ".hidden", "$\\frac$")):
        output = tmp_path / f"out{index}"
        command = [
            "--datasets",
            f"{label}={images}",
            "--foreign",
            "none",
            *TINY.split(),
            "--sizes",
            "10,20",
        ]
        command += ["--priors", "klein,gaussian", "--seeds", "1", "--output", str(output)]
        before = set(tmp_path.rglob("*"))
        assert sweep.main(command) == 0
        assert report.main([str(output)]) == 0
        written = set(tmp_path.rglob("*")) - before
        assert all(output in (path, *path.parents) and path.name[0] != "." for path in written)
        text = (output / "report.md").read_text()
        assert "<script" not in text
        for table in text.split("\n\n"):
            cells = {line.count("|") - line.count("\\|") for line in table.splitlines() if line[:1] == "|"}
            assert len(cells) <= 1, table
        assert "n = 10 | n = 20 |" in text


def test_a_sweep_without_data_fails_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out"
    with pytest.raises(SystemExit) as stopped:
        sweep.main(["--datasets", f"mine={tmp_path / 'nothing'}", *TINY.split(), "--output", str(output)])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not output.exists()


def test_a_failure_is_recorded_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*COMMAND, "--priors", "klein,gaussian", "--seeds", "1", "--output", str(tmp_path)]
    run_job = sweep.run_job

    def fail(job: Job, **rest: Any) -> Any:
        if job.method == "klein":
            raise RuntimeError("out of memory")
        return run_job(job, **rest)

    monkeypatch.setattr(sweep, "run_job", fail)
    assert sweep.main(command) == 1
    (failure,) = Store(tmp_path / "failures")
    assert failure.result["error"] == "RuntimeError: out of memory"
    assert "out of memory" in capsys.readouterr().err
    assert len(list((tmp_path / "runs").iterdir())) == 1
    monkeypatch.setattr(sweep, "run_job", run_job)
    assert sweep.main(command) == 0
    assert not list((tmp_path / "failures").iterdir())


def test_dry_run_names_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [
        *COMMAND,
        "--priors",
        "klein",
        "--seeds",
        "2",
        "--output",
        str(tmp_path / "out"),
        "--dry-run",
    ]
    assert sweep.main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert all(f"seed{seed}_" in line for seed, line in enumerate(lines))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("--priors kleine", "--priors kleine: choose from klein"),
        ("--starts mine", "--starts mine"),
        ("--temperatures cold", "positive number"),
        ("--device abacus", "not on this machine"),
        ("--precision 8", "--precision"),
        ("--warmup 2", "from 0 to 1"),
        ("--sizes few", "whole number"),
    ],
)
def test_errors_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: str, says: str
) -> None:
    with pytest.raises(SystemExit) as stopped:
        sweep.main([*COMMAND, "--output", str(tmp_path / "out"), *arguments.split()])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert says in error
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_workers_end_with_a_sweep_that_is_killed(tmp_path: Path, how: signal.Signals) -> None:
    long = ["--steps", "100000", "--priors", "klein,gaussian", "--seeds", "2", "--jobs", "2"]
    command = [sys.executable, "-m", "experiments.priors.sweep", *COMMAND, *long, "--output", str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as started:
        sweeping = psutil.Process(started.pid)
        workers: list[psutil.Process] = []
        deadline = time.monotonic() + 120
        while sum(w.cpu_times().user > 3 for w in workers) < 2 and time.monotonic() < deadline:
            time.sleep(0.5)
            workers = sweeping.children(recursive=True)
        assert len(workers) >= 2
        os.kill(started.pid, how)
        _, alive = psutil.wait_procs(workers, timeout=5)
        assert not alive


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["loky", "dask"])
def test_backends_agree(tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if backend == "dask":
        pytest.importorskip("distributed")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    command = [*COMMAND, "--priors", "klein,gaussian", "--seeds", "2"]
    assert sweep.main([*command, "--output", str(tmp_path / "one")]) == 0
    many = ["--jobs", "2", "--backend", backend, "--output", str(tmp_path / "many")]
    assert sweep.main([*command, *many]) == 0
    for one, other in zip(Store(tmp_path / "one/runs"), Store(tmp_path / "many/runs"), strict=True):
        for run in (one, other):
            del run.result["measures"]["train seconds"]
        assert one == other


# --- hardware ----------------------------------------------------------------------------------


def test_mixed_precision_on_the_cpu_is_near_full_precision() -> None:
    """Adam's steps are as long as the rate whatever the gradient, so a gradient near 0 may go the other way, and
    which ones do depends on the processor: all weights together are what rounding cannot move far."""

    def train(place: Hardware) -> nn.Module:
        images, labels = torch.randn(8, 1, 12, 12), torch.arange(8) % 2
        return training.train(
            get_method("deterministic"), images, labels, 2, Budget(3, 4), 0, place
        ).network

    torch.manual_seed(1)
    full = train(Hardware())
    torch.manual_seed(1)
    mixed = train(Hardware(precision="bfloat16"))
    torch.manual_seed(0)  # the seed of training
    start = networks.build(get_method("deterministic"), 1, 2, "compare")
    assert all(p.dtype == torch.float32 for p in mixed.parameters())
    ours, other, before = (nn.utils.parameters_to_vector(n.parameters()) for n in (mixed, full, start))
    assert 0 < (ours - other).norm() < 0.5 * (other - before).norm()  # 1.4 between unrelated directions


def test_hardware_says_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="--precision 8"):
        Hardware(precision="8").check()
    with pytest.raises(ValueError, match="not on this machine"):
        hardware.Hardware("abacus").check()
