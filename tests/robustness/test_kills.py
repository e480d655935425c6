"""Kills, full disks, folders that cannot be written to, Ctrl-C: what is there before and after is whole."""

import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import topoprior as tp
from tests.robustness.tally import Tally
from topoprior.utils.files import CheckpointError

pytestmark = pytest.mark.slow
KILLS = 20
ROOT = Path(__file__).parents[2]
# Two priors by turns, over one folder, for ever; the number of the save tells which.
SAVES = """
import sys, topoprior as tp
priors = [tp.get_prior("klein-3x3"), tp.get_prior("circle-3x3")]
print("ready", flush=True)
while True:
    for prior in priors:
        prior.save_pretrained(sys.argv[1])
"""
TRAIN = [
    "train-prior",
    "--num",
    "100",
    "--covering",
    "euclidean",
    "--restarts",
    "2",
    "--epochs",
    "6",
    "--device",
    "cpu",
    "--quiet",
]


def _prior(folder):
    return (folder / "out" / "model.safetensors").read_bytes()


# Commands that resume: arguments after `python -m`, and what of their results has to be as without the kill (a
# FileNotFoundError where there is none yet). A job of another package is one more row.
RESUMED = {"train-prior": (["topoprior", *TRAIN, "--output", "out", "--checkpoint", "state"], _prior)}


def start(command, folder, limit=None):
    """``python ...`` in a folder; ``limit``: bytes that a file may have, as on a full disk."""

    def full():
        if limit is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return subprocess.Popen(
        [sys.executable, *command], cwd=folder, preexec_fn=full, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


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


@pytest.mark.parametrize("name", RESUMED)
def test_a_job_that_is_killed_goes_on_to_the_same_result(name, tmp_path):
    command, result = RESUMED[name]
    tally, rng = Tally(f"{name} killed"), random.Random(1)
    whole = tmp_path / "whole"
    whole.mkdir()
    began = time.monotonic()
    assert start(["-m", *command], whole).communicate()[1] == ""
    took = time.monotonic() - began
    expected = result(whole)
    for i in range(KILLS):
        folder = tmp_path / str(i)
        folder.mkdir()
        for share in (rng.uniform(0.3, 1.0), rng.uniform(0.3, 1.0), 20):  # killed twice, then left alone
            job = start(["-m", *command], folder)
            try:
                _, error = job.communicate(timeout=took * share)
                break
            except subprocess.TimeoutExpired:
                os.killpg(job.pid, signal.SIGKILL)
                job.communicate()
        try:
            same = job.returncode == 0 and result(folder) == expected
            tally.right() if same else tally.wrong(f"{i}: another result, {error}")
        except FileNotFoundError:
            tally.wrong(f"{i}: no result, {error}")
    tally.over()


def test_a_full_disk_leaves_what_was_there(tmp_path):
    """Files of at most so many bytes: an error of one line, the old prior whole, no file left over."""
    tally = Tally("a full disk")
    tp.get_prior("circle-3x3").save_pretrained(tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    commands = {
        "export": ["topoprior", "export", "klein-natural-3x3", "--output", "out", "--overwrite"],
        "train-prior": ["topoprior", *TRAIN, "--output", "out", "--overwrite", "--checkpoint", "state"],
    }
    for name, command in commands.items():
        for limit in (0, 1, 100, 500):
            job = start(["-m", *command], tmp_path, limit)
            _, error = job.communicate()
            left = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
            litter = list((tmp_path / "state").iterdir()) if (tmp_path / "state").exists() else []
            if job.returncode == 2 and error.count("\n") == 1 and left == before and not litter:
                tally.clear()
            else:
                tally.wrong(f"{name}, {limit}: {job.returncode}, {error}, {sorted(left)}, {litter}")
    tally.over()


def test_a_folder_that_cannot_be_written_to(tmp_path):
    """A read-only file system, /proc (permissions do not stop root): one line before the work."""
    tally = Tally("a read-only folder")
    for command in (
        ["export", "klein-3x3", "--output", "/proc/out"],
        [*TRAIN, "--output", "/proc/out"],
        [*TRAIN, "--output", "out", "--checkpoint", "/proc/state"],
        ["inspect", "klein-3x3", "--output", "/proc/out"],
        ["explore", "klein-3x3", "--output", "/proc/page.html"],
    ):
        job = start(["-m", "topoprior", *command], tmp_path)
        out, error = job.communicate()
        good = job.returncode == 2 and error.count("\n") == 1 and "/proc" in error and not out
        tally.clear() if good else tally.wrong(f"{command}: {job.returncode} {error}")
    assert not list(tmp_path.iterdir())
    tally.over()


def test_interrupted_by_the_keyboard(tmp_path):
    """Ctrl-C once the work has begun: one line, status 130, and the same command goes on."""
    tally = Tally("Ctrl-C")
    for i in range(5):
        folder = tmp_path / str(i)
        folder.mkdir()
        job = start(["-m", *RESUMED["train-prior"][0], "--epochs", "1000"], folder)
        until = time.monotonic() + 120
        while not list(folder.glob("state/restart-0*")) and time.monotonic() < until:
            time.sleep(0.05)
        os.killpg(job.pid, signal.SIGINT)
        out, error = job.communicate()
        good = job.returncode == 130 and error == "topoprior: interrupted\n" and not out
        tally.right() if good else tally.wrong(f"{job.returncode}: {error[-300:]}")
        assert not (folder / "out").exists()
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
