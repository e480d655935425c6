"""Kills, two at a time, Ctrl-C: a job goes on to the same result, and a reader sees whole files all the while."""

import itertools
import json
import os
import random
import signal
import time

import pandas as pd
import psutil
import pytest
import torch

import topoprior as tp
from experiments.common.store import Store
from tests.robustness.jobs import QUICK_TRAIN, Forked, start
from tests.robustness.tally import Tally
from topoprior.utils.files import CheckpointError

pytestmark = pytest.mark.slow
KILLS = 20
# Two priors by turns, over one folder, for ever; the number of the save tells which.
SAVES = """
import sys, topoprior as tp
priors = [tp.get_prior("klein-3x3"), tp.get_prior("circle-3x3")]
print("ready", flush=True)
while True:
    for prior in priors:
        prior.save_pretrained(sys.argv[1])
"""
TRAIN = [*QUICK_TRAIN, "--epochs", "20", "--output", "out", "--checkpoint", "state"]
_SMALL = (
    "--steps 3 --samples 2 --batch-size 10 --test-size 20 --priors klein,gaussian --seeds 2 --output out"
)
SWEEP = f"--datasets embedded --foreign embedded --sizes 20 --foreign-size 20 --starts own --temperatures 1 {_SMALL}"
SWEEP = [*SWEEP.split(), "--jobs", "1"]
COMPARE = f"--dataset embedded --train-size 20 {_SMALL}".split()


def _prior(folder):
    return (folder / "out" / "model.safetensors").read_bytes()


def _runs(folder):
    """What a sweep has stored, but how long it took."""
    found = {}
    for run in Store(folder / "out" / "runs"):
        del run.result["measures"]["train seconds"]
        found[json.dumps(run.config, sort_keys=True)] = run.result
    return found


def _table(folder):
    return _runs(folder), _untimed(folder / "out" / "runs.csv").to_csv()


def _untimed(path):
    """A table without what is never the same."""
    return pd.read_csv(path).drop(columns="train seconds")


# Module, arguments, and what of the results has to be as without the kill (FileNotFoundError where there is none yet).
JOBS = {
    "train-prior": ("topoprior.__main__", TRAIN, _prior),
    "sweep": ("experiments.priors.sweep", SWEEP, _runs),
    "compare": ("experiments.priors.compare", COMPARE, _table),
}


def damaged(folder, whole):
    """The files of a folder that are neither absent nor whole, by how the files of ``whole`` end."""
    found = []
    for path in (folder / "out").rglob("[!.]*"):
        try:
            data = path.read_bytes()
        except (FileNotFoundError, IsADirectoryError):
            continue
        try:
            if path.suffix == ".json":
                json.loads(data)
            elif path.suffix == ".safetensors":
                tp.get_prior(path.parent)
            elif path.suffix == ".csv":
                assert data.endswith(b"\n"), "cut off"
                pd.testing.assert_frame_equal(_untimed(path), _untimed(whole / path.relative_to(folder)))
            else:
                assert data[-8:] == (whole / path.relative_to(folder)).read_bytes()[-8:], "cut off"
        except Exception as error:
            found.append(f"{path}: {error!r}")
    return found


@pytest.fixture(scope="module", params=JOBS)
def job(request, tmp_path_factory):
    """A job, its whole result, the folder of that, and its seconds."""
    module, arguments, result = JOBS[request.param]
    whole = tmp_path_factory.mktemp("whole") / "whole"
    for _ in range(2):  # once more: the first includes the start of the process that forks
        began = time.monotonic()
        run = Forked(module, arguments, whole.with_name("again") if whole.exists() else whole)
        assert run.wait(200), "does not end"
        took = time.monotonic() - began
        assert run.status == 0, run.said.read_text()
    return request.param, module, arguments, result, result(whole), whole, took


def test_a_job_that_is_killed_beside_a_reader(job, tmp_path):
    """Killed twice, at any time, then left alone: the same result; every file, at any time, absent or whole."""
    name, module, arguments, result, expected, whole, took = job
    tally, reads, rng = Tally(f"{name} killed"), Tally(f"{name} killed, reads"), random.Random(1)
    kills = 0

    def read():
        for found in damaged(folder, whole):
            reads.wrong(found)
        reads.right()

    for attempt in itertools.count():  # a folder each: a run may also end before it is killed
        if kills >= KILLS:
            break
        folder = tmp_path / str(attempt)
        for seconds in (rng.uniform(0, took), rng.uniform(0, took), 200):
            run = Forked(module, arguments, folder)
            if run.wait(seconds, read):
                break
            run.kill()
            kills += 1
            read()
        try:
            same = run.status == 0 and result(folder) == expected
            tally.right() if same else tally.wrong(f"{kills}: another result, {run.said.read_text()}")
        except FileNotFoundError:
            tally.wrong(f"{kills}: no result, {run.said.read_text()}")
    print(f"\n{name}: {kills} kills")
    reads.over()
    tally.over()


def test_two_at_a_time_on_one_folder(job, tmp_path):
    """Both end well, with the one result, and so does one where the other is killed."""
    name, module, arguments, result, expected, whole, took = job
    if name == "train-prior":
        pytest.skip(
            "two trainings on one --checkpoint are one too many: each refuses what the other has written"
        )
    tally, rng = Tally(f"two of {name}"), random.Random(2)
    for i in range(10):
        folder = tmp_path / str(i)
        runs = [Forked(module, arguments, folder) for _ in range(2)]
        if i % 2:
            runs[0].wait(rng.uniform(0, took), lambda: damaged(folder, whole))  # noqa: B023 - called at once
            runs.pop(0).kill()
        ended = all(run.wait(200) and run.status == 0 for run in runs)
        good = ended and result(folder) == expected and not damaged(folder, whole)
        tally.right() if good else tally.wrong(f"{i}: {runs[-1].said.read_text()[-500:]}")
    tally.over()


def test_a_save_that_is_killed_beside_a_reader(tmp_path):
    """Every read, before and after each kill, is one of the two priors."""
    tally, rng = Tally("save_pretrained killed, with a reader"), random.Random(0)
    z = torch.rand(10, 2)
    expected = [tp.get_prior("klein-3x3").decode(z), tp.get_prior("circle-3x3").decode(z[:, :1])]
    tp.get_prior("klein-3x3").save_pretrained(tmp_path / "out")

    def read():
        try:
            prior = tp.DecoderPrior.from_pretrained(tmp_path / "out")
            which = int(prior.covering == tp.Circle())
            same = torch.equal(prior.decode(z[:, : prior.covering.dim]), expected[which])
            tally.right() if same else tally.wrong("a mixture of two saves")
        except Exception as error:
            tally.wrong(repr(error))

    for _ in range(KILLS):
        writer = start(["-c", SAVES, str(tmp_path / "out")], tmp_path)
        assert writer.stdout.readline() == "ready\n"
        until = time.monotonic() + rng.uniform(0.02, 0.4)
        while time.monotonic() < until:
            read()
        os.killpg(writer.pid, signal.SIGKILL)
        writer.communicate()
        read()
    tally.over()


def test_what_is_left_of_a_killed_first_save_loads(tmp_path):
    """Between the two files of the first save: the model alone is a checkpoint, the copy alone is not."""
    tp.get_prior("klein-3x3").save_pretrained(tmp_path)
    (tmp_path / "config.json").rename(tmp_path / "other")
    z = torch.rand(5, 2)
    assert torch.equal(tp.get_prior(tmp_path).decode(z), tp.get_prior("klein-3x3").decode(z))
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "other").rename(tmp_path / "config.json")
    with pytest.raises(CheckpointError, match="no model.safetensors"):
        tp.get_prior(tmp_path)


def test_interrupted_by_the_keyboard(tmp_path):
    """Ctrl-C once the work has begun: one line, status 130, and the same command goes on."""
    tally = Tally("Ctrl-C of train-prior")
    for i in range(5):
        folder = tmp_path / str(i)
        folder.mkdir()
        job = start(["-m", "topoprior", *TRAIN, "--epochs", "100000"], folder)
        until = time.monotonic() + 120
        while not list(folder.glob("state/restart-0*")) and time.monotonic() < until:
            time.sleep(0.05)
        os.killpg(job.pid, signal.SIGINT)
        out, error = job.communicate()
        good = job.returncode == 130 and error == "topoprior: interrupted\n" and not out
        tally.right() if good else tally.wrong(f"{job.returncode}: {error[-300:]}")
        assert not (folder / "out").exists()
    tally.over()


def test_a_sweep_of_two_processes_interrupted_by_the_keyboard(tmp_path):
    """As a terminal does it, to all processes at once: status 130, no traceback, no process left after 5 s."""
    tally = Tally("Ctrl-C of a sweep, --jobs 2")
    for i in range(3):
        command = [*SWEEP, "--jobs", "2", "--steps", "100000", "--output", str(tmp_path / str(i))]
        job = start(["-m", "experiments.priors.sweep", *command], tmp_path)
        sweeping, workers = psutil.Process(job.pid), []
        until = time.monotonic() + 120
        # At work: later than what imports take; the first also while they are imported.
        while sum(w.cpu_times().user > 2 * i for w in workers) < 2 and time.monotonic() < until:
            time.sleep(0.2)
            workers = sweeping.children(recursive=True)
        os.killpg(job.pid, signal.SIGINT)
        _, alive = psutil.wait_procs(workers, timeout=5)
        for process in alive:
            process.kill()
        _, error = job.communicate(timeout=30)
        good = not alive and job.returncode == 130 and "Traceback" not in error and "resumes" in error
        tally.right() if good else tally.wrong(f"{i}: {job.returncode}, alive {alive}, {error[-1500:]}")
    tally.over()
